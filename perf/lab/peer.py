"""What a system must tell of itself for the lab: how it is prepared and how its receivers begin."""

import contextlib
import pathlib
import subprocess
import threading
import time

WEIGHTS = "weights.bin"
READY_S_MAX = 60


class Failure(Exception):
    """Why a peer did not even begin."""


class Job:
    """One run: a network, the publisher's folder with the file, a folder for copies and logs."""

    def __init__(self, network, source, folder, chunk_bytes, options):
        self.network, self.source, self.folder = network, source, folder
        self.chunk_bytes, self.options = chunk_bytes, options
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
    """A program in a host. It begins with go(), which ends the wait of a shell, or is a line on the
    standard input of a program that reads it itself. `loaded` says that it waits for that, having
    printed a line. What the program prints goes to `take`, line by line, and to a log, its
    messages only to the log."""

    def __init__(self, job, host, command, take=lambda line: None, ended=lambda status: None,
                 reads_go=False):
        self.name = pathlib.Path(str(command[0])).name
        self._log = job.logs / f"h{host}-{self.name}"
        self._take, self._ended = take, ended
        self.loaded = threading.Event()
        self._reads_go = reads_go
        with open(f"{self._log}.err", "w", encoding="utf-8") as messages:
            self._process = subprocess.Popen(
                job.network.command(host, command, not reads_go), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=messages, text=True, errors="replace")
        threading.Thread(target=self._collect, daemon=True).start()

    def go(self):
        with contextlib.suppress(BrokenPipeError), self._process.stdin as gate:  # It may be dead.
            gate.write("\n")

    def _collect(self):
        with open(f"{self._log}.out", "w", buffering=1, encoding="utf-8") as log:
            for line in self._process.stdout:
                of_shell = not self._reads_go and not self.loaded.is_set()
                self.loaded.set()
                if not of_shell:
                    self._take(line)
                    log.write(line)
        self._ended(self._process.wait())

    def kill(self):
        self._process.kill()

    def is_running(self):
        return self._process.poll() is None

    def last_message(self):
        """The last line with words that it wrote of what goes wrong, or ""."""
        lines = pathlib.Path(f"{self._log}.err").read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if any(map(str.isalpha, line))), "")


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


def wait_until(condition, programs, what):
    """Polls until it holds; programs that it depends on must go on running."""
    deadline = time.monotonic() + READY_S_MAX
    while not condition():
        for program in programs:
            if not program.is_running():
                raise Failure(f"{program.name} ended: {program.last_message()}")
        if time.monotonic() > deadline:
            raise Failure(f"not {what} after {READY_S_MAX} s")
        time.sleep(0.01)


def server(job, host, command, is_ready=None, reads_go=False):
    """Runs a program of the publisher; waits for a line that `is_ready` takes."""
    ready = threading.Event()
    program = Program(job, host, command,
                      lambda line: ready.set() if is_ready and is_ready(line) else None,
                      reads_go=reads_go)
    program.go()
    if is_ready:
        wait_until(ready.is_set, [program], "ready")
    return program


def wait_until_loaded(receivers, *programs):
    """`programs` are what they depend on."""
    wait_until(lambda: all(one.program.loaded.is_set() for one in receivers),
               [*programs, *(one.program for one in receivers)], "loaded")


def receiver(job, host, command, says_done=None, reads_go=False):
    """A receiver that has all bytes with a line that `says_done` takes, else with its success."""
    one = Receiver(host)

    def take(line):
        if says_done and says_done(line):
            one.done()
    one.program = Program(job, host, command, take,
                          lambda status: one.ended(status, says_done is None), reads_go)
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
        found = [self.receiver(job, host) for host in hosts]
        wait_until_loaded(found)
        return found

    def receiver(self, job, host):
        raise NotImplementedError
