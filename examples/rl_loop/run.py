#!/usr/bin/env python3
"""Runs the loop of rl_loop.cpp: one trainer that changes a share of its weights each step, replicas
that follow it and read all the time. Prints a table in Markdown; times are medians over all steps
but the first two, with the least and the greatest. Ends with status 1 if any read was torn."""

import argparse
import json
import pathlib
import queue
import statistics
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEP_S_MAX = 120


class Process:
    """A program whose events are JSON lines. It ends when its standard input does."""

    def __init__(self, *command):
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def event(self, name):
        while (event := self.lines.get(timeout=STEP_S_MAX)) is not None:
            if name in (None, event.get("event", name)):
                return event
        raise RuntimeError(f"{self.process.args[0]} ended with status {self.process.wait()}")

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        self.process.stdin.close()


class Loop:
    def __init__(self, options, share, pattern, mode, deltas):
        self.options, self.processes = options, []
        meta = self.start(options.build / "tools/p2p-meta", "--listen", "127.0.0.1:0", "--json")
        url = meta.event("ready")["registry"]
        program = options.build / "examples/rl_loop"
        self.trainer = self.start(program, "trainer", url, options.bytes, share, pattern,
                                  *(["deltas"] if deltas else []))
        self.replicas = [self.start(program, "replica", url, f"replica{i}", mode)
                         for i in range(options.replicas)]
        for process in (self.trainer, *self.replicas):
            process.event("ready")

    def start(self, *command):
        self.processes.append(Process(*command))
        return self.processes[-1]

    def step(self):
        """(event of the publish, events of the flips) once all replicas have flipped."""
        self.trainer.step()
        published = self.trainer.event("published")
        flips = []
        for replica in self.replicas:
            while (flip := replica.event("flip"))["generation"] < published["generation"]:
                continue
            flips.append(flip)
        return published, flips

    def end(self):
        """What the readers saw."""
        self.trainer.end()
        for replica in self.replicas:
            replica.end()
        return [replica.event("done") for replica in self.replicas]

    def kill(self):
        for process in self.processes:
            process.process.kill()
            process.process.wait()


def spread(values, scale=1.0, digits=1):
    return (f"{statistics.median(values) * scale:.{digits}f} ({min(values) * scale:.{digits}f} to "
            f"{max(values) * scale:.{digits}f})")


def measure(options, share, pattern, mode, deltas):
    loop = Loop(options, share, pattern, mode, deltas)
    try:
        first, _ = loop.step(), loop.step()  # Each takes a slot's memory into use.
        steps = [loop.step() for _ in range(options.steps)]
        seen = loop.end()
    finally:
        loop.kill()
    def flip_time(published, flips):
        return (max(flip["ns"] for flip in flips) - published["start_ns"]) / 1e6
    flip_ms = [flip_time(*step) for step in steps]
    of_first = statistics.median(flip_ms) / flip_time(*first)
    publish_ms = [(published["end_ns"] - published["start_ns"]) / 1e6 for published, _ in steps]
    moved = [flip["bytes_read"] / published["bytes"] for published, flips in steps
             for flip in flips]
    without_ms = [flip["flip_ns"] / 1e6 for _, flips in steps for flip in flips]
    reads = sum(one["reads"] for one in seen)
    torn = sum(one["torn"] + one["backwards"] for one in seen)
    longest = [max(one[f"{what}_ns_max"] for one in seen) / 1e3
               for what in ("acquire_cpu", "acquire", "control")]
    print(f"| {100 * share:g} % {pattern}{', deltas' if deltas else ''} | {mode} | "
          f"{spread(publish_ms)} | {spread(flip_ms)} | {of_first:.2f} | "
          f"{spread(moved, 100)} | "
          f"{spread(without_ms) if mode == 'in-place' else '0'} | "
          f"{' / '.join(f'{value:.0f}' for value in longest)} | {torn} of {reads} |", flush=True)
    return torn == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--bytes", type=int, default=256 << 20)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    options = parser.parse_args()
    cases = [(share, pattern, "two-slots", deltas)
             for pattern, deltas in (("rows", False), ("scattered", False), ("scattered", True))
             for share in (0.01, 0.1, 1.0)]
    cases += [(0.1, "rows", "in-place", False), (0.01, "scattered", "in-place", True)]
    if options.quick:
        options.replicas, options.bytes, options.steps = 2, 16 << 20, 2
        cases = [(0.1, "rows", "two-slots", False), (0.01, "scattered", "in-place", True)]
    print(f"{options.replicas} replicas on this host, {options.bytes >> 20} MiB of BF16, "
          f"{options.steps} steps.\n")
    print("| changed | replicas | publish, ms | publish to last flip, ms | of the first pull | "
          "bytes moved to each replica, % | readers without a version, ms | "
          "longest acquire(), us: own time / with what the system did meanwhile / nothing, with "
          "that | torn or older reads |")
    print("|---|---|---|---|---|---|---|---|---|")
    whole = [measure(options, *case) for case in cases]
    return 0 if all(whole) else 1


if __name__ == "__main__":
    sys.exit(main())
