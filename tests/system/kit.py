"""What the system tests share: the programs as processes, their events, checkpoints, trees.

Nothing waits by sleeping for a guessed time: a test waits for an event of a program, for its end,
or, where no event exists, polls a condition. Each wait has a deadline that only a failure reaches.
"""
import atexit
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "kit"))
import checkpoint  # noqa: E402

DEADLINE_SECONDS = 60
POLL_SECONDS = 0.02
MB = 1_000_000


def programs_folder() -> pathlib.Path:
    return pathlib.Path(os.environ.get("WEIGHTCAST_BIN", ROOT / "build" / "tools"))


class Program:
    """A running program in a process group of its own; its events and messages are collected.

    `wrap` is a command that runs the program, given as its last arguments, in its own place.
    """

    alive = set()

    def __init__(self, name: str, *arguments, environment=None, wrap=()):
        self.name = name
        self.command = [*wrap, str(programs_folder() / name), *map(str, arguments)]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", errors="replace", start_new_session=True,
            env={**os.environ, **(environment or {})})
        Program.alive.add(self)
        self.changed = threading.Condition()
        self.lines, self.messages, self.streams_open = [], [], 2
        for stream, target in ((self.process.stdout, self.lines),
                               (self.process.stderr, self.messages)):
            threading.Thread(target=self._collect, args=(stream, target), daemon=True).start()

    def _collect(self, stream, target):
        with stream:
            for line in stream:
                with self.changed:
                    target.append(line.rstrip("\n"))
                    self.changed.notify_all()
        with self.changed:
            self.streams_open -= 1
            self.changed.notify_all()

    def wait_for(self, find, what: str, seconds: float = DEADLINE_SECONDS):
        """The first result of `find()` that is not None. Fails when the program ends without it."""
        end = time.monotonic() + seconds
        with self.changed:
            while (found := find()) is None:
                if self.streams_open == 0:
                    raise AssertionError(f"{self.name} ended without {what}\n{self.evidence()}")
                if time.monotonic() > end:
                    raise AssertionError(
                        f"{self.name}: no {what} within {seconds} s\n{self.evidence()}")
                self.changed.wait(end - time.monotonic())
            return found

    def events(self):
        return [json.loads(line) for line in self.lines]

    def wait_any(self, accept, what: str, seconds: float = DEADLINE_SECONDS):
        """The first event that `accept` takes."""
        seen = 0

        def find():
            nonlocal seen
            while seen < len(self.lines):
                line = json.loads(self.lines[seen])
                seen += 1
                if accept(line):
                    return line
            return None
        return self.wait_for(find, what, seconds)

    def wait_event(self, event: str, seconds: float = DEADLINE_SECONDS):
        return self.wait_any(lambda line: line["event"] == event, f"event {event}", seconds)

    def wait_progress(self, share: float, seconds: float = DEADLINE_SECONDS):
        """Waits until this share of the bytes is verified."""
        return self.wait_any(lambda event: event["event"] == "progress" and
                             event["bytes_done"] >= share * event["bytes_total"],
                             f"progress of {share}", seconds)

    def wait_message(self, text: str, seconds: float = DEADLINE_SECONDS):
        return self.wait_for(lambda: next((m for m in self.messages if text in m), None),
                             f"message with {text!r}", seconds)

    def wait_end(self, seconds: float = DEADLINE_SECONDS) -> int:
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self.name} still runs after {seconds} s\n"
                                 f"{self.evidence()}") from error
        with self.changed:
            self.changed.wait_for(lambda: self.streams_open == 0, seconds)
        Program.alive.discard(self)
        return status

    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait_end()

    def stop(self) -> int:
        """Asks it to end, as an operator does, and returns its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait_end()

    def stderr(self) -> str:
        return "\n".join(self.messages)

    def evidence(self) -> str:
        status = "running" if self.running() else f"status {self.process.returncode}"
        told = [*self.lines[-3:], *self.messages[-12:]]
        return "\n    ".join([f"$ {' '.join(self.command)}  ({status})", *told])


@atexit.register
def kill_the_rest():
    for program in list(Program.alive):
        with contextlib.suppress(Exception):
            program.kill()


def digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree(folder: pathlib.Path):
    """{path: (SHA-256, executable)} of every file below; symbolic links are read through."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = pathlib.Path(parent, name)
            mode = path.stat().st_mode
            found[str(path.relative_to(folder))] = (digest(path), bool(mode & 0o100))
    return found


def poll(condition, what: str, seconds: float = DEADLINE_SECONDS):
    """The first true result of `condition()`; for what no event tells."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about within {seconds} s")
        time.sleep(POLL_SECONDS)
    return found


class Sources:
    """Checkpoints that tests read and never change, each generated once."""

    folder = None
    lock = threading.Lock()

    @classmethod
    @functools.cache
    def _make(cls, total: int, shards: int, seed: int) -> pathlib.Path:
        if cls.folder is None:
            cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="weightcast-sources-"))
            atexit.register(shutil.rmtree, cls.folder, ignore_errors=True)
        target = cls.folder / f"{total}-{shards}-{seed}"
        checkpoint.write_checkpoint(target, total, shards, seed)
        return target

    @classmethod
    def get(cls, total: int, shards: int = 3, seed: int = 1) -> pathlib.Path:
        with cls.lock:
            return cls._make(total, shards, seed)


class SystemTest(unittest.TestCase):
    """A folder of its own, and programs that are gone when the test is."""

    def setUp(self):
        self.programs = []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weightcast-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.addCleanup(self.kill_programs)

    def kill_programs(self):
        for program in self.programs:
            program.kill()

    def evidence(self) -> str:
        telling = [program for program in self.programs
                   if program.name != "p2p-ls" or program.process.returncode != 0]
        return "\n".join(program.evidence() for program in telling[-12:])

    def start(self, name: str, *arguments, environment=None, wrap=()) -> Program:
        program = Program(name, *arguments, environment=environment, wrap=wrap)
        self.programs.append(program)
        return program

    def run_program(self, name: str, *arguments) -> Program:
        program = self.start(name, *arguments)
        program.wait_end()
        return program

    def meta(self, *arguments, port: int = 0) -> Program:
        program = self.start("p2p-meta", "--json", "--listen", f"127.0.0.1:{port}", *arguments)
        program.url = program.wait_event("ready")["registry"]
        return program

    def start_serve(self, source, *arguments, model: str = "m", registry: str | None = None):
        where = ("--listen", "127.0.0.1:0") if registry is None else ("--registry", registry)
        return self.start("p2p-serve", source, "--model", model, "--json", *where, *arguments)

    def serve(self, source, *arguments, model: str = "m", registry: str | None = None) -> Program:
        program = self.start_serve(source, *arguments, model=model, registry=registry)
        program.ready = program.wait_event("ready")
        program.url = program.ready["registry"]
        return program

    def start_pull(self, url: str, model: str, out, *arguments) -> Program:
        return self.start("p2p-pull", url, model, "-o", out, "--json", *arguments)

    def pull(self, url: str, model: str, out, *arguments) -> dict:
        """Pulls to the end, and returns the last event."""
        program = self.start_pull(url, model, out, *arguments)
        status = program.wait_end()
        self.assertEqual(status, 0, program.evidence())
        return program.events()[-1]

    def assert_fails(self, program: Program, *texts: str, status: int = 1) -> str:
        """The program ends with this status, and its message holds every text."""
        self.assertEqual(program.wait_end(), status, program.evidence())
        for text in texts:
            self.assertIn(text, program.stderr())
        for line in program.messages:
            self.assertTrue(line.startswith(f"{program.name}: "), line)
        return program.stderr()

    def list_registry(self, url: str, event: str, *arguments):
        listed = self.run_program("p2p-ls", url, "--json", *arguments)
        self.assertEqual(listed.wait_end(), 0, listed.evidence())
        return [line for line in listed.events() if line["event"] == event]

    def assert_same_tree(self, copy, source):
        self.assertEqual(tree(pathlib.Path(copy)), tree(pathlib.Path(source)))

    def wait_end_of(self, pull: Program) -> dict:
        self.assertEqual(pull.wait_end(), 0, pull.evidence())
        return pull.events()[-1]
