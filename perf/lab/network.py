#!/usr/bin/env python3
"""Network namespaces as hosts on one switch, or on racks of switches, with links shaped both ways.

The switch is a namespace with a bridge, each host a namespace with one interface, eth0. What a host
sends is shaped by HTB at its interface, what it receives at the switch's port to it. The namespace
of the caller gets no interface. As a program, it makes a network for use by hand."""

import argparse
import concurrent.futures
import ctypes
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

PREFIX = os.environ.get("WEIGHTCAST_LAB", "wclab")  # Of the namespaces; one lab each.
STATE = pathlib.Path("/run/weightcast-lab")
NETNS = pathlib.Path("/run/netns")
HOSTS_MAX = 240
SUBNET = "10.77.0"
FRAME_BYTES = 1514  # What HTB counts of a full segment,
SEGMENT_BYTES = 1448  # and what of it is the sender's.
HEADER_FLOOR = FRAME_BYTES / SEGMENT_BYTES
QUEUE_MS = 10
BURST_MS = 2  # The timer of a busy machine may be this late.
HOST_QUEUE_BYTES = 16 << 20  # A socket's own queue of unsent bytes for each of many readers.
ALLOWED_CONGESTION = "net/ipv4/tcp_allowed_congestion_control"
CLONE_NEWNET = 0x40000000


class Unavailable(Exception):
    """Why the network cannot be made here."""


def run(command, text=None):
    done = subprocess.run([str(part) for part in command], input=text, text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise Unavailable(f"{' '.join(map(str, command))}: {told[0]}")
    return done.stdout


def batch(program, lines):
    if lines:
        run([program, "-batch", "-"], "\n".join(lines) + "\n")


def enter(namespace):
    """Moves the calling thread, and what it starts from then on, into the network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(NETNS / namespace, "rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise Unavailable(f"setns: {os.strerror(ctypes.get_errno())}")


def inside(namespaces, function):
    """function(namespace) for each of them, in threads that are inside; the results in order."""
    def one(namespace):
        enter(namespace)
        return function(namespace)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, namespaces))


def sysctl(name):
    return pathlib.Path("/proc/sys", name).read_text().strip()


def set_sysctl(name, value):
    try:
        pathlib.Path("/proc/sys", name).write_text(str(value))
    except OSError as error:
        raise Unavailable(f"{name} = {value}: {error.strerror}") from None


def gso_bytes(hosts, rate_mbit):
    """The largest packet that leaves a socket at once: about 1.3 ms of the rate, and more where two
    cores would else not keep up with all packets and timers of the network."""
    total_mbit = hosts * rate_mbit
    if rate_mbit > 300 or total_mbit > 6000:
        return 65536
    return 32768 if rate_mbit > 120 or total_mbit > 4000 else 16384


def bytes_in(rate_mbit, ms):
    return int(rate_mbit * 1e6 / 8 * ms / 1e3)


class Shape:
    """The settings of one direction of a link; `gso` is of the packets that come through it."""

    def __init__(self, rate_mbit, gso, queue_bytes_min=0):
        burst = max(gso, bytes_in(rate_mbit, BURST_MS))
        rate = f"{round(rate_mbit * 1000)}kbit"
        self.of_class = (f"parent 1: classid 1:10 htb rate {rate} ceil {rate} burst {burst} "
                         f"cburst {burst} quantum 60000")
        limit = max(bytes_in(rate_mbit, QUEUE_MS), 4 * gso, queue_bytes_min)
        self.of_queue = f"parent 1:10 handle 10: bfifo limit {limit}"

    def create(self, device):
        return [f"qdisc add dev {device} root handle 1: htb default 10",
                f"class add dev {device} {self.of_class}",
                f"qdisc add dev {device} {self.of_queue}"]

    def change(self, device):
        return [f"class change dev {device} {self.of_class}",
                f"qdisc change dev {device} {self.of_queue}"]


def take_lock(prefix):
    """A file that keeps the network of this prefix for this process, until it is closed."""
    STATE.mkdir(parents=True, exist_ok=True)
    lock = open(STATE / f"{prefix}.lock", "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise Unavailable(f"another process uses the network {prefix}; WEIGHTCAST_LAB names "
                          "another one") from None
    return lock


def namespaces_of(prefix):
    if not NETNS.is_dir():
        return []
    return [entry.name for entry in NETNS.iterdir() if entry.name.startswith(prefix + "-")]


def kill_inside(namespaces):
    """Ends every process whose network namespace is one of these."""
    ids = {(told.st_dev, told.st_ino) for told in (os.stat(NETNS / name) for name in namespaces)}

    def found():
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    told = os.stat(f"/proc/{entry}/ns/net")
                except OSError:
                    continue  # It has ended.
                if (told.st_dev, told.st_ino) in ids:
                    yield int(entry)

    deadline = time.monotonic() + 10
    while running := list(found()):
        if time.monotonic() > deadline:
            raise Unavailable(f"processes {running} do not end")
        for process in running:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)


class Network:
    """Hosts 0 to hosts - 1, in equal parts in `racks` whose links upward have `uplink_mbit`.

    create() first removes what is left of an earlier one of this prefix. As a context manager it is
    there inside the block, and no other process can take it away."""

    def __init__(self, hosts, rate_mbit, racks=1, uplink_mbit=0.0, congestion="cubic",
                 prefix=PREFIX):
        if not 2 <= hosts <= HOSTS_MAX:
            raise ValueError(f"2 to {HOSTS_MAX} hosts, not {hosts}")
        self.hosts, self.rate_mbit = hosts, rate_mbit
        self.racks, self.uplink_mbit = racks, uplink_mbit or rate_mbit
        self.congestion, self.prefix = congestion, prefix
        self.gso = gso_bytes(hosts, rate_mbit)
        self.per_rack = -(-hosts // racks)
        self._ports = self._lock = None

    @classmethod
    def attach(cls, prefix=PREFIX):
        """The network that another process has created."""
        path = STATE / f"{prefix}.json"
        if not path.exists():
            raise Unavailable("there is no network; create one first")
        return cls(prefix=prefix, **json.loads(path.read_text())["network"])

    def __enter__(self):
        self.create()
        return self

    def __exit__(self, *_):
        self.destroy()

    # Names

    @property
    def switch(self):
        return f"{self.prefix}-switch"

    def namespace(self, host):
        return f"{self.prefix}-h{host}"

    @staticmethod
    def address(host):
        return f"{SUBNET}.{host + 1}"

    @staticmethod
    def hardware(host):
        return f"02:00:00:00:00:{host + 1:02x}"

    def rack(self, host):
        return host // self.per_rack

    # To make and remove it

    def create(self):
        if os.geteuid() != 0:
            raise Unavailable("only root can make network namespaces")
        for tool in ("ip", "tc"):
            if not shutil.which(tool):
                raise Unavailable(f"{tool} is not installed (package iproute2)")
        self._lock = take_lock(self.prefix)
        try:
            remove(self.prefix)
            self._set_limits()
            self._create()
        except BaseException:
            self.destroy()
            raise

    def _set_limits(self):
        """Raises limits that all namespaces share, and notes what they were: of the kernel's one
        table of neighbours, and of who may choose which congestion control."""
        wanted = {f"net/ipv4/neigh/default/gc_thresh{k}": 2 * self.hosts ** 2 * factor
                  for k, factor in ((1, 1), (2, 2), (3, 4))}
        before = {name: sysctl(name) for name in [*wanted, ALLOWED_CONGESTION]}
        network = {"hosts": self.hosts, "rate_mbit": self.rate_mbit, "racks": self.racks,
                   "uplink_mbit": self.uplink_mbit, "congestion": self.congestion}
        (STATE / f"{self.prefix}.json").write_text(
            json.dumps({"network": network, "sysctls": before}))
        for name, value in wanted.items():
            set_sysctl(name, max(value, int(before[name])))
        allowed = before[ALLOWED_CONGESTION].split()
        if self.congestion not in allowed:
            set_sysctl(ALLOWED_CONGESTION, " ".join([*allowed, self.congestion]))

    def _create(self):
        hosts = [self.namespace(host) for host in range(self.hosts)]
        batch("ip", [f"netns add {name}" for name in [self.switch, *hosts]])
        inside([self.switch, *hosts], self._set_sysctls)
        inside([self.switch], lambda _: self._make_switch())
        inside(hosts, lambda name: self._make_host(hosts.index(name)))

    def _set_sysctls(self, _):
        for which in ("default", "all"):
            if pathlib.Path("/proc/sys/net/ipv6").exists():
                set_sysctl(f"net/ipv6/conf/{which}/disable_ipv6", 1)
        set_sysctl("net/ipv4/tcp_congestion_control", self.congestion)
        set_sysctl("net/ipv4/tcp_no_metrics_save", 1)
        if pathlib.Path("/proc/sys/net/bridge").exists():
            for hook in ("iptables", "arptables"):  # A switch has no firewall.
                set_sysctl(f"net/bridge/bridge-nf-call-{hook}", 0)

    def _limits(self):
        return f"gso_max_size {self.gso} gso_max_segs {self.gso // SEGMENT_BYTES}"

    def _make_switch(self):
        bridge = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        links, shapes = ["link set lo up", f"link add core {bridge}", "link set core up"], []
        if self.racks > 1:
            for rack in range(self.racks):
                links += [f"link add rack{rack} {bridge}", f"link set rack{rack} up",
                          f"link add up{rack} type veth peer name down{rack}",
                          f"link set up{rack} {self._limits()} master rack{rack} up",
                          f"link set down{rack} {self._limits()} master core up"]
                for device in (f"up{rack}", f"down{rack}"):
                    shapes += Shape(self.uplink_mbit, self.gso).create(device)
        for host in range(self.hosts):
            master = f"rack{self.rack(host)}" if self.racks > 1 else "core"
            links += [f"link add p{host} type veth peer name eth0 address {self.hardware(host)} "
                      f"netns {self.namespace(host)}",
                      f"link set p{host} {self._limits()} master {master} up"]
            shapes += Shape(self.rate_mbit, self.gso).create(f"p{host}")
        batch("ip", links)
        batch("tc", shapes)

    def _make_host(self, host):
        batch("ip", ["link set lo up", f"link set eth0 {self._limits()}",
                     f"address add {self.address(host)}/24 brd + dev eth0", "link set eth0 up",
                     # Known, since two cores have a lot to do with each question that is flooded.
                     *(f"neigh add {self.address(other)} lladdr {self.hardware(other)} dev eth0 "
                       "nud permanent" for other in range(self.hosts) if other != host)])
        batch("tc", Shape(self.rate_mbit, self.gso, HOST_QUEUE_BYTES).create("eth0"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
            # The switches learn where the host is, so that they do not flood its first packets.
            speaker.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            speaker.sendto(b"", (f"{SUBNET}.255", 9))

    def destroy(self):
        """Ends all that runs in the hosts, and removes them."""
        if self._ports:
            self._ports.close()
            self._ports = None
        remove(self.prefix)
        if self._lock:
            self._lock.close()
            self._lock = None

    # To use it

    def command(self, host, command, gated=False):
        """The command that runs `command` in the host, in its own place: same process, no child.
        If it is gated, a shell is first there, prints a line, and waits for one."""
        script = f'hostname "$0"; {"echo; read _; " if gated else ""}exec "$@"'
        return ["ip", "netns", "exec", self.namespace(host), "unshare", "-u", "sh", "-c",
                script, f"h{host}", *map(str, command)]

    def set_rate(self, host, rate_mbit):
        """Changes the host's rate, both ways, while it runs."""
        inside([self.switch],
               lambda _: batch("tc", Shape(rate_mbit, self.gso).change(f"p{host}")))
        inside([self.namespace(host)], lambda _: batch(
            "tc", Shape(rate_mbit, self.gso, HOST_QUEUE_BYTES).change("eth0")))

    def set_cable(self, host, plugged):
        """Pulls or plugs the host's cable; nobody is told, packets are lost."""
        inside([self.switch],
               lambda _: batch("ip", [f"link set p{host} {'up' if plugged else 'down'}"]))

    def _port_bytes(self):
        """{port: (bytes into the port, bytes out of it)} of the switch."""
        if self._ports is None:
            self._ports = inside([self.switch], lambda _: open("/proc/thread-self/net/dev",
                                                               encoding="utf-8"))[0]
        self._ports.seek(0)
        rows = (line.split(":") for line in self._ports.read().splitlines()[2:])
        return {name.strip(): (int(told.split()[0]), int(told.split()[8])) for name, told in rows}

    def counters(self):
        """[(bytes that the host sent, bytes that it received)], without Ethernet's padding."""
        ports = self._port_bytes()
        return [ports[f"p{host}"] for host in range(self.hosts)]

    def uplink_counters(self):
        """[(bytes that left the rack, bytes that entered it)]."""
        ports = self._port_bytes()
        return [tuple(reversed(ports[f"up{rack}"])) for rack in range(self.racks)
                if self.racks > 1]

    def drops(self):
        """Packets that a full queue dropped: {host or "switch": number}."""
        def count(_):
            told = json.loads(run(["tc", "-s", "-j", "qdisc", "show"]))
            return sum(queue.get("drops", 0) for queue in told if queue["kind"] == "bfifo")
        names = ["switch", *range(self.hosts)]
        counted = inside([self.switch, *map(self.namespace, range(self.hosts))], count)
        return {name: number for name, number in zip(names, counted) if number}

    def describe(self):
        racks = (f", in {self.racks} racks with uplinks of {self.uplink_mbit:g} Mbit/s"
                 if self.racks > 1 else "")
        return (f"{self.hosts} hosts at {self.rate_mbit:g} Mbit/s{racks}, {self.congestion}, "
                f"packets of up to {self.gso >> 10} KiB")


def remove(prefix):
    """Removes all that there is of this prefix, and the processes inside."""
    names = namespaces_of(prefix)
    if names:
        kill_inside(names)
        batch("ip", [f"netns delete {name}" for name in names])
    state = STATE / f"{prefix}.json"
    if state.exists():
        for name, value in json.loads(state.read_text())["sysctls"].items():
            set_sysctl(name, value)
        state.unlink()
    return len(names)


# The command line

def create(options):
    begin = time.monotonic()
    network = Network(options.hosts, options.mbit, options.racks, options.uplink,
                      options.congestion)
    network.create()
    print(f"{network.describe()}; {time.monotonic() - begin:.2f} s")


def destroy(_):
    with take_lock(PREFIX):
        print(f"{remove(PREFIX)} namespaces removed")


def execute(options):
    command = Network.attach().command(options.host, options.command)
    os.execvp(command[0], command)


def print_bytes(_):
    network = Network.attach()
    print(json.dumps({"hosts": network.counters(), "uplinks": network.uplink_counters()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, function, text):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        return command

    one = add("create", create, "make a network, instead of the one that is there")
    one.add_argument("hosts", type=int)
    one.add_argument("mbit", type=float, help="rate of each host's link, each way")
    one.add_argument("--racks", type=int, default=1)
    one.add_argument("--uplink", type=float, default=0, help="Mbit/s of a rack (a host's)")
    one.add_argument("--congestion", default="cubic")
    add("destroy", destroy, "end what runs in the hosts, and remove them")
    one = add("exec", execute, "run a command in a host")
    one.add_argument("host", type=int)
    one.add_argument("command", nargs=argparse.REMAINDER)
    one = add("address", lambda options: print(Network.address(options.host)), "of a host")
    one.add_argument("host", type=int)
    one = add("rate", lambda options: Network.attach().set_rate(options.host, options.mbit),
              "change the rate of a host's link")
    one.add_argument("host", type=int)
    one.add_argument("mbit", type=float)
    one = add("cable", lambda options: Network.attach().set_cable(options.host,
                                                                  options.state == "in"),
              "pull or plug a host's cable")
    one.add_argument("host", type=int)
    one.add_argument("state", choices=["in", "out"])
    add("bytes", print_bytes, "print what each host, and each rack, sent and received")
    add("drops", lambda _: print(json.dumps(Network.attach().drops())), "of full queues")
    options = parser.parse_args()
    try:
        options.function(options)
    except Unavailable as reason:
        print(f"network: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
