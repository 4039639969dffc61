"""How each system does the same job: host 0 has a file, and all others are to have it.

A peer is prepared before the clock starts: what a publisher would have running. Then all receivers
begin at once. Whoever is missing here says why."""

import json
import pathlib
import shlex
import shutil
import subprocess
import threading
import time

WEIGHTS = "weights.bin"
MODEL = "lab"
REGISTRY_PORT = 7070
READY_S_MAX = 60


class Job:
    """One run: a network, the publisher's folder with the file, a folder for copies and logs."""

    def __init__(self, network, source, folder, options):
        self.network, self.source, self.folder, self.options = network, source, folder, options
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)

    @property
    def file(self):
        return self.source / WEIGHTS

    def copy(self, host):
        """Where a receiver leaves its copy."""
        return self.folder / f"h{host}" / WEIGHTS

    def folder_of(self, host):
        folder = self.folder / f"h{host}"
        folder.mkdir(exist_ok=True)
        return folder


class Program:
    """A program in a host. It begins with go(); what it prints goes to `take`, line by line, and to
    a log, its messages only to the log."""

    def __init__(self, job, host, command, take=lambda line: None, ended=lambda status: None):
        self.name = pathlib.Path(str(command[0])).name
        self._log = job.logs / f"h{host}-{self.name}"
        self._take, self._ended = take, ended
        with open(f"{self._log}.err", "w", encoding="utf-8") as messages:
            self._process = subprocess.Popen(
                job.network.command(host, command, gated=True), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=messages, text=True, errors="replace")
        threading.Thread(target=self._collect, daemon=True).start()

    def go(self):
        with self._process.stdin as gate:
            gate.write("\n")

    def _collect(self):
        with open(f"{self._log}.out", "w", buffering=1, encoding="utf-8") as log:
            for line in self._process.stdout:
                self._take(line)
                log.write(line)
        self._ended(self._process.wait())

    def kill(self):
        self._process.kill()

    def is_running(self):
        return self._process.poll() is None

    def last_message(self):
        text = pathlib.Path(f"{self._log}.err").read_text(errors="replace").strip()
        return text.splitlines()[-1] if text else "no message"


class Receiver:
    """A host that is to have the file. Times are of the steady clock, None until they are."""

    def __init__(self, host):
        self.host = host
        self.begun_at = self.done_at = self.ended_at = None
        self.program = None

    def go(self):
        self.begun_at = time.monotonic()
        self.program.go()

    def done(self):
        self.done_at = self.done_at or time.monotonic()

    def ended(self, status, done_if_zero):
        if done_if_zero and status == 0:
            self.done()
        self.ended_at = time.monotonic()

    def is_settled(self):
        return self.done_at is not None or self.ended_at is not None

    def kill(self):
        self.program.kill()


def server(job, host, command, is_ready=None):
    """Runs a program of the publisher; waits for a line that `is_ready` takes."""
    ready = threading.Event()
    program = Program(job, host, command,
                      lambda line: ready.set() if is_ready and is_ready(line) else None)
    program.go()
    deadline = time.monotonic() + READY_S_MAX
    while is_ready and not ready.wait(0.05):
        if not program.is_running() or time.monotonic() > deadline:
            raise RuntimeError(f"{program.name} is not ready: {program.last_message()}")
    return program


def receiver(job, host, command, says_done=None):
    """A receiver that has all bytes with a line that `says_done` takes, else with its success."""
    one = Receiver(host)
    one.program = Program(job, host, command,
                          lambda line: one.done() if says_done and says_done(line) else None,
                          lambda status: one.ended(status, says_done is None))
    return one


class Peer:
    """`joins` is whether a receiver can begin later than the others."""

    name = ""
    joins = True

    def missing(self, options):
        """Why it cannot run here, or None."""

    def prepare(self, job):
        """Starts what runs before the clock."""

    def receivers(self, job, hosts):
        """Receivers that are there and not begun, in the order in which they will be."""
        return [self.receiver(job, host) for host in hosts]

    def receiver(self, job, host):
        raise NotImplementedError


class Weightcast(Peer):
    name = "weightcast"

    def missing(self, options):
        program = options.build / "tools" / "p2p-pull"
        return None if program.exists() else f"{program} is not built"

    def labels(self, job, host):
        """Arguments that tell the program where its host is: none, unless a scenario has them."""
        return []

    def _common(self, job, host):
        return ["--listen", job.network.address(host), "--name", f"h{host}", "--json",
                *self.labels(job, host)]

    def prepare(self, job):
        common = self._common(job, 0)
        common[1] += f":{REGISTRY_PORT}"
        server(job, 0, [job.options.build / "tools" / "p2p-serve", job.source, "--model", MODEL,
                        *common, *shlex.split(job.options.serve_arguments)],
               lambda line: json.loads(line)["event"] == "ready")

    def receiver(self, job, host):
        url = f"http://{job.network.address(0)}:{REGISTRY_PORT}"
        rate = round(job.network.rate_mbit * 1e6 / 8)
        command = [job.options.build / "tools" / "p2p-pull", url, MODEL, "-o",
                   job.copy(host).parent, "--serve", "--link-rate-max", rate,
                   *self._common(job, host), *shlex.split(job.options.pull_arguments)]
        return receiver(job, host, command, lambda line: json.loads(line)["event"] == "done")


class WeightcastLabelled(Weightcast):
    """The same, with arguments by host: --labels, in which {host} and {rack} are replaced."""

    name = "weightcast-labels"

    def missing(self, options):
        return super().missing(options) or (None if options.labels else "no --labels were given")

    def labels(self, job, host):
        return [word.format(host=host, rack=job.network.rack(host))
                for word in shlex.split(job.options.labels)]


class Chain(Peer):
    name = "chain"
    joins = False

    def missing(self, options):
        program = options.build / "perf" / "lab" / "lab-chain"
        return None if program.exists() else f"{program} is not built"

    def receivers(self, job, hosts):
        program = job.options.build / "perf" / "lab" / "lab-chain"
        addresses = [job.network.address(host) for host in hosts]
        # It tries to connect until the first relay, which has not begun, listens.
        server(job, 0, [program, "source", job.file, addresses[0]])
        found = []
        for host, after in zip(hosts, [*addresses[1:], None]):
            copy = job.folder_of(host) / WEIGHTS
            role = ["relay", copy, after] if after else ["tail", copy]
            found.append(receiver(job, host, [program, *role]))
        return found


class ChainSorted(Chain):
    """In the order of the hosts' numbers: in racks, somebody has laid the chain by hand."""

    name = "chain-sorted"

    def receivers(self, job, hosts):
        return super().receivers(job, sorted(hosts))


PEERS = {peer.name: peer for peer in (Weightcast(), WeightcastLabelled(), Chain(), ChainSorted())}
