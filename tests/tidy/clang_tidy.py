#!/usr/bin/env python3
"""Runs clang-tidy over the sources of a build that changed since they last passed.

Usage: clang_tidy.py --build DIR [--jobs N]
A unit is what one compile command reads: a source, or several in a unity build, which takes a
quarter of the time. A unit's state is the text of its sources and of all project headers they
include, the command, .clang-tidy, and the tool's version; the states that passed are kept in the
build folder.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import rules
import tidy

AREAS = ("lib/", "transport/", "tools/", "examples/")  # Test macros are not what it is for.


UNITY_INCLUDE = re.compile(r"^#include<(.+)>$", re.MULTILINE)


def sources_of(entry: dict, root: pathlib.Path) -> list:
    """The sources that this compile command reads, relative to the root of the project."""
    unit = pathlib.Path(entry["directory"], entry["file"]).resolve()
    paths = [unit]
    if "-unity" in unit.name:
        paths = [pathlib.Path(path) for path in UNITY_INCLUDE.findall(unit.read_text())]
    return [os.path.relpath(path.resolve(), root) for path in paths]


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
        sources = sources_of(entry, root)
        if not all(path.startswith(AREAS) and path in files for path in sources):
            continue
        read = {name for path in sources for name in rules.closure(path, files)}
        text = [common, entry["command"], *(files[name] for name in sorted(read))]
        unit = pathlib.Path(entry["directory"], entry["file"]).resolve()
        states[str(unit)] = hashlib.sha256("\0".join(text).encode()).hexdigest()
    cache_path = build / "clang-tidy-passed.json"
    cache = json.loads(cache_path.read_text()) if cache_path.exists() else {}
    stale = [unit for unit, state in states.items() if cache.get(unit) != state]

    def run(unit):
        return unit, subprocess.run(
            ["clang-tidy", "--quiet", "-p", str(build), unit],
            capture_output=True, text=True, check=False)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for unit, done in pool.map(run, stale):
            if done.returncode != 0:
                failed += 1
                states.pop(unit)
                print(done.stdout or done.stderr)
    cache_path.write_text(json.dumps(states))
    print(f"clang-tidy: {len(stale)} units read, {failed} with findings, "
          f"{len(states) + failed - len(stale)} unchanged")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
