"""Goal: receivers read from each other while they still receive, so that the publisher sends little
more than one copy, and is not needed once every chunk is with someone.
Method: a publisher with a capped rate, several receivers at once, shares from their last events;
which chunks a receiver has verified is read from its journal.
"""
from kit import MB, Sources, SystemTest, poll

RECEIVERS = 6
JOURNAL_HEADER_BYTES = 40
CHUNK_BYTES = 1 << 20  # What p2p-serve takes unless told otherwise.


def verified(out) -> int:
    """The bitmap of verified chunks of a pull that runs, as a number."""
    try:
        journal = (out / ".weightcast-partial" / "journal").read_bytes()
    except FileNotFoundError:  # Not begun, or complete and renamed.
        return 0
    return int.from_bytes(journal[JOURNAL_HEADER_BYTES:], "little")


class Relays(SystemTest):
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
        """Kills the publisher once every chunk is with some receiver and none has them all."""
        receivers = self.receivers(url, 4, "--serve-rate-max", 12 * MB)
        folders = [self.folder / f"copy{i}" for i in range(len(receivers))]
        chunks = sum(-(-path.stat().st_size // CHUNK_BYTES)
                     for path in source.rglob("*") if path.is_file())

        def spread():
            everywhere = 0
            for folder in folders:
                everywhere |= verified(folder)
            return everywhere.bit_count() == chunks
        poll(spread, "every chunk with some receiver")
        complete = [r for r in receivers if any(e["event"] == "done" for e in r.events())]
        self.assertEqual(complete, [])
        server.kill()
        done = self.finish(receivers, source)
        self.assertGreater(sum(one["holders_lost"] for one in done), 0)

    def test_all_finish_when_the_publisher_dies_half_way(self):
        source, registry = Sources.get(64 * MB), self.meta()
        server = self.serve(source, "--name", "publisher", "--serve-rate-max", 30 * MB,
                            registry=registry.url)
        self.kill_when_spread(server, registry.url, source)

    def test_all_finish_when_publisher_and_registry_die_half_way(self):
        source = Sources.get(64 * MB)
        server = self.serve(source, "--name", "publisher", "--serve-rate-max", 30 * MB)
        self.kill_when_spread(server, server.url, source)
