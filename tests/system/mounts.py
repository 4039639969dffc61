"""Small file systems of their own, for tests of full disks. They need root."""
import errno
import os
import pathlib
import subprocess
import unittest


def mounted(test: unittest.TestCase, folder: pathlib.Path, size: int) -> pathlib.Path:
    """Mounts a file system of `size` bytes for the time of the test, or skips the test."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("only root may mount a small file system")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise unittest.SkipTest(f"no small file system here: {done.stderr.strip()}")
    test.addCleanup(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
    return folder


def resize(folder: pathlib.Path, size: int):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def fill(path: pathlib.Path):
    """Writes a file until its file system has no room."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
