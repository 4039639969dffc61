"""How each system does the same job: host 0 has a file, and all others are to have it.

A peer is prepared before the clock starts: what a publisher would have running. Then all receivers
begin at once. Whoever is missing here says why."""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

from network import inside
from peer import WEIGHTS, Peer, Program, Receiver, receiver, server, wait_until, wait_until_loaded
from report import python_with

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "lab"
REGISTRY_PORT = 7070
HTTP_PORT = 8080
GLOO_HEADER = pathlib.Path("/usr/include/gloo/broadcast.h")
MPI_SEGMENT_BYTES = 32768
MPI_SETTINGS = {
    "btl": "tcp,self", "coll": "^han,adapt", "mpi_yield_when_idle": "1",
    "coll_tuned_use_dynamic_rules": "1", "coll_tuned_bcast_algorithm": "3",  # The pipeline.
    "coll_tuned_bcast_algorithm_segmentsize": str(MPI_SEGMENT_BYTES)}
NGINX = """daemon off; master_process off; user root; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on;
    server {{ listen {address}:{port}; root {root}; }} }}
"""
# Runs a command line in the host of an address, as ssh would.
AGENT = """#!/bin/sh
host=$((${{1##*.}} - 1))
shift
exec ip netns exec {prefix}-h$host unshare -u sh -c "hostname h$host; $*"
"""


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
                        "--chunk-bytes", job.chunk_bytes, *common,
                        *shlex.split(job.options.serve_arguments)],
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


class HttpStar(Peer):
    """Everybody downloads from the publisher."""

    name = "http"

    def missing(self, options):
        for tool in ("nginx", "curl"):
            if not shutil.which(tool):
                return f"{tool} is not installed"
        return None

    def prepare(self, job):
        settings = job.folder / "nginx.conf"
        settings.write_text(NGINX.format(folder=job.folder, address=job.network.address(0),
                                         port=HTTP_PORT, root=job.source))
        nginx = server(job, 0, ["nginx", "-p", job.folder, "-e", "stderr", "-c", settings])
        wait_until(lambda: inside([job.network.namespace(0)], lambda _: is_listening(HTTP_PORT))[0],
                   [nginx], "listening")

    def receiver(self, job, host):
        url = f"http://{job.network.address(0)}:{HTTP_PORT}/{WEIGHTS}"
        return receiver(job, host, ["curl", "-sSf", "-o", job.folder_of(host) / WEIGHTS, url])


class Torrent(Peer):
    """libtorrent, tuned. Everybody connects to all hosts of lower numbers, so that no tracker is
    needed and no two connect to each other at once. Python has loaded it before the clock."""

    name = "bittorrent"

    def missing(self, options):
        return None if python_with("libtorrent") else (
            "libtorrent is not installed (package python3-libtorrent)")

    def _command(self, job, host, folder):
        others = [job.network.address(other) for other in range(host)]
        return [python_with("libtorrent"), HERE / "torrent.py", job.folder / "job.torrent", folder,
                job.network.address(host), *others]

    def prepare(self, job):
        subprocess.run([python_with("libtorrent"), HERE / "torrent.py", "--make", job.file,
                        job.folder / "job.torrent"], check=True)
        server(job, 0, self._command(job, 0, job.source), lambda line: line == "done\n",
               reads_go=True)

    def receiver(self, job, host):
        return receiver(job, host, self._command(job, host, job.folder_of(host)),
                        lambda line: line == "done\n", reads_go=True)


class Rank(Receiver):
    """A rank of an MPI job: the first that goes starts all."""

    def __init__(self, host, is_first):
        super().__init__(host)
        self._is_first = is_first
        self.process_id = None

    def go(self):
        if self._is_first:
            super().go()

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process_id, signal.SIGKILL)


class Mpi(Peer):
    """One MPI_Bcast by OpenMPI's pipeline into mapped files, set by hand. The job is up, and has
    passed a barrier, before the clock starts."""

    name = "mpi"
    joins = False

    def missing(self, options):
        for tool in ("mpicxx", "mpirun"):
            if not shutil.which(tool):
                return f"{tool} is not installed (packages openmpi-bin, libopenmpi-dev)"
        return None

    def prepare(self, job):
        self.program = compiled(job, "mpi_bcast.cpp", ["mpicxx", "-std=c++20", "-O2"], [])
        self.agent = job.folder / "agent"
        self.agent.write_text(AGENT.format(prefix=job.network.prefix))
        self.agent.chmod(0o755)

    def receivers(self, job, hosts):
        ranks = [Rank(host, index == 0) for index, host in enumerate(hosts)]

        def take(line):
            word, number, *more = line.split()
            if word == "loaded":
                ranks[int(number) - 1].process_id = int(more[0])
            elif word == "done":
                ranks[int(number) - 1].done()

        def ended(status):
            for rank in ranks:
                rank.ended(status, False)
        program = Program(job, 0, self._command(job, hosts), take, ended, reads_go=True)
        for rank in ranks:
            rank.program = program
        wait_until(lambda: all(rank.process_id for rank in ranks), [program], "up")
        return ranks

    def _command(self, job, hosts):
        subnet = job.network.address(0).rpartition(".")[0] + ".0/24"
        settings = {**MPI_SETTINGS, "plm_rsh_agent": self.agent, "plm_rsh_no_tree_spawn": "1",
                    "btl_tcp_if_include": subnet, "oob_tcp_if_include": subnet}
        command = ["mpirun", "--allow-run-as-root", "-np", len(hosts) + 1, "--host",
                   ",".join(job.network.address(host) for host in [0, *hosts])]
        for name, value in settings.items():
            command += ["--mca", name, value]
        return [*command, self.program, job.file, *(job.folder_of(host) / WEIGHTS
                                                    for host in hosts)]


class Gloo(Peer):
    """One broadcast over TCP into mapped files, as PyTorch's backend of the name does it. All are
    connected to all before the clock starts."""

    name = "gloo"
    joins = False

    def missing(self, options):
        if not shutil.which("g++") or not GLOO_HEADER.exists():
            return "gloo is not installed (package libgloo-dev)"
        return None

    def _command(self, job, host, rank, ranks, file):
        return [self.program, rank, ranks, job.network.address(host), job.folder / "meeting", file,
                job.options.bytes]

    def prepare(self, job):
        self.program = compiled(job, "gloo_bcast.cpp", ["g++", "-std=c++20", "-O2"], ["-lgloo"])
        (job.folder / "meeting").mkdir()

    def receivers(self, job, hosts):
        ranks = len(hosts) + 1
        # It waits for all the others.
        source = server(job, 0, self._command(job, 0, 0, ranks, job.file))
        found = [receiver(job, host, self._command(job, host, index + 1, ranks,
                                                   job.folder_of(host) / WEIGHTS),
                          lambda line: line == "done\n", reads_go=True)
                 for index, host in enumerate(hosts)]
        wait_until_loaded(found, source)
        return found


def compiled(job, source, compiler, libraries):
    """A program of this folder, of which meson knows nothing."""
    source = HERE / source
    program = job.options.build / "perf" / "lab" / source.stem.replace("_", "-")
    written = max(file.stat().st_mtime for file in (source, HERE / "map_file.h"))
    if not program.exists() or program.stat().st_mtime < written:
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*compiler, source, "-o", program, *libraries], check=True)
    return program


def is_listening(port):
    """Whether the network namespace of the calling thread has a listener on the port."""
    rows = pathlib.Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)


PEERS = {peer.name: peer for peer in (Weightcast(), WeightcastLabelled(), Chain(), ChainSorted(),
                                      HttpStar(), Torrent(), Mpi(), Gloo())}
