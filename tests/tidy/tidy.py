#!/usr/bin/env python3
"""Checks the house rules over the whole tree: include arrows, sizes, words, headers, man pages.

Usage: tidy.py [--build DIR] [--cxx COMMAND]
With --build, headers are also compiled on their own, with the include paths of that build; what
compiled before with the same text is not compiled again. Exit status 1 if a rule is broken.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import rules

TEXT_SUFFIXES = (".h", ".cpp", ".py", ".md", ".build", ".txt", ".yaml", ".json", ".1", ".wrap",
                 ".supp", ".sh")
TEXT_NAMES = ("dev", ".ci/run")
HEADER_SECONDS_MAX = 120


def list_files(root: pathlib.Path) -> list:
    """Tracked and new files that git does not ignore; every file where there is no git."""
    done = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"],
                          capture_output=True, text=True, check=False)
    if done.returncode == 0 and (root / ".git").exists():
        return [path for path in done.stdout.splitlines() if (root / path).is_file()]
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(("build", ".git"))]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return found


def read_files(root: pathlib.Path) -> dict:
    return {path: (root / path).read_text(encoding="utf-8")
            for path in list_files(root)
            if path.endswith(TEXT_SUFFIXES) or path in TEXT_NAMES}


def include_flags(build: pathlib.Path) -> list:
    """Every include directory that some target of the build uses, absolute, in a stable order."""
    flags = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        for index, word in enumerate(words):
            for option in ("-I", "-isystem"):
                if word == option:
                    value = words[index + 1]
                elif word.startswith(option) and len(word) > len(option):
                    value = word[len(option):]
                else:
                    continue
                flags[f"-I{pathlib.Path(entry['directory'], value).resolve()}"] = None
    return list(flags)


def compile_header(command: list, root: pathlib.Path, path: str) -> str:
    """The compiler's complaint about a source that includes only this header, or ''."""
    source = f'#include "{root / path}"\n'
    done = subprocess.run(command + ["-x", "c++", "-fsyntax-only", "-"], input=source, cwd=root,
                          capture_output=True, text=True, check=False, timeout=HEADER_SECONDS_MAX)
    return done.stderr if done.returncode != 0 else ""


def check_headers(root: pathlib.Path, files: dict, build: pathlib.Path, cxx: str) -> list:
    command = shlex.split(cxx)
    if not command or not shutil.which(command[0]):
        print(f"headers: skipped, no compiler {cxx!r}")
        return []
    command += ["-std=c++20", f"-I{root / 'lib'}", f"-I{root / 'lib/include'}", f"-I{root}"]
    command += include_flags(build)
    cache_path = build / "tidy-headers.json"
    cache = json.loads(cache_path.read_text()) if cache_path.exists() else {}
    keys = {}
    for path in files:
        if path.endswith(".h"):
            text = "\0".join([*command, *(files[name] for name in rules.closure(path, files))])
            keys[path] = hashlib.sha256(text.encode()).hexdigest()
    stale = [path for path, key in keys.items() if cache.get(path) != key]
    findings = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        complaints = pool.map(lambda path: compile_header(command, root, path), stale)
        for path, complaint in zip(stale, complaints):
            if complaint:
                findings.append(rules.Finding(path, 1, "not self-contained:\n" + complaint))
                keys.pop(path)
    cache_path.write_text(json.dumps(keys))
    print(f"headers: {len(stale)} compiled, {len(keys) + len(findings) - len(stale)} unchanged")
    return findings


def lint_man_pages(root: pathlib.Path, files: dict) -> list:
    pages = [path for path in files if path.startswith("docs/man/") and path.endswith(".1")]
    if not shutil.which("mandoc"):
        print("man pages: skipped, no mandoc")
        return []
    findings = []
    for page in pages:
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(root / page)],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            findings.append(rules.Finding(page, 1, "mandoc: " + done.stdout + done.stderr))
    print(f"man pages: {len(pages)} read")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[2])
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--cxx", default="c++")
    options = parser.parse_args()
    root = options.root.resolve()
    files = read_files(root)
    findings = list(rules.check_all(files)) + lint_man_pages(root, files)
    if options.build:
        findings += check_headers(root, files, options.build.resolve(), options.cxx)
    for finding in findings:
        print(finding)
    print(f"{len(files)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
