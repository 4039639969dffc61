#!/usr/bin/env python3
"""Measures pulls over RDMA verbs beside ib_read_bw between the same two devices, in one run: every
round runs each cell once. Then kills a holder, or cuts its cable, in the middle of a pull, and
takes the longest time without progress. Prints tables in Markdown.

With --guest all of it runs in the guest of tests/rdma/vm, with software devices; without, on this
host's devices, the first of which serves and the second of which reads."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "perf" / "transfer"))
from transfer import (Cell, MIB, Skip, last_json, make_source, measure, need,  # noqa: E402
                      output_of, print_tables)

GUEST_DEVICES = 3
PERFTEST_PORT = 18515


def devices():
    folder = pathlib.Path("/sys/class/infiniband")
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def address_of(device):
    """The IPv4 address of the network interface of a RoCE device."""
    ports = pathlib.Path("/sys/class/infiniband", device, "ports/1/gid_attrs/ndevs")
    for entry in sorted(ports.iterdir()):
        try:
            interface = entry.read_text().strip()
        except OSError:
            continue  # An empty entry of the table.
        told = json.loads(output_of(["ip", "-j", "-4", "address", "show", "dev", interface]))
        for info in (info for link in told for info in link.get("addr_info", [])):
            return info["local"]
    raise Skip(f"{device} has no IPv4 address")


class Bench:
    def __init__(self, options):
        self.options = options
        self.server, self.reader = devices()[:2]
        self.programs = options.build / "perf" / "transfer"

    def ib_read_bw(self):
        need("ib_read_bw")
        count = max(self.options.bytes // MIB, 10)
        common = ["ib_read_bw", "-F", "-s", str(MIB), "-n", str(count), "-p", str(PERFTEST_PORT)]
        server = subprocess.Popen([*common, "-d", self.server], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            self._wait_for_port(server)
            text = output_of([*common, "-d", self.reader, address_of(self.server)])
        finally:
            server.kill()
            server.wait()
        for line in text.splitlines():
            fields = line.split()
            if fields and fields[0] == str(MIB):
                return float(fields[3]) * MIB / 1e9
        raise Skip("ib_read_bw printed no result")

    @staticmethod
    def _wait_for_port(server):
        wanted = f":{PERFTEST_PORT:04X}"
        for _ in range(1000):
            if server.poll() is not None:
                raise Skip("ib_read_bw does not start")
            tables = (pathlib.Path(p).read_text() for p in ("/proc/net/tcp", "/proc/net/tcp6"))
            rows = (line.split() for table in tables for line in table.splitlines()[1:])
            if any(row[1].endswith(wanted) and row[3] == "0A" for row in rows):
                return
            time.sleep(0.01)
        raise Skip("ib_read_bw does not listen")

    def _on_devices(self):
        return ["--device", self.reader, "--holder-device", self.server]

    def fabric(self, *arguments):
        total = self.options.bytes
        return last_json(output_of([self.programs / "fabric-bench", "verbs", "--region", total,
                                    "--bytes", total, *self._on_devices(),
                                    *arguments]))["gbytes_per_s"]

    def pull(self, *arguments):
        return last_json(output_of([self.programs / "pull-bench", "--bytes", self.options.bytes,
                                    "--fabric", "verbs", *self._on_devices(),
                                    *arguments]))["gbytes_per_s"]

    def pull_files(self, source, target):
        try:
            return self.pull("--from", source, "--to", target)
        finally:
            shutil.rmtree(target, ignore_errors=True)


def cells_of(bench, folder):
    group, base = "one holder, one reader", "ib_read_bw, 1 MiB"
    source = folder / "source"
    return [
        Cell(group, base, bench.ib_read_bw),
        Cell(group, "verbs, memory to memory", bench.fabric, base, "0.95"),
        Cell(group, "the same, every byte verified", lambda: bench.fabric("--verify"), base,
             "0.85"),
        Cell(group, "whole pull, memory to new memory", bench.pull, base),
        Cell(group, "whole pull, files to files",
             lambda: bench.pull_files(source, folder / "copy"), base),
    ]


class Loss:
    """A pull from two holders, one of which is lost in the middle."""

    def __init__(self, options, folder, lose):
        self.tools = options.build / "tools"
        self.folder = folder
        self.lose = lose
        self.running = []

    def start(self, name, *arguments):
        process = subprocess.Popen([str(self.tools / name), *map(str, arguments), "--json"],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.running.append(process)
        return process

    def seconds_without_progress(self):
        try:
            return self._run()
        finally:
            for process in self.running:
                process.kill()
                process.wait()
            shutil.rmtree(self.folder / "copy", ignore_errors=True)

    def _run(self):
        first, reader, second = (address_of(device) for device in devices()[:3])
        meta = self.start("p2p-meta", "--listen", "127.0.0.1:0")
        url = json.loads(meta.stdout.readline())["registry"]
        holders = []
        for address in (first, second):
            holders.append(self.start("p2p-serve", self.folder / "source", "--model", "m",
                                      "--registry", url, "--listen", address, "--fabric",
                                      "verbs"))
            holders[-1].stdout.readline()  # Says that it is ready.
        pull = self.start("p2p-pull", url, "m", "-o", self.folder / "copy", "--fabric", "verbs",
                          "--listen", reader)
        lost, last, last_bytes, longest = False, time.monotonic(), 0, 0.0
        for line in pull.stdout:
            event, now = json.loads(line), time.monotonic()
            done = event["event"] == "done"
            if lost and (done or event["bytes_done"] > last_bytes):
                longest, last = max(longest, now - last), now
            if done:
                return longest
            last_bytes = event["bytes_done"]
            if not lost and last_bytes > 0.3 * event["bytes_total"]:
                self.lose(holders[0])
                lost, last = True, time.monotonic()
        raise Skip("the pull did not finish")


def kill(holder):
    holder.send_signal(signal.SIGKILL)


def cut(_):
    """Drops all that the first host of the guest sends or receives; its port stays up."""
    for interface in ("p0", "r0"):
        subprocess.run(["tc", "qdisc", "add", "dev", interface, "root", "netem", "loss", "100%"],
                       check=True)


def mend():
    for interface in ("p0", "r0"):
        subprocess.run(["tc", "qdisc", "del", "dev", interface, "root"], check=False,
                       stderr=subprocess.DEVNULL)


def measure_losses(options, folder):
    print("\n## one of two holders is lost in the middle of a pull\n")
    print("| how | longest time without progress, s (told five times a second) | aim |")
    print("|---|---|---|")
    losses = [("SIGKILL", kill)]
    if options.in_guest:
        losses.append(("all its packets are dropped", cut))
    for name, lose in losses:
        seconds = []
        for _ in range(options.rounds):
            seconds.append(Loss(options, folder, lose).seconds_without_progress())
            mend()
        print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to "
              f"{max(seconds):.2f}) | below 1 |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=128 * MIB, help="of one copy of the weights")
    parser.add_argument("--guest", action="store_true", help="in the guest of tests/rdma/vm")
    parser.add_argument("--in-guest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or options.bytes < 16 * MIB or options.bytes % (16 * MIB):
        parser.error("at least one round, and a multiple of 16 MiB")
    if options.guest:
        command = [ROOT / "tests" / "rdma" / "vm", "-n", GUEST_DEVICES, "-m", 6144, "-T", 3000,
                   sys.executable, __file__, "--in-guest", "--build", options.build.resolve(),
                   "--rounds", options.rounds, "--bytes", options.bytes]
        return subprocess.run(list(map(str, command)), check=False).returncode
    if len(devices()) < 2:
        print("two RDMA devices are needed; --guest makes some", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="rdma-bench-") as made:
        folder = pathlib.Path(made)
        make_source(folder, options.bytes)
        cells = cells_of(Bench(options), folder)
        samples, skipped = measure(cells, options.rounds)
        print(f"Kernel {os.uname().release}, {os.cpu_count()} cores, "
              f"{'software devices in a guest, ' if options.in_guest else ''}"
              f"{options.bytes // MIB} MiB, medians of {options.rounds} (least to greatest).")
        print_tables(cells, samples, skipped)
        if len(devices()) > 2:
            measure_losses(options, folder)
    return 1 if any("ib_read_bw" not in name for _, name in skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
