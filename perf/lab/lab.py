#!/usr/bin/env python3
"""Measures weightcast and its peers on the same work: host 0 has a file, all others are to have it,
over a network of namespaces with shaped links. Prints tables in Markdown.

The clock runs from the launch of the receivers until the last one has all bytes; then each copy is
compared. M is the file's size, R the rate of a host's link: no way of copying is faster than M/R,
and TCP's headers alone make 1.046 of it. README.md beside this file says what the columns mean."""

import argparse
import contextlib
import mmap
import os
import pathlib
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import report
import simulated
from network import HEADER_FLOOR, PREFIX, Network, Unavailable, take_lock
from peer import WEIGHTS, Failure, Job
from peers import PEERS

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MIB = 1 << 20
MEMORY = pathlib.Path("/dev/shm")
SAMPLE_S = 0.02  # Until all receivers have their first bytes;
SAMPLE_LATER_S = 0.1  # then processors are for others.
FIRST_BYTES = 64 << 10  # More than a receiver gets of anything but the file.
STALL_S = 40  # No receiver got anything for so long: it hangs.
STALL_BYTES = 256 << 10
CORES_MANY = 8
MADV_POPULATE_WRITE = 23  # Linux 5.14; Python's mmap does not have it.
WARM_AHEAD = 256 * MIB  # Of what the copies have got.
DEFAULT_PEERS = [name for name in PEERS if name not in ("chain-sorted", "weightcast-labels")]
DEFAULT_PEERS.insert(DEFAULT_PEERS.index("weightcast") + 1, simulated.NAME)


class Case:
    """A network, and what happens in it. `hosts` counts the publisher, but not the joiner."""

    def __init__(self, scenario, hosts, rate_mbit, racks=1, peers=None):
        self.scenario, self.hosts, self.rate_mbit = scenario, hosts, rate_mbit
        self.racks = racks
        self.victim = hosts // 2  # The one that dies, is cut off, or is slow.
        # Of weightcast. Small, since the links are slow: 64 KiB take 2.6 ms at 200 Mbit/s. Where
        # many hosts share few processors these are slower, and each chunk costs them.
        few = os.cpu_count() < CORES_MANY
        self.chunk_bytes = 65536 << (2 if few and hosts >= 64 else 1 if few and hosts >= 32 else 0)

    def network(self):
        return Network(self.hosts + (self.scenario == "joiner"), self.rate_mbit, self.racks)

    def order(self, seed):
        """The receivers in the order in which they start."""
        hosts = list(range(1, self.hosts))
        if self.scenario == "racks":
            random.Random(seed).shuffle(hosts)
        return hosts

    def least_s(self, total_bytes):
        return total_bytes * 8 / self.rate_mbit / 1e6


SCENARIOS = {
    "flat": ("a flat network of equals",
             [Case("flat", hosts, rate) for hosts, rate in
              ((4, 200), (8, 200), (16, 200), (32, 100), (64, 100))]),
    "kill": ("one receiver is killed at half of M/R", [Case("kill", 8, 200)]),
    "cable": ("one receiver's cable is pulled at half of M/R", [Case("cable", 8, 200)]),
    "joiner": ("one more receiver starts at half of M/R", [Case("joiner", 8, 200)]),
    "slow": ("one receiver's host has a quarter of the rate", [Case("slow", 8, 200)]),
    "racks": ("4 racks, each with an uplink of one host's rate; receivers start in random order",
              [Case("racks", 16, 200, racks=4)]),
}


class WarmMemory:
    """Memory for the copies, which a virtual machine may have to get from its host first: at 5 to
    11 us a page, when what the machine had was free for a while. So it is touched before a run and
    released as the copies grow."""

    def __init__(self, total_bytes):
        # Of small pages, since the system gives what is released in these at once to the next.
        self._memory = mmap.mmap(-1, total_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # A kernel without huge pages.
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self._memory.madvise(MADV_POPULATE_WRITE)
        self._released = 0
        self.release(0)

    def release(self, got_bytes):
        end = min(len(self._memory), (got_bytes + WARM_AHEAD) // MIB * MIB)
        if end > self._released:
            self._memory.madvise(mmap.MADV_DONTNEED, self._released, end - self._released)
            self._released = end

    def close(self):
        self._memory.close()


class Monitor(threading.Thread):
    """Notes when each receiver got its first bytes, and what all got, for which it releases
    memory."""

    def __init__(self, network, memory):
        super().__init__(daemon=True)
        self.network, self.memory = network, memory
        self.begin, self.uplinks = network.counters(), network.uplink_counters()
        self.first_at = {}
        self.now = self.begin
        self._ending = threading.Event()
        self.start()

    def run(self):
        while not self._ending.wait(
                SAMPLE_S if len(self.first_at) < self.network.hosts - 1 else SAMPLE_LATER_S):
            self.now, at = self.network.counters(), time.monotonic()
            self.memory.release(self.received(range(self.network.hosts)))
            for host, (now, before) in enumerate(zip(self.now, self.begin)):
                if host and host not in self.first_at and now[1] - before[1] >= FIRST_BYTES:
                    self.first_at[host] = at

    def received(self, hosts):
        return sum(self.now[host][1] - self.begin[host][1] for host in hosts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ending.set()
        self.join()
        self.now = self.network.counters()
        self.sent_by_publisher = self.now[0][0] - self.begin[0][0]
        # Of the racks without the publisher.
        self.into_racks = [after[1] - before[1] for after, before in
                           zip(self.network.uplink_counters(), self.uplinks)][1:]


class Run:
    """One peer does the job of one case once."""

    def __init__(self, bench, case, peer, number):
        self.bench, self.case, self.peer, self.number = bench, case, peer, number
        self.options = bench.options
        self.least_s = case.least_s(self.options.bytes)
        self.receivers, self.joiner, self.note = [], None, ""

    def measure(self):
        case = self.case
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.bench.folder, prefix="run-"))
        try:
            with case.network() as network:
                if case.scenario == "slow":
                    network.set_rate(case.victim, case.rate_mbit / 4)
                job = Job(network, self.bench.source, folder, case.chunk_bytes, self.options)
                try:
                    monitor = self._run(job, network)
                except Failure as reason:
                    return self._sample(note=str(reason))
                finally:
                    self._keep_logs(job)
            return self._judge(job, monitor)
        finally:
            shutil.rmtree(folder)

    def _run(self, job, network):
        self.peer.prepare(job)
        order = self.case.order(self.options.seed + self.number)
        self.receivers = self.peer.receivers(job, order)
        if self.case.scenario == "joiner" and self.peer.joins:
            self.joiner = self.peer.receiver(job, self.case.hosts)
        memory = WarmMemory(network.hosts * self.options.bytes)
        with contextlib.closing(memory), Monitor(network, memory) as monitor:
            self._transfer(network, monitor)
        return monitor

    def _transfer(self, network, monitor):
        self.begin = time.monotonic()
        for one in self.receivers:
            one.go()
        waiting = [one for one in [*self.receivers, self.joiner]
                   if one and not self._is_lost(one)]
        if self.case.scenario in ("kill", "cable", "joiner"):
            self._wait(waiting, monitor, self.begin + self.least_s / 2)
            self._interfere(network)
        self.note = self._wait(waiting, monitor,
                               self.begin + 1.5 * self.case.hosts * self.least_s + STALL_S)

    def _is_lost(self, one):
        return self.case.scenario in ("kill", "cable") and one.host == self.case.victim

    def _interfere(self, network):
        if self.case.scenario == "kill":
            next(one for one in self.receivers if self._is_lost(one)).kill()
        elif self.case.scenario == "cable":
            network.set_cable(self.case.victim, False)
        elif self.joiner:
            self.joiner.go()

    @staticmethod
    def _wait(waiting, monitor, until):
        """Waits until then, or until nothing more is to come; why it gave up, or ""."""
        got, moved_at = 0, time.monotonic()
        while not all(one.is_settled() for one in waiting):
            now = time.monotonic()
            unsettled = [one.host for one in waiting if not one.is_settled()]
            if monitor.received(unsettled) > got + STALL_BYTES:
                moved_at = now
            if now - moved_at > STALL_S:
                return "hangs"
            if now > until:
                return "too slow"
            if moved_at == now:
                got = monitor.received(unsettled)
            time.sleep(SAMPLE_S)
        return ""

    def _keep_logs(self, job):
        if self.options.logs:
            name = f"{self.case.scenario}-{self.case.hosts}-{self.peer.name}-{self.number}"
            shutil.copytree(job.logs, self.options.logs / name, dirs_exist_ok=True)

    def _sample(self, **values):
        return report.Sample(self.case, self.peer.name, self.number, self.options.bytes, values)

    def _judge(self, job, monitor):
        """Compares the copies, and makes a sample of the run."""
        expected = [one for one in self.receivers if not self._is_lost(one)]
        everybody = expected + ([self.joiner] if self.joiner else [])
        failed = [one for one in everybody if one.done_at is None]
        wrong = [one for one in everybody if one.done_at and not same(job.copy(one.host), job.file)]
        for one in wrong:
            one.done_at = None
        if wrong:
            self.note = f"{len(wrong)} wrong copies"
        elif failed and not self.note:
            self.note = next(filter(None, (one.program.last_message() for one in failed)),
                             "ends without a word")[:100]
        return self._sample(
            times_s=[one.done_at - self.begin for one in expected if one.done_at],
            receivers=len(expected), note=self.note, sent_bytes=monitor.sent_by_publisher,
            first_s=max((monitor.first_at[one.host] - self.begin for one in expected
                         if one.host in monitor.first_at), default=None),
            special=self._special(monitor))

    def _special(self, monitor):
        """What only this scenario has, over M/R or over M; None if there is nothing."""
        if self.case.scenario == "racks":
            return max(monitor.into_racks) / self.options.bytes
        if self.case.scenario == "slow":
            slow = next(one for one in self.receivers if one.host == self.case.victim)
            return (slow.done_at - self.begin) / self.least_s if slow.done_at else None
        if self.joiner and self.joiner.done_at:
            return (self.joiner.done_at - self.joiner.begun_at) / self.least_s
        return None


def same(copy, source):
    return subprocess.run(["cmp", "-s", copy, source], check=False).returncode == 0


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.source = folder / "source"
        self.source.mkdir()
        with open(self.source / WEIGHTS, "wb") as file:
            for _ in range(0, options.bytes, MIB):
                file.write(os.urandom(MIB))

    def measure(self, cases):
        """The samples of all cases, each round of a case by all its peers; {(who, why): None} of
        those that were skipped."""
        samples, skipped = [], {}
        for case in cases:
            for number in range(self.options.rounds):
                for name in self._peers(case):
                    if name == simulated.NAME:
                        samples.append(report.Sample(
                            case, name, number, self.options.bytes,
                            simulated.simulate(case, self.options, number)))
                        continue
                    reason = self._why_not(case, PEERS[name])
                    if reason:
                        skipped[(name, reason)] = None
                        continue
                    print(f"{case.scenario}, {case.hosts} hosts, round {number + 1} of "
                          f"{self.options.rounds}: {name}", file=sys.stderr, flush=True)
                    samples.append(Run(self, case, PEERS[name], number).measure())
                    print(f"    {samples[-1].describe()}", file=sys.stderr, flush=True)
        return samples, skipped

    def _peers(self, case):
        names = list(self.options.peers)
        if case.scenario == "racks":
            for name, other in (("chain", "chain-sorted"), ("weightcast", "weightcast-labels")):
                if name in names and other not in names:
                    names.insert(names.index(name) + 1, other)
        return names

    def _why_not(self, case, peer):
        if case.scenario == "joiner" and not peer.joins:
            return "nobody can join it later"
        needed = (case.hosts + 1) * self.options.bytes
        if shutil.disk_usage(MEMORY).free < needed:
            return f"{MEMORY} has no room for {case.hosts} copies of the file"
        return peer.missing(self.options)


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", type=pathlib.Path, default=ROOT / "build")
    add("--scenario", choices=SCENARIOS, action="append", help="may be repeated (all)")
    add("--peers", default=",".join(DEFAULT_PEERS), help=f"(%(default)s) of {', '.join(PEERS)}")
    add("--hosts", help="only the networks with so many hosts, for example 8,16")
    add("--rate", type=float, help="Mbit/s of a host's link, instead of the scenario's")
    add("--bytes", type=int, default=128 * MIB, help="of the file (%(default)s)")
    add("--rounds", type=int, default=3)
    add("--seed", type=int, default=1, help="of the random order in racks")
    add("--chunk-bytes", type=int,
        help="of weightcast (65536; on few cores 131072 with 32 hosts, 262144 with 64)")
    add("--serve-arguments", default="", metavar="ARGUMENTS", help="more for p2p-serve")
    add("--pull-arguments", default="", metavar="ARGUMENTS", help="more for p2p-pull")
    add("--labels", default="--label=rack={rack}", metavar="ARGUMENTS",
        help="of weightcast-labels, for p2p-serve and p2p-pull; {host} and {rack} are replaced")
    add("--csv", type=pathlib.Path, metavar="FILE", help="write every run")
    add("--plot", type=pathlib.Path, metavar="FILE", help="draw the results, as FILE.svg")
    add("--logs", type=pathlib.Path, metavar="FOLDER", help="keep what the programs print")
    add("--quick", action="store_true", help="4 hosts, 8 MiB, one round, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.scenario, options.hosts, options.rounds = ["flat"], "4", 1
        options.bytes, options.peers = 8 * MIB, "weightcast,chain"
    options.peers = options.peers.split(",")
    for name in options.peers:
        if name not in (*PEERS, simulated.NAME):
            parser.error(f"no peer {name}; there are {', '.join(PEERS)}, {simulated.NAME}")
    if options.rounds < 1 or options.bytes < MIB or options.bytes % MIB:
        parser.error("at least one round, and a multiple of 1 MiB")
    return options


def cases_of(options):
    cases = [case for name in options.scenario or SCENARIOS for case in SCENARIOS[name][1]]
    if options.hosts:
        wanted = [int(number) for number in options.hosts.split(",")]
        cases = [case for case in cases if case.hosts in wanted]
    for case in cases:
        case.rate_mbit = options.rate or case.rate_mbit
        case.chunk_bytes = options.chunk_bytes or case.chunk_bytes
    return cases


@contextlib.contextmanager
def working_folder():
    """In memory; what a killed lab left in it goes first. One lab of a name at a time."""
    folder = MEMORY / f"weightcast-{PREFIX}"
    with take_lock(f"{PREFIX}-bench"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def main():
    options = parse()
    cases = cases_of(options)
    load_before = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that all is cleared up.
    try:
        with Network(2, 100):
            pass
        with working_folder() as folder:
            samples, skipped = Bench(options, folder).measure(cases)
    except Unavailable as reason:
        print(f"skipped: {reason}")
        return 0
    print(f"Kernel {platform.release()}, {os.cpu_count()} cores, load average {load_before:.2f} "
          f"before and {os.getloadavg()[0]:.2f} after, M = {options.bytes // MIB} MiB, medians of "
          f"{options.rounds} (least to greatest). TCP's headers make {HEADER_FLOOR:.3f} M/R.")
    titles = {name: title for name, (title, _) in SCENARIOS.items()}
    for name, reason in skipped:
        print(f"Skipped: {name}: {reason}.")
    report.print_tables(titles, cases, samples)
    if options.csv:
        report.write_csv(options.csv, samples)
    if options.plot:
        print(report.plot(options.plot, samples))
    ours = [sample for sample in samples if sample.peer.startswith("weightcast")]
    return 1 if any(sample.note or not sample.is_complete() for sample in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
