#!/usr/bin/env python3
"""Runs the tests that need RDMA devices in the guest of tests/rdma/vm.

Usage: run.py [--reduced] [--build DIR] [--sanitized DIR]
The contract suite over verbs and what only verbs has, then the system tests over verbs. --reduced
leaves most system tests out, and what fails is run once more in a new guest: an emulated processor
that stalls breaks queue pairs of rdma_rxe now and then, a defect of ours fails again. --sanitized
runs the first two again from a build folder with sanitizers. The last line is
"N passed, N failed, N skipped".
"""
import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests" / "kit"))
import tally  # noqa: E402

DEVICES = 8
SECONDS_MAX = 3000
CANNOT = 77  # tests/rdma/vm: there is no guest here
SITES = ("verbs", "verbs-out-of-band", "verbs-rails")
REDUCED = ("test_pull",)


def programs(build: pathlib.Path):
    """(name, command) of the test programs of a build folder."""
    tests = build / "tests" / "contract"
    for site in SITES:
        yield f"{build.name}: contract, {site}", [tests / "contract_test", "-c", site]
    yield f"{build.name}: verbs alone", [tests / "verbs_fabric_test"]


def jobs(options):
    yield from programs(options.build)
    if options.sanitized:
        yield from programs(options.sanitized)
    system = [sys.executable, ROOT / "tests" / "system" / "run.py", "--jobs", "1", "--tests",
              HERE / "system", "--bin", options.build / "tools"]
    yield "system", [*system, *(REDUCED if options.reduced else ())]


def run(name, command):
    """(passed, failed, skipped) of one program, whose output is handed on."""
    print(f"-- {name}", flush=True)
    output = []
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, encoding="utf-8",
                          stderr=subprocess.STDOUT, errors="replace") as process:
        for line in process.stdout:
            output.append(line)
            print(line, end="", flush=True)
    text = "".join(output)
    if told := tally.SUMMARY.findall(text):
        passed, failed, skipped = (int(number or 0) for number in told[-1])
    else:
        passed, failed, skipped = tally.count_output(text) or (0, 0, 0)
    return passed, failed if process.returncode == 0 else max(failed, 1), skipped


def in_guest(options) -> int:
    passed, failed, skipped = tally.add(run(*job) for job in jobs(options))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def boot(arguments) -> int:
    command = [HERE / "vm", "-n", str(DEVICES), "-T", str(SECONDS_MAX), sys.executable, __file__,
               "--in-guest", *arguments]
    return subprocess.run(list(map(str, command)), check=False).returncode


def on_host(options, arguments) -> int:
    status = boot(arguments)
    if status == CANNOT:
        print("0 passed, 0 failed, 1 skipped")
        return 0
    if status != 0 and options.reduced:
        print("-- again, in a new guest", flush=True)
        status = boot(arguments)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--sanitized", type=pathlib.Path)
    parser.add_argument("--in-guest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_guest:
        return in_guest(options)
    return on_host(options, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
