#!/usr/bin/env python3
"""The demonstration that ./dev demo runs: one publisher, eight receivers, one of them killed.

Usage: demo.py [--bin DIR] [--seed N] [--bytes N] [--rate N]
Publishes a real model and a generated checkpoint; receivers start at random moments, one is killed
with SIGKILL midway and started again. Every copy is compared with the source by SHA-256. Exit
status 1 if one differs or the publisher sent four times the size or more.
"""
import argparse
import os
import pathlib
import random
import shutil
import signal
import sys
import time

import kit
import model_package

RECEIVERS = 8
EGRESS_MAX = 4.0
CACHE = kit.ROOT / "build" / "demo"
GENERATED_BYTES = 1 << 30
SPARE_BYTES = 1 << 30
SMALL_BYTES = 1 << 29
START_SECONDS_MAX = 2.0
COPY_SECONDS_MIN = 3  # A small model would be there before the next receiver starts: it is slowed.
PUBLISHER = "publisher"


class Receiver:
    """One p2p-pull --serve, and what its attempts told."""

    def __init__(self, name: str, url: str, model: str, out: pathlib.Path):
        self.name, self.url, self.model, self.out = name, url, model, out
        self.done = self.program = None
        self.resumed = False
        self.seconds = 0.0

    def start(self):
        self.started = time.monotonic()
        self.program = kit.Program("p2p-pull", self.url, self.model, "-o", self.out, "--serve",
                                   "--json", "--name", self.name, "--take-over")

    def restart(self):
        self.program.kill()
        self.seconds += time.monotonic() - self.started
        self.resumed = True
        self.start()

    def wait(self):
        self.done = self.program.wait_event("done", seconds=600)
        self.seconds += self.done["seconds"]

    def from_publisher(self) -> int:
        return sum(holder["bytes"] for holder in self.done["holders"]
                   if holder["peer"] == PUBLISHER)


class Show:
    """One model: published, pulled by all, compared."""

    def __init__(self, label: str, source: pathlib.Path, rate: int, numbers: random.Random):
        self.label, self.source, self.numbers = label, source, numbers
        self.copies = CACHE / "copies"
        shutil.rmtree(self.copies, ignore_errors=True)
        self.copies.mkdir(parents=True)
        limit = () if rate == 0 else ("--serve-rate-max", rate)
        self.rate = rate
        self.server = kit.Program("p2p-serve", source, "--model", label, "--listen", "127.0.0.1:0",
                                  "--name", PUBLISHER, "--json", *limit)
        self.ready = self.server.wait_event("ready", seconds=600)
        self.receivers = [Receiver(f"receiver{i + 1}", self.ready["registry"], label,
                                   self.copies / f"copy{i + 1}") for i in range(RECEIVERS)]
        self.lost_bytes = 0

    def start_all(self):
        """Starts the receivers, each at a random moment."""
        moments = sorted((self.numbers.uniform(0, START_SECONDS_MAX), i) for i in range(RECEIVERS))
        begin = time.monotonic()
        for moment, i in moments:
            time.sleep(max(0.0, begin + moment - time.monotonic()))
            self.receivers[i].start()
        told = ", ".join(f"{self.receivers[i].name} {moment:.2f}" for moment, i in moments)
        print(f"  started at (s): {told}", flush=True)

    def kill_one(self):
        """Kills the receiver that started last when half of its bytes are there."""
        victim = max(self.receivers, key=lambda receiver: receiver.started)
        event = victim.program.wait_any(
            lambda line: line["event"] == "done" or line["bytes_done"] * 2 >= line["bytes_total"],
            "half of the bytes", 600)
        share = 1.0 if event["event"] == "done" else event["bytes_done"] / event["bytes_total"]
        victim.restart()
        self.lost_bytes = int(share * self.ready["bytes"])
        print(f"  killed {victim.name} at {share:.0%} of its bytes, and started it again",
              flush=True)

    def table(self) -> float:
        """Prints what each receiver read, and returns the publisher's egress in sizes."""
        size, egress = self.ready["bytes"], 0
        print(f"  {'receiver':10} {'seconds':>8} {'bytes read':>14} {'publisher':>10} "
              f"{'peers':>7}  resumed")
        for receiver in self.receivers:
            read, sent = receiver.done["bytes_read"], receiver.from_publisher()
            egress += sent
            share = 100 * sent / read if read else 0.0
            print(f"  {receiver.name:10} {receiver.seconds:8.2f} {read:14,} {share:8.1f} % "
                  f"{100 - share if read else 0.0:5.1f} %  {'yes' if receiver.resumed else ''}")
        # What the killed attempt had read is in no report; at worst it all came from the publisher.
        ratio = (egress + self.lost_bytes) / size
        print(f"  the publisher sent {egress / size:.2f} times the size, at most {ratio:.2f} with "
              f"what the killed receiver had read; {RECEIVERS} copies of {size:,} bytes")
        return ratio

    def compare(self) -> bool:
        wanted, same = kit.tree(self.source), True
        for receiver in self.receivers:
            if kit.tree(receiver.out) != wanted:
                print(f"  {receiver.out} DIFFERS from {self.source}")
                same = False
        if same:
            print(f"  all {RECEIVERS} copies are byte-identical (SHA-256 of {len(wanted)} files)")
        return same

    def run(self) -> bool:
        cap = f", publisher capped at {self.rate / 1e6:.0f} MB/s" if self.rate else ""
        print(f"{self.label}: {self.ready['bytes']:,} bytes from {self.source}{cap}", flush=True)
        self.start_all()
        self.kill_one()
        for receiver in self.receivers:
            receiver.wait()
        ratio, same = self.table(), self.compare()
        if ratio >= EGRESS_MAX:
            print(f"  that is too much: the limit is {EGRESS_MAX:.0f}")
        return same and ratio < EGRESS_MAX

    def close(self):
        for receiver in self.receivers:
            if receiver.program is not None:
                receiver.program.kill()
        self.server.kill()
        shutil.rmtree(self.copies, ignore_errors=True)


def show(label: str, source: pathlib.Path, rate: int | None, numbers: random.Random) -> bool:
    if rate is None:
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        rate = size // COPY_SECONDS_MIN if size < SMALL_BYTES else 0
    demonstration = Show(label, source, rate, numbers)
    try:
        return demonstration.run()
    finally:
        demonstration.close()
        print(flush=True)


def generated(wanted: int) -> pathlib.Path:
    """The generated checkpoint, smaller than wanted if the disk has no room for all copies."""
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(CACHE / "copies", ignore_errors=True)
    size = wanted
    while True:
        target = CACHE / f"generated-{size}"
        copies = RECEIVERS + (0 if target.is_dir() else 1)
        if shutil.disk_usage(CACHE).free > copies * size + SPARE_BYTES or size <= 1 << 26:
            break
        size //= 2
    if size != wanted:
        print(f"the disk has no room for {RECEIVERS} copies of {wanted:,} bytes: "
              f"the checkpoint has {size:,}")
    if not target.is_dir():
        shutil.rmtree(CACHE / "unfinished", ignore_errors=True)
        kit.checkpoint.write_checkpoint(CACHE / "unfinished", size, 4)
        (CACHE / "unfinished").rename(target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--bytes", type=int, default=GENERATED_BYTES, help="to generate")
    parser.add_argument("--rate", type=int, help="publisher's cap in bytes/s, 0: none")
    options = parser.parse_args()
    if options.bin is not None:
        os.environ["WEIGHTCAST_BIN"] = str(options.bin.resolve())
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    print(f"seed {options.seed}: repeat with ./dev demo --seed {options.seed}")
    numbers, good = random.Random(options.seed), True
    try:
        model = model_package.model_directory(kit.ROOT / "build" / "models")
    except model_package.Unavailable as reason:
        print(f"no real model here, only the generated one is shown: {reason}\n")
    else:
        good = show(model.name, model, options.rate, numbers)
    good = show("generated", generated(options.bytes), options.rate, numbers) and good
    print("demo: all is well" if good else "demo: FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
