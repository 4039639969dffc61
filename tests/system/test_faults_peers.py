"""Goal: faults of holders and receivers (1 to 4, 8, 17 and 37 in the numbering of the tests' names).
Method: real processes, killed when an event says that they are in the middle of the work.
"""
import contextlib
import random
import shutil
import subprocess

from kit import MB, Sources, SystemTest, poll, tree


class Holders(SystemTest):
    def setUp(self):
        super().setUp()
        self.source, self.out = Sources.get(64 * MB), self.folder / "copy"

    def shares(self, done: dict) -> dict:
        return {holder["peer"]: holder["bytes"] for holder in done["holders"]}

    def kill_one_of_two(self, fabric: str):
        registry = self.meta()
        first, _ = (self.serve(self.source, "--name", name, "--serve-rate-max", 15 * MB,
                               registry=registry.url) for name in ("first", "second"))
        pull = self.start_pull(registry.url, "m", self.out, "--fabric", fabric)
        pull.wait_progress(0.4)
        first.kill()
        done = self.wait_end_of(pull)
        self.assert_same_tree(self.out, self.source)
        self.assertGreaterEqual(done["holders_lost"], 1)
        self.assertEqual(set(self.shares(done)), {"first", "second"})
        # What came from the dead one is kept; only what was on its way is read twice.
        self.assertGreater(self.shares(done)["first"], 0.1 * done["bytes"])
        self.assertLess(done["bytes_read"], 1.2 * done["bytes"])

    def test_01_source_killed_mid_read_over_shm(self):
        self.kill_one_of_two("shm")

    def test_01_source_killed_mid_read_over_tcp(self):
        self.kill_one_of_two("tcp")

    def test_02_relay_killed(self):
        registry = self.meta()
        self.serve(self.source, "--name", "publisher", "--serve-rate-max", 15 * MB,
                   registry=registry.url)
        relay = self.start_pull(registry.url, "m", self.folder / "relay", "--serve", "--name",
                                "relay")
        relay.wait_progress(0.6)
        pull = self.start_pull(registry.url, "m", self.out)
        pull.wait_progress(0.3)
        relay.kill()
        done = self.wait_end_of(pull)
        self.assert_same_tree(self.out, self.source)
        self.assertGreater(self.shares(done).get("relay", 0), 0)
        self.assertGreaterEqual(done["holders_lost"], 1)
        self.assertEqual(done["corrupt_chunks"], 0)

    def test_03_receiver_killed(self):
        registry = self.meta("--lease-ms", 500)
        self.serve(self.source, "--name", "publisher", "--serve-rate-max", 30 * MB,
                   registry=registry.url)
        pull = self.start_pull(registry.url, "m", self.out, "--name", "receiver")
        pull.wait_progress(0.3)
        pull.kill()

        def reaped():
            peers = {p["peer"]: p["readers"] for p in self.list_registry(registry.url, "peer")}
            return peers == {"publisher": 0}
        poll(reaped, "the registry's forgetting of the dead receiver")
        self.pull(registry.url, "m", self.folder / "other")
        self.assert_same_tree(self.folder / "other", self.source)

    def test_08_source_restarts_with_new_keys(self):
        registry = self.meta()

        def serve():
            return self.serve(self.source, "--name", "publisher", "--take-over",
                              "--serve-rate-max", 20 * MB, registry=registry.url)
        for fabric in ("shm", "tcp"):
            with self.subTest(fabric=fabric):
                out, server = self.folder / fabric, serve()
                pull = self.start_pull(registry.url, "m", out, "--fabric", fabric)
                pull.wait_progress(0.3)
                server.kill()
                server = serve()
                done = self.wait_end_of(pull)
                self.assert_same_tree(out, self.source)
                self.assertGreaterEqual(done["holders_lost"], 1)
                self.assertLess(done["bytes_read"], 1.5 * done["bytes"])
                server.kill()

    def test_17_slow_holder(self):
        registry = self.meta()
        for name, rate in (("slow", MB // 2), ("fast1", 60 * MB), ("fast2", 60 * MB)):
            self.serve(self.source, "--name", name, "--serve-rate-max", rate,
                       registry=registry.url)
        done = self.pull(registry.url, "m", self.out)
        self.assert_same_tree(self.out, self.source)
        shares = self.shares(done)
        self.assertLess(shares.get("slow", 0), 0.1 * done["bytes"])
        for fast in ("fast1", "fast2"):
            self.assertGreater(shares[fast], 0.2 * done["bytes"])
        self.assertEqual(done["holders_lost"], 0)
        peers = {peer["peer"]: peer for peer in self.list_registry(registry.url, "peer", "m")}
        self.assertTrue(peers["slow"]["holdings"][0]["complete"])

    def test_37_all_holders_gone(self):
        registry = self.meta()
        server = self.serve(self.source, "--serve-rate-max", 20 * MB, registry=registry.url)
        pull = self.start_pull(registry.url, "m", self.out, "--no-holder-ms-max", 1500)
        kept = pull.wait_progress(0.4)["bytes_done"]
        server.kill()
        self.assert_fails(pull, "no holder of m@1")
        self.assertEqual([path.name for path in self.out.iterdir()], [".weightcast-partial"])
        self.serve(self.source, registry=registry.url)
        done = self.pull(registry.url, "m", self.out)
        self.assertLessEqual(done["bytes_read"], done["bytes"] - kept)
        self.assert_same_tree(self.out, self.source)


class Flip(SystemTest):
    """Number 4: a receiver that dies between the last verified chunk and the end of the flip."""

    ROUNDS = 12

    def many_files(self, name: str, seed: int):
        """A version of many small files, so that the flip takes a while if it is not atomic."""
        folder, numbers = self.folder / name, random.Random(seed)
        for i in range(300):
            path = folder / f"part{i % 7}" / f"file{i}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(numbers.randbytes(20_000))
        return folder

    def content(self, out):
        """What a user of the directory sees: the tree but for the stage of a pull."""
        if not out.exists():
            return {}
        return {path: what for path, what in tree(out).items()
                if not path.startswith(".weightcast-partial/")}

    def kill_at_the_end(self, url: str, reference: str, out, moments: random.Random, *arguments):
        """Kills a pull at a random moment between its last chunks and its last event."""
        pull = self.start_pull(url, reference, out, "--name", "receiver", "--take-over", *arguments)
        share = moments.choice((0.5, 1.0, 1.0))
        # A pull that finds every chunk verified by the one before goes straight to its last event.
        pull.wait_any(lambda event: event["event"] == "done" or
                      event["bytes_done"] >= share * event["bytes_total"], "the end of the pull")
        # Not a wait for anything, but the moment of the fault, within the few ms of a flip.
        with contextlib.suppress(subprocess.TimeoutExpired):
            pull.process.wait(moments.choice((0, 0, moments.random() * 0.005)))
        pull.kill()

    def check_leftovers(self, out):
        left = sorted(path.name for path in out.parent.iterdir()
                      if path.name.startswith(f".{out.name}"))
        self.assertEqual(left, [])
        self.assertFalse((out / ".weightcast-partial").exists())

    def test_04_a_new_directory_is_absent_empty_or_whole(self):
        source = self.many_files("source", 1)
        server, whole = self.serve(source, "--chunk-bytes", 65536), tree(source)
        moments, seen, out = random.Random(4), set(), self.folder / "copy"
        for number in range(self.ROUNDS):
            with self.subTest(round=number):
                self.kill_at_the_end(server.url, "m", out, moments)
                content = self.content(out)
                self.assertIn(content, ({}, whole))
                seen.add(bool(content))
                if content:
                    shutil.rmtree(out)
        self.pull(server.url, "m", out)
        self.assertEqual(tree(out), whole)
        self.check_leftovers(out)

    def test_04_an_old_version_stays_or_the_new_one_is_whole(self):
        sources = [self.many_files("one", 1), self.many_files("two", 2)]
        registry, whole = self.meta(), [tree(source) for source in sources]
        for source in sources:
            self.serve(source, "--chunk-bytes", 65536, registry=registry.url)
        moments, out, shown = random.Random(5), self.folder / "copy", 0
        self.pull(registry.url, "m@1", out)
        for number in range(self.ROUNDS):
            with self.subTest(round=number):
                self.kill_at_the_end(registry.url, f"m@{2 - shown}", out, moments, "--replace")
                content = self.content(out)
                self.assertIn(content, (whole[shown], whole[1 - shown]))
                shown = whole.index(content)
        self.pull(registry.url, f"m@{2 - shown}", out, "--replace")
        self.assertEqual(tree(out), whole[1 - shown])
        self.check_leftovers(out)
