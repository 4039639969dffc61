"""What the tests of this folder share: the guest's hosts, their links, and programs on them.

The tests run in the guest of tests/rdma/vm, where each RDMA device stands for a host; its README
tells how they are wired. Reads between two hosts cross the interfaces of both, whose counters and
queues the tests use. The registry is on loopback, out of the way of what happens to the links.
"""
import filecmp
import os
import pathlib
import subprocess

from kit import MB, Program, SystemTest, poll

NET = pathlib.Path("/sys/class/net")
RDMA = pathlib.Path("/sys/class/infiniband")
# For a reader that has to wait for a program's start: seconds, where the processor is emulated.
PATIENT = ("--no-holder-ms-max", 120_000)


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def files(folder: pathlib.Path):
    """{path: executable} of every file below."""
    return {str(path.relative_to(folder)): os.access(path, os.X_OK)
            for path in folder.rglob("*") if path.is_file()}


class Host:
    """Host N: the device rdmaN on the interface rN, whose other end is the switch's port pN."""

    def __init__(self, number: int):
        self.number = number
        self.device = f"rdma{number}"
        self.address = f"10.0.0.{number + 1}"
        self.interface, self.port = f"r{number}", f"p{number}"

    def exists(self) -> bool:
        return all(path.exists() for path in (RDMA / self.device, NET / self.interface,
                                              NET / self.port))

    def _counter(self, name: str) -> int:
        return int((NET / self.interface / "statistics" / name).read_text())

    def sent(self) -> int:
        """Bytes that its interface has sent, with headers and what was sent again."""
        return self._counter("tx_bytes")

    def received(self) -> int:
        return self._counter("rx_bytes")

    def active(self) -> bool:
        return "ACTIVE" in (RDMA / self.device / "ports/1/state").read_text()

    def pull_cable(self):
        """Its RDMA port goes down too, as when a switch or a cable fails."""
        run("ip", "link", "set", self.port, "down")
        poll(lambda: not self.active(), f"the port of {self.device} that is down")

    def switch_off(self):
        """As an administrator does."""
        run("ip", "link", "set", self.interface, "down")
        poll(lambda: not self.active(), f"the port of {self.device} that is down")

    def lose_all(self):
        """No packet comes or leaves any more, and nobody is told."""
        for name in (self.port, self.interface):
            run("tc", "qdisc", "replace", "dev", name, "root", "netem", "loss", "100%")

    def shape(self, *queue):
        """What it sends goes through this queue of tc."""
        run("tc", "qdisc", "replace", "dev", self.interface, "root", *queue)

    def restore(self):
        """Undoes all of the above."""
        for name in (self.port, self.interface):
            if "noqueue" not in run("tc", "qdisc", "show", "dev", name):
                run("tc", "qdisc", "del", "dev", name, "root")
        run("ip", "link", "set", self.port, "up")
        run("ip", "link", "set", self.interface, "up")
        # That route goes when the interface is switched off.
        run("ip", "route", "replace", "10.0.0.0/24", "dev", self.interface, "src", self.address,
            "table", 100 + self.number)
        poll(self.active, f"the active port of {self.device}")


# Programs of one host name would be taken for neighbours that share its memory and ports.
NAMED = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')


class HostsTest(SystemTest):
    """Tests with programs on hosts that read over verbs alone."""

    HOSTS = 4  # that its tests use

    def start(self, name: str, *arguments, environment=None, wrap=()) -> Program:
        on = [host for host in self.hosts if host.address in arguments]
        named = (*NAMED, on[0].device) if on else ()
        return super().start(name, *arguments, environment=environment, wrap=(*named, *wrap))

    def setUp(self):
        super().setUp()
        self.hosts = [Host(number) for number in range(self.HOSTS)]
        if not all(host.exists() for host in self.hosts):
            self.skipTest(f"needs the guest of tests/rdma/vm with {self.HOSTS} devices")
        for host in self.hosts:
            self.addCleanup(host.restore)

    def assert_same_tree(self, copy, source):
        """Compares byte by byte, since digests take long where the processor is emulated."""
        self.assertEqual(files(copy), files(source))
        _, different, unread = filecmp.cmpfiles(copy, source, files(source), shallow=False)
        self.assertEqual((different, unread), ([], []))

    def serve_on(self, host: Host, source, registry: str, *arguments) -> Program:
        return self.serve(source, "--listen", host.address, "--fabric", "verbs", *arguments,
                          registry=registry)

    def serve_on_both(self, hosts, source, registry: str, rate: int):
        """Two holders, "first" and "second", slow enough for a pull to last."""
        return [self.serve_on(host, source, registry, "--name", name, "--serve-rate-max", rate)
                for host, name in zip(hosts, ("first", "second"), strict=True)]

    def start_pull_on(self, host: Host, registry: str, out, *arguments) -> Program:
        return self.start_pull(registry, "m", out, "--listen", host.address, "--fabric", "verbs",
                               *arguments)

    def pull_on(self, host: Host, registry: str, out, *arguments) -> dict:
        return self.wait_end_of(self.start_pull_on(host, registry, out, *arguments))

    def wait_until_read(self, host: Host, sent_before: int, pull: Program):
        """Until at least one whole chunk came from there; reads of one holder come in turn."""
        def is_read():
            self.assertTrue(pull.running(), pull.evidence())
            return host.sent() - sent_before > 3 * MB
        poll(is_read, f"reads from {host.device}")

    def shares(self, done: dict) -> dict:
        """Bytes by holder, all of which came over verbs."""
        self.assertEqual({holder["fabric"] for holder in done["holders"]}, {"verbs"}, done)
        return {holder["peer"]: holder["bytes"] for holder in done["holders"]}
