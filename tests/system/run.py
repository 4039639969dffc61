#!/usr/bin/env python3
"""Runs the system tests, which start the real programs.

Usage: run.py [--bin DIR] [--tests DIR] [--jobs N] [--list] [NAME...]
NAME selects the tests whose name contains it. The last line is "N passed, N failed, N skipped".
"""
import argparse
import concurrent.futures
import os
import pathlib
import signal
import sys
import threading
import time
import unittest

import kit

PROGRAMS = ("p2p-serve", "p2p-pull", "p2p-ls", "p2p-meta", "p2p-doctor", "p2p-plan",
            "p2p-channel")


class Result(unittest.TestResult):
    """The outcome of one test, with what its programs said at the moment it failed."""

    def __init__(self):
        super().__init__()
        self.programs = []

    def _keep(self, test):
        if hasattr(test, "evidence") and not self.programs:
            self.programs = [test.evidence()]

    def addError(self, test, err):
        super().addError(test, err)
        self._keep(test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._keep(test)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._keep(test)


def flatten(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def short(test) -> str:
    return ".".join(test.id().split(".")[-2:])


class Report:
    def __init__(self):
        self.lock = threading.Lock()
        self.passed = self.failed = self.skipped = 0

    def run(self, test):
        result, start = Result(), time.monotonic()
        test.run(result)
        seconds = time.monotonic() - start
        with self.lock:
            troubles = [text for _, text in result.errors + result.failures]
            troubles += [f"{short(test)} was expected to fail"] * len(result.unexpectedSuccesses)
            if troubles:
                self.failed += 1
                print(f"FAIL  {short(test)}  ({seconds:.1f} s)", flush=True)
                print("\n".join([*troubles, *result.programs]), flush=True)
            elif result.skipped:
                self.skipped += 1
                print(f"skip  {short(test)}: {result.skipped[0][1]}", flush=True)
            else:
                self.passed += 1
                print(f"ok    {short(test)}  ({seconds:.1f} s)", flush=True)


def stop(number, _):
    sys.exit(128 + number)


def main() -> int:
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--tests", type=pathlib.Path, default=here,
                        help="folder of the tests (default: this script's)")
    parser.add_argument("--jobs", type=int, default=2, help="tests that run at a time")
    parser.add_argument("--list", action="store_true", help="print the names only")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    if options.bin is not None:
        os.environ["WEIGHTCAST_BIN"] = str(options.bin.resolve())
    signal.signal(signal.SIGTERM, stop)
    folder = str(options.tests.resolve())
    sys.path.insert(0, folder)  # Before this script's, whose files may have the same names.
    tests = list(flatten(unittest.TestLoader().discover(folder, "test_*.py", folder)))
    if options.names:
        tests = [test for test in tests if any(name in test.id() for name in options.names)]
    if options.list:
        print("\n".join(short(test) for test in tests))
        return 0
    missing = [name for name in PROGRAMS if not (kit.programs_folder() / name).is_file()]
    if missing:
        print(f"{', '.join(missing)} not found in {kit.programs_folder()}; build first "
              "(./dev build), or name another folder with --bin", file=sys.stderr)
        return 1
    report = Report()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(report.run, tests))
    print(f"{report.passed} passed, {report.failed} failed, {report.skipped} skipped")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
