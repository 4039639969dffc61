#!/usr/bin/env python3
"""Runs clang-tidy over the sources of a build that changed since they last passed.

Usage: clang_tidy.py --build DIR [--jobs N]
A source's state is the text of it and of all project headers it includes, its compile command,
.clang-tidy, and the tool's version; the states that passed are kept in the build folder.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import rules
import tidy

AREAS = ("lib/", "transport/", "tools/", "examples/")  # Test macros are not what it is for.


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    build = options.build.resolve()
    files = tidy.read_files(root)
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, text=True,
                             check=True).stdout
    common = version + (root / ".clang-tidy").read_text()
    states = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = os.path.relpath(pathlib.Path(entry["directory"], entry["file"]).resolve(), root)
        if path.startswith(AREAS) and path in files:
            text = [common, entry["command"]]
            text += [files[name] for name in rules.closure(path, files)]
            states[path] = hashlib.sha256("\0".join(text).encode()).hexdigest()
    cache_path = build / "clang-tidy-passed.json"
    cache = json.loads(cache_path.read_text()) if cache_path.exists() else {}
    stale = [path for path, state in states.items() if cache.get(path) != state]

    def run(path):
        return path, subprocess.run(
            ["clang-tidy", "--quiet", "-p", str(build), str(root / path)],
            capture_output=True, text=True, check=False)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for path, done in pool.map(run, stale):
            if done.returncode != 0:
                failed += 1
                states.pop(path)
                print(done.stdout or done.stderr)
    cache_path.write_text(json.dumps(states))
    print(f"clang-tidy: {len(stale)} sources read, {failed} with findings, "
          f"{len(states) + failed - len(stale)} unchanged")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
