#!/usr/bin/env python3
"""Counts what test runs report, and adds the counts up.

Usage:
  tally.py meson TESTLOG.json...  the tests of a meson run; the cases inside, where they are told
  tally.py lines LOG              the last line "N passed, N failed[, N skipped]" of a log
  tally.py total TALLY            adds up lines of "PASSED FAILED SKIPPED"; status 1 if any failed
The first two print one such line, and after it, with "! " before each, lines on what failed; total
repeats those, so that they stand at the end of a long output.
"""
import json
import re
import sys

CATCH_ALL = re.compile(r"All tests passed \(\d+ assertions? in (\d+) test cases?\)")
CATCH_SOME = re.compile(r"^test cases:\s*(\d+)(.*)$", re.MULTILINE)
UNITTEST = re.compile(r"^Ran (\d+) tests? in .*\n\nOK(?: \(skipped=(\d+)\))?", re.MULTILINE)
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", re.MULTILINE)
CATCH_FAILURE = re.compile(r"(?:^.*\n){0,8}^.*: FAILED:\n(?:^.*\n?){0,6}", re.MULTILINE)


def count_output(output: str):
    """(passed, failed, skipped) cases that a test program reports, or None if it reports none."""
    if match := CATCH_ALL.search(output):
        return int(match.group(1)), 0, 0
    if match := CATCH_SOME.search(output):
        counts = {word: int(number)
                  for number, word in re.findall(r"(\d+) (passed|failed|skipped)", match.group(2))}
        return counts.get("passed", 0), counts.get("failed", 0), counts.get("skipped", 0)
    if match := UNITTEST.search(output):
        skipped = int(match.group(2) or 0)
        return int(match.group(1)) - skipped, 0, skipped
    return None


def count_test(test: dict):
    """The counts of one test of meson's log. A program that failed counts as at least one."""
    result = test["result"]
    if result == "SKIP":
        return 0, 0, 1
    passed, failed, skipped = count_output(
        test.get("stdout", "") + "\n" + test.get("stderr", "")) or (0, 0, 0)
    if result in ("OK", "EXPECTEDFAIL"):
        return max(passed, 1 if skipped == 0 else 0), 0, skipped
    return passed, max(failed, 1), skipped


def add(counts):
    return tuple(map(sum, zip((0, 0, 0), *counts)))


def failure(test: dict):
    """Lines on why a test of meson's log failed: its failed checks, or the end of its output."""
    output = test.get("stdout", "") + "\n" + test.get("stderr", "")
    told = CATCH_FAILURE.findall(output) or ["\n".join(output.split("\n")[-20:])]
    return [f"{test['name']}: {test['result']}",
            *(line for text in told[:3] for line in text.split("\n") if line.strip())]


def meson(paths):
    """The counts of all tests in meson's logs, and lines on those that failed."""
    tests = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as log:
                tests += [json.loads(line) for line in log if line.strip()]
        except FileNotFoundError:  # No test was run, for example because the build failed.
            continue
    failed = [test for test in tests if test["result"] not in ("OK", "EXPECTEDFAIL", "SKIP")]
    return add(map(count_test, tests)), [line for test in failed for line in failure(test)]


def lines(path):
    """The counts that a log ends with, and its lines on what failed."""
    with open(path, encoding="utf-8", errors="replace") as log:
        text = log.read()
    found = SUMMARY.findall(text)
    counts = tuple(int(number or 0) for number in found[-1]) if found else (0, 0, 0)
    return counts, [line for line in text.split("\n") if line.startswith("FAIL")]


def told(counts, failures) -> str:
    return "\n".join([" ".join(map(str, counts)), *("! " + line for line in failures)])


def total(path) -> int:
    with open(path, encoding="utf-8") as tally:
        entries = tally.read().splitlines()
    print("".join(entry[2:] + "\n" for entry in entries if entry.startswith("! ")), end="")
    passed, failed, skipped = add(
        tuple(map(int, entry.split())) for entry in entries if not entry.startswith("! "))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


def main(arguments) -> int:
    match arguments:
        case ["meson", *paths]:
            print(told(*meson(paths)))
        case ["lines", path]:
            print(told(*lines(path)))
        case ["total", path]:
            return total(path)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
