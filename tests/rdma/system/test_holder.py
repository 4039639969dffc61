"""Goal: a holder over verbs is passive memory, and says so plainly when it may not pin it.
Method: the holder's system calls and context switches, counted while a receiver pulls; a holder
without the right to lock memory.
"""
import pathlib
import shutil
import signal
import unittest

from hosts import HostsTest
from kit import MB, Sources

CHUNK_BYTES = 64 << 10  # Each chunk is one READ.
LEASE_MS = 60_000  # So that the holder has next to nothing to tell the registry meanwhile.
MEMLOCK_BYTES = 1 << 20
UNPRIVILEGED = ("setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock",
                "prlimit", f"--memlock={MEMLOCK_BYTES}:{MEMLOCK_BYTES}")


def voluntary_switches(pid: int) -> int:
    """How often the threads of a process have gone to sleep."""
    count = 0
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                count += int(line.split()[1])
    return count


class Holder(HostsTest):
    HOSTS = 2

    def setUp(self):
        super().setUp()
        self.source = Sources.get(32 * MB)
        self.url = self.meta("--lease-ms", LEASE_MS).url

    def pull(self):
        """Gives the number of READs that it took."""
        done = self.pull_on(self.hosts[1], self.url, self.folder / "copy")
        self.assert_same_tree(self.folder / "copy", self.source)
        self.assertEqual(set(self.shares(done)), {"publisher"})
        return done["bytes_read"] // CHUNK_BYTES

    def start_server(self):
        return self.serve_on(self.hosts[0], self.source, self.url, "--name", "publisher",
                             "--chunk-bytes", CHUNK_BYTES)

    def test_it_sleeps_while_it_is_read(self):
        pid = self.start_server().process.pid
        before = voluntary_switches(pid)
        reads = self.pull()
        switches = voluntary_switches(pid) - before
        self.assertLess(switches, reads / 4)

    @unittest.skipUnless(shutil.which("strace"), "strace is not installed")
    def test_it_makes_no_system_call_for_a_read(self):
        summary = self.folder / "summary"
        tracer = self.start(shutil.which("strace"), "-f", "-c", "-o", summary, "-p",
                            self.start_server().process.pid)
        tracer.wait_message("attached")
        reads = self.pull()
        tracer.signal(signal.SIGINT)
        tracer.wait_end()
        # Of each system call: share of time, seconds, us per call, calls, errors if any, name.
        rows = [line.split() for line in summary.read_text().splitlines()]
        calls = {row[-1]: int(row[3]) for row in rows if row and row[0][0].isdigit()}
        total = calls.pop("total")
        self.assertGreater(total, 0)
        self.assertLess(total, reads / 4, calls)

    def test_without_the_right_to_lock_memory_it_says_what_to_do(self):
        server = self.start("p2p-serve", self.source, "--model", "m", "--registry", self.url,
                            "--listen", self.hosts[0].address, "--fabric", "verbs",
                            wrap=UNPRIVILEGED)
        told = self.assert_fails(server, "RLIMIT_MEMLOCK", f"pin {MEMLOCK_BYTES} bytes",
                                 "ulimit -l unlimited", "LimitMEMLOCK=infinity")
        self.assertRegex(told, r"cannot register \d+ bytes on rdma0")
