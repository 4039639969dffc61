#!/usr/bin/env python3
"""All benchmarks, one after the other: transfers, the registry under load, differences of
chunks, planning, replicas that follow a trainer. The lab of shaped links, perf/lab, takes hours,
and is run from here only to see that it works."""

import argparse
import pathlib
import subprocess
import sys

PERF = pathlib.Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=PERF.parent / "build")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--csv", type=pathlib.Path, help="every sample of the transfers")
    options = parser.parse_args()
    transfer = [sys.executable, PERF / "transfer/transfer.py", options.build]
    load = [sys.executable, PERF / "registry_load/registry_load.py", options.build]
    delta = [options.build / "perf/delta/delta-bench"]
    plan = [options.build / "perf/plan/plan-bench"]
    loop = [sys.executable, PERF.parent / "examples/rl_loop/run.py", "--build", options.build]
    if options.quick:
        transfer.append("--quick")
        loop.append("--quick")
        load += ["--agents", "500", "--connections", "20", "--seconds", "1"]
        delta.append("1")
        plan.append("1")
    if options.csv:
        transfer += ["--csv", options.csv]
    print("# Transfers\n", flush=True)
    failed = subprocess.run(transfer, check=False).returncode != 0
    print("\n# The registry under load\n", flush=True)
    failed |= subprocess.run(load, check=False).returncode != 0
    print("\n# Differences of chunks\n", flush=True)
    failed |= subprocess.run(delta, check=False).returncode != 0
    print("\n# Planning\n", flush=True)
    failed |= subprocess.run(plan, check=False).returncode != 0
    print("\n# Replicas that follow a trainer\n", flush=True)
    failed |= subprocess.run(loop, check=False).returncode != 0
    if options.quick:
        print("\n# Fan-out in the lab\n", flush=True)
        lab = [sys.executable, PERF / "lab/lab.py", "--build", options.build, "--quick"]
        failed |= subprocess.run(lab, check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
