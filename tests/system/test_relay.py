"""Goal: receivers read from each other while they still receive, so that the publisher sends little
more than one copy, and is not needed once every chunk is with someone.
Method: a publisher with a capped rate, several receivers at once, shares from their last events;
which chunks a receiver has verified is read from its journal.
"""
import subprocess
import time
import unittest
import urllib.request

from kit import MB, Sources, SystemTest, poll

RECEIVERS = 6
JOURNAL_HEADER_BYTES = 40
CHUNK_BYTES = 1 << 20  # What p2p-serve takes unless told otherwise.
HOST_NAME = ("unshare", "-u", "sh", "-c", 'hostname "$0" && exec "$@"')
OWN_HOST_NAME = subprocess.run([*HOST_NAME, "host", "true"], check=False,
                               stderr=subprocess.DEVNULL).returncode == 0


def verified(out, chunks: int) -> int:
    """The bitmap of verified chunks of a pull, as a number."""
    if (out / "config.json").exists():
        return (1 << chunks) - 1
    try:
        journal = (out / ".weightcast-partial" / "journal").read_bytes()
    except FileNotFoundError:  # Not begun, or renamed a moment ago.
        return 0
    return int.from_bytes(journal[JOURNAL_HEADER_BYTES:], "little")


class Relays(SystemTest):
    def hold_the_cap(self, fabric: str):
        """All readers together get no more than the publisher's cap allows, but for the start."""
        rate, start_bytes = 10 * MB, 28 * MB
        server = self.serve(Sources.get(128 * MB), "--name", "publisher", "--serve-rate-max", rate)
        start = time.monotonic()
        receivers = self.receivers(server.url, 4, "--fabric", fabric)
        done = [receiver.wait_event("done") for receiver in receivers]
        seconds = time.monotonic() - start
        sent = sum(holder["bytes"] for one in done for holder in one["holders"]
                   if holder["peer"] == "publisher")
        self.assertLess(sent, rate * seconds + start_bytes, done)

    def test_the_cap_holds_for_all_readers_over_shm(self):
        self.hold_the_cap("shm")

    def test_the_cap_holds_for_all_readers_over_tcp(self):
        self.hold_the_cap("tcp")

    @unittest.skipUnless(OWN_HOST_NAME, "nobody may have a host name of its own here")
    def test_a_fleet_hands_a_large_manifest_on(self):
        """More hosts than one holder serves at a time; nobody turns to the registry for it."""
        source = self.folder / "source"
        source.mkdir()
        for i in range(700):
            (source / f"model.layers.{i}.weight.bin").write_bytes(bytes([i % 256]) * 100)
        server = self.serve(source, "--name", "publisher")
        receivers = []
        for i in range(12):
            receivers.append(self.start(
                "p2p-pull", server.url, "m", "-o", self.folder / f"copy{i}", "--json", "--serve",
                "--fabric", "tcp", wrap=(*HOST_NAME, f"host{i}")))
        self.finish(receivers, source)
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        # It was put there once.
        self.assertIn('requests_total{route="/v1/manifests/",status="200"} 1\n', metrics)

    def receivers(self, url: str, count: int, *arguments):
        return [self.start_pull(url, "m", self.folder / f"copy{i}", "--serve", "--name",
                                f"receiver{i}", *arguments) for i in range(count)]

    def finish(self, receivers, source):
        done = [receiver.wait_event("done") for receiver in receivers]
        for i in range(len(receivers)):
            self.assert_same_tree(self.folder / f"copy{i}", source)
        return done

    def check_shares(self, fabric: str):
        source = Sources.get(64 * MB)
        server = self.serve(source, "--name", "publisher", "--serve-rate-max", 30 * MB)
        size = server.ready["bytes"]
        done = self.finish(self.receivers(server.url, RECEIVERS, "--fabric", fabric), source)
        shares = [{holder["peer"]: holder["bytes"] for holder in one["holders"]} for one in done]
        egress = sum(share.get("publisher", 0) for share in shares)
        self.assertGreaterEqual(egress, size)
        self.assertLess(egress, RECEIVERS / 2 * size, shares)
        # Two that read from each other: at least one of them was not complete yet.
        mutual = [(i, j) for i in range(RECEIVERS) for j in range(i)
                  if f"receiver{j}" in shares[i] and f"receiver{i}" in shares[j]]
        self.assertTrue(mutual, shares)

    def test_receivers_read_from_each_other_over_shm(self):
        self.check_shares("shm")

    def test_receivers_read_from_each_other_over_tcp(self):
        self.check_shares("tcp")

    def test_a_pull_without_serve_relays_while_it_runs(self):
        source = Sources.get(64 * MB)
        server = self.serve(source, "--name", "publisher", "--serve-rate-max", 30 * MB)
        pulls = [self.start_pull(server.url, "m", self.folder / f"copy{i}") for i in range(3)]
        done = [self.wait_end_of(pull) for pull in pulls]
        egress = sum(holder["bytes"] for one in done for holder in one["holders"]
                     if holder["peer"] == "publisher")
        self.assertLess(egress, 2.9 * server.ready["bytes"])

    def kill_when_spread(self, server, url: str, source):
        """Kills the publisher once every chunk is with some receiver, and much is to be read."""
        receivers = self.receivers(url, 4, "--serve-rate-max", 12 * MB)
        folders = [self.folder / f"copy{i}" for i in range(len(receivers))]
        chunks = sum(-(-path.stat().st_size // CHUNK_BYTES)
                     for path in source.rglob("*") if path.is_file())

        def spread():
            everywhere = 0
            for folder in folders:
                everywhere |= verified(folder, chunks)
            return everywhere.bit_count() == chunks
        poll(spread, "every chunk with some receiver")
        server.kill()
        missing = sum(chunks - verified(folder, chunks).bit_count() for folder in folders)
        self.assertGreater(missing, 0)
        done = self.finish(receivers, source)
        sent = sum(holder["bytes"] for one in done for holder in one["holders"]
                   if holder["peer"] == "publisher")
        self.assertLess(sent, len(receivers) / 2 * server.ready["bytes"])

    def test_all_finish_when_the_publisher_dies_half_way(self):
        source, registry = Sources.get(64 * MB), self.meta()
        server = self.serve(source, "--name", "publisher", "--serve-rate-max", 30 * MB,
                            registry=registry.url)
        self.kill_when_spread(server, registry.url, source)

    def test_all_finish_when_publisher_and_registry_die_half_way(self):
        source = Sources.get(64 * MB)
        server = self.serve(source, "--name", "publisher", "--serve-rate-max", 30 * MB)
        self.kill_when_spread(server, server.url, source)
