#!/usr/bin/env python3
"""Measures transfers of weightcast beside what this machine could do at best, in one run: every
round runs each cell once, so that all of them see the same load. Prints a table in Markdown.

Medians of all rounds, with the least and the greatest; a ratio is the median of the ratios that
each round had to its own baseline. 1 GB/s is 10^9 bytes/s."""

import argparse
import csv
import json
import os
import pathlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable, NamedTuple, Optional

MIB = 1 << 20
RUN_S_MAX = 300


class Skip(Exception):
    """Why a cell cannot be measured here."""


class Cell(NamedTuple):
    group: str
    name: str
    measure: Callable[[], float]  # GB/s
    baseline: Optional[str] = None  # name of a cell of the group
    aim: str = ""


def output_of(command, **options):
    try:
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=RUN_S_MAX, check=False,
                              **options)
    except subprocess.TimeoutExpired:
        raise Skip(f"{command[0]} took longer than {RUN_S_MAX} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Skip(f"{pathlib.Path(str(command[0])).name}: {last}")
    return done.stdout


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


# Servers of peers

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(port):
    """Without connecting, which a server that takes one connection would take for its client."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if os.path.exists(table):
            for line in pathlib.Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    return True
    return False


def with_server(server, client, port, **options):
    """The output of `client`, run while `server` listens on the port."""
    process = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               **options)
    try:
        deadline = time.monotonic() + 10
        while not is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Skip(f"{server[0]} does not listen")
            time.sleep(0.01)
        return output_of(client, **options)
    finally:
        process.kill()
        process.wait()


def need(tool):
    if not shutil.which(tool):
        raise Skip(f"{tool} is not installed")


def iperf3(congestion, total_bytes):
    need("iperf3")
    port = free_port()
    text = with_server(["iperf3", "-s", "-1", "-p", str(port)],
                       ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-C", congestion, "-J",
                        "-n", str(total_bytes)], port)
    return json.loads(text)["end"]["sum_received"]["bits_per_second"] / 8e9


def ucx_get(total_bytes):
    need("ucx_perftest")
    port = free_port()
    count = max(total_bytes // MIB, 1)
    environment = dict(os.environ, UCX_TLS="tcp", UCX_WARN_UNUSED_ENV_VARS="n")
    text = with_server(["ucx_perftest", "-p", str(port)],
                       ["ucx_perftest", "127.0.0.1", "-p", str(port), "-t", "ucp_get", "-s",
                        str(MIB), "-n", str(count), "-w", "50", "-f", "-v"], port, env=environment)
    for line in text.splitlines():
        fields = line.split(",")
        # iterations, 3 latencies, 2 bandwidths in MB/s of 2^20 bytes, 2 message rates
        if len(fields) >= 8 and fields[0].strip().isdigit():
            return float(fields[-3]) * MIB / 1e9
    raise Skip(f"ucx_perftest printed no result: {text.strip()[-200:]}")


# Cells

class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = options.build / "perf/transfer"

    def fabric(self, kind, *arguments, passes=1):
        region = self.options.bytes
        return last_json(output_of([self.folder / "fabric-bench", kind, "--region", region,
                                    "--bytes", region * passes, *arguments]))["gbytes_per_s"]

    def pull(self, *arguments):
        return last_json(output_of([self.folder / "pull-bench", "--bytes", self.options.bytes,
                                    *arguments]))["gbytes_per_s"]

    def pull_to_disk(self, source, target, *arguments):
        try:
            return self.pull("--from", source, "--to", target, *arguments)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def second(self, run, *arguments):
        """Of two runs. A virtual machine has to get memory that it did not use lately from its
        host, which takes several times as long as a copy: the first run gets it."""
        run(*arguments)
        return run(*arguments)

    def copy(self, source, target):
        size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
        begin = time.monotonic()
        output_of(["cp", "-r", "--reflink=never", source, target])
        elapsed_s = time.monotonic() - begin
        shutil.rmtree(target)
        return size / elapsed_s / 1e9


def memory_cells(bench):
    group = "memory to memory, one host"
    base = "memcpy, one thread, warm"
    return [
        Cell(group, base, lambda: bench.fabric("memcpy")),
        Cell(group, "shm", lambda: bench.fabric("shm"), base, "0.9"),
        Cell(group, "shm, verified", lambda: bench.fabric("shm", "--verify"), base),
        Cell(group, "shm, source without a memfd", lambda: bench.fabric("shm", "--private"), base),
        Cell(group, "whole pull over shm, into new memory",
             lambda: bench.second(bench.pull, "--fabric", "shm"), base),
    ]


def tcp_cells(bench, congestion, is_default):
    group = f"tcp, {congestion}" + (", the system's default" if is_default else "")
    base = "iperf3, 1 stream"
    passes = 4
    total = bench.options.bytes * passes

    def ours(*arguments):
        return bench.fabric("tcp", "--congestion", congestion, *arguments, passes=passes)

    cells = [
        Cell(group, base, lambda: iperf3(congestion, total)),
        Cell(group, "blocking sockets, bytes not in cache",
             lambda: bench.fabric("socket", "--congestion", congestion, passes=passes), base),
    ]
    if is_default:  # UCX cannot choose another
        cells += [Cell(group, "ucx_perftest ucp_get, 1 MiB", lambda: ucx_get(total // 4), base),
                  Cell(group, "our ucx fabric", lambda: bench.fabric("ucx"), base)]
    cells += [
        Cell(group, "tcp", ours, base, "0.95" if is_default else ""),
        Cell(group, "tcp, verified", lambda: ours("--verify"), base,
             "" if is_default else "0.7"),
    ]
    if is_default:
        cells.append(Cell(group, "whole pull over tcp, into new memory",
                          lambda: bench.second(bench.pull, "--fabric", "tcp"), base))
    return cells


def disk_cells(bench, folder):
    group = "directory to directory, page cache warm"
    base = "cp -r"
    source = folder / "source"
    return [
        Cell(group, base, lambda: bench.second(bench.copy, source, folder / "copy")),
        Cell(group, "whole pull over shm, verified",
             lambda: bench.second(bench.pull_to_disk, source, folder / "shm", "--fabric", "shm"),
             base),
        Cell(group, "whole pull over tcp, verified",
             lambda: bench.second(bench.pull_to_disk, source, folder / "tcp", "--fabric", "tcp"),
             base),
    ]


def make_source(folder, total_bytes):
    """Files of random bytes, written out so that no writeback disturbs the first round."""
    source = folder / "source"
    source.mkdir()
    for index in range(4):
        with open(source / f"part-{index}.bin", "wb") as file:
            left = total_bytes // 4
            while left > 0:
                left -= file.write(os.urandom(min(left, 16 * MIB)))
            file.flush()
            os.fsync(file.fileno())


# The run

def sysctl(name):
    return pathlib.Path("/proc/sys", *name.split(".")).read_text().strip()


def other_congestion(default):
    available = sysctl("net.ipv4.tcp_available_congestion_control").split()
    return next((name for name in ("reno", "cubic") if name in available and name != default),
                None)


def measure(cells, rounds):
    """Samples by (group, name), and the reasons of the cells that were skipped."""
    samples = {(cell.group, cell.name): [] for cell in cells}
    skipped = {}
    for number in range(rounds):
        for cell in cells:
            key = (cell.group, cell.name)
            if key in skipped:
                continue
            print(f"round {number + 1} of {rounds}: {cell.group}: {cell.name}", file=sys.stderr)
            try:
                samples[key].append(cell.measure())
            except Skip as reason:
                skipped[key] = str(reason)
    return samples, skipped


def ratio(samples, cell):
    """Median, least and greatest of the ratios to the baseline, round by round."""
    own = samples[(cell.group, cell.name)]
    base = samples.get((cell.group, cell.baseline), [])
    each = [a / b for a, b in zip(own, base)]
    return (statistics.median(each), min(each), max(each)) if each else None


def describe(options, load_before, load_after):
    return (f"Kernel {platform.release()}, {os.cpu_count()} cores, congestion control "
            f"{sysctl('net.ipv4.tcp_congestion_control')}, load average {load_before:.2f} before "
            f"and {load_after:.2f} after, {options.bytes // MIB} MiB, medians of "
            f"{options.rounds} (least to greatest).")


def print_tables(cells, samples, skipped):
    for group in dict.fromkeys(cell.group for cell in cells):
        print(f"\n## {group}\n\n| path | GB/s | of the first | aim |\n|---|---|---|---|")
        for cell in (cell for cell in cells if cell.group == group):
            key = (group, cell.name)
            if key in skipped:
                print(f"| {cell.name} | skipped: {skipped[key]} | | |")
                continue
            values = samples[key]
            row = f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
            against = ratio(samples, cell)
            share = "{:.2f} ({:.2f} to {:.2f})".format(*against) if against else ""
            print(f"| {cell.name} | {row} | {share} | {cell.aim} |")


def write_csv(path, cells, samples):
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["group", "path", "round", "gbytes_per_s"])
        for cell in cells:
            for number, value in enumerate(samples[(cell.group, cell.name)]):
                table.writerow([cell.group, cell.name, number + 1, f"{value:.4f}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=pathlib.Path, help="the build directory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of one copy of the weights")
    parser.add_argument("--quick", action="store_true", help="one round of 128 MiB")
    parser.add_argument("--only", choices=["memory", "tcp", "disk"], action="append")
    parser.add_argument("--disk", type=pathlib.Path, help="folder for the files (the build's)")
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="write every sample")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.bytes = 1, 128 * MIB
    if options.rounds < 1 or options.bytes < 16 * MIB or options.bytes % (16 * MIB):
        parser.error("at least one round, and a multiple of 16 MiB")
    wanted = options.only or ["memory", "tcp", "disk"]
    default = sysctl("net.ipv4.tcp_congestion_control")
    load_before = os.getloadavg()[0]
    bench = Bench(options)
    with tempfile.TemporaryDirectory(dir=options.disk or options.build, prefix="bench-") as made:
        folder = pathlib.Path(made)
        cells = memory_cells(bench) if "memory" in wanted else []
        if "tcp" in wanted:
            cells += tcp_cells(bench, default, True)
            if other_congestion(default):
                cells += tcp_cells(bench, other_congestion(default), False)
        if "disk" in wanted:
            make_source(folder, options.bytes)
            cells += disk_cells(bench, folder)
        samples, skipped = measure(cells, options.rounds)
    print(describe(options, load_before, os.getloadavg()[0]))
    print_tables(cells, samples, skipped)
    if options.csv:
        write_csv(options.csv, cells, samples)
    ours = [key for key in skipped if "iperf3" not in key[1] and "ucx" not in key[1]]
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())
