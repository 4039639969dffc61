"""Goal: p2p-channel shows who moved a channel where and why, moves it, takes it back, and loses no
race. Method: real versions at a real registry, moved from the command line.
"""
from kit import MB, Sources, SystemTest


class Channels(SystemTest):
    def setUp(self):
        super().setUp()
        self.url = self.meta("--store", self.folder / "store").url
        for seed in (1, 2, 3):
            self.serve(Sources.get(1 * MB, 1, seed), registry=self.url)

    def channel(self, name: str, *arguments) -> list:
        """The events of a command that succeeds."""
        program = self.run_program("p2p-channel", self.url, name, *arguments, "--json")
        self.assertEqual(program.wait_end(), 0, program.evidence())
        return program.events()

    def now(self, name: str):
        """(version, generation) that the channel is at."""
        last = self.channel(name)[-1]
        return last["version"], last["generation"]

    def refused(self, name: str, *arguments, texts, status: int = 1):
        before = self.channel("m")
        self.assert_fails(self.start("p2p-channel", self.url, name, *arguments), *texts,
                          status=status)
        self.assertEqual(self.channel("m"), before)

    def test_history_tells_who_moved_it_where_and_why(self):
        (done,) = self.channel("m", "set", "1", "--who", "me", "--why", "2 and 3 are bad")
        self.assertEqual((done["version"], done["generation"]), (1, 4))
        moves = self.channel("m:stable")
        self.assertEqual([(one["version"], one["generation"]) for one in moves],
                         [(1, 1), (2, 2), (3, 3), (1, 4)])
        self.assertEqual((moves[-1]["who"], moves[-1]["why"]), ("me", "2 and 3 are bad"))
        self.assertGreater(moves[-1]["wall_ms"], 1_600_000_000_000)
        self.assertEqual(self.channel("m", "show", "--count", "2"), moves[-2:])
        lines = self.run_program("p2p-channel", self.url, "m").lines
        self.assertEqual(len(lines), 4)
        self.assertRegex(lines[-1],
                         r"^m:stable  generation 4  @1  20\d\d-.*Z  me: 2 and 3 are bad$")

    def test_rollback_goes_to_the_version_before_with_a_higher_generation(self):
        (done,) = self.channel("m", "rollback")
        self.assertEqual((done["version"], done["generation"]), (2, 4))
        self.assertIn("@3", done["why"])
        self.assertIn("@", done["who"])
        # Again: to what was there before, which is the version that was bad.
        (done,) = self.channel("m", "rollback", "--why", "no, it was good")
        self.assertEqual((done["version"], done["generation"]), (3, 5))
        (done,) = self.channel("m", "rollback", "@1")
        self.assertEqual((done["version"], done["generation"]), (1, 6))
        out = self.folder / "out"
        self.assertEqual(self.pull(self.url, "m", out)["version"], 1)

    def test_a_canary_is_promoted(self):
        (done,) = self.channel("m:canary", "set", "2", "--expect", "0")
        self.assertEqual((done["version"], done["generation"]), (2, 1))
        self.assertEqual(self.now("m"), (3, 3))
        (done,) = self.channel("m:canary", "promote", "stable")
        self.assertEqual((done["channel"], done["version"], done["generation"]), ("stable", 2, 4))
        self.channel("m:canary", "promote", "next")
        self.assertEqual(self.now("m:next"), (2, 1))

    def test_a_canary_goes_to_some_and_ends_with_promotion_or_rollback(self):
        (done,) = self.channel("m", "set", "1")
        (done,) = self.channel("m", "canary", "3", "--label", "ring=0")
        self.assertEqual((done["version"], done["generation"]), (1, 5))
        self.assertEqual(done["canary"],
                         {"version": 3, "percent": 100, "labels": {"ring": "0"}})
        lines = self.run_program("p2p-channel", self.url, "m").lines
        self.assertIn("@1, canary @3 for 100 % with ring=0", lines[-1])
        self.assertEqual(self.pull(self.url, "m", self.folder / "a")["version"], 1)
        trial = self.pull(self.url, "m", self.folder / "b", "--label", "ring=0")
        self.assertEqual(trial["version"], 3)
        (done,) = self.channel("m", "rollback")
        self.assertEqual((done["version"], done["generation"]), (1, 6))
        self.assertNotIn("canary", done)
        self.channel("m", "canary", "3", "--percent", "10")
        (done,) = self.channel("m", "promote")
        self.assertEqual((done["version"], done["generation"]), (3, 8))
        self.assertNotIn("canary", done)

    def test_a_canary_that_makes_no_sense_is_refused(self):
        self.refused("m", "canary", "9", "--percent", "5", texts=["m@9"])
        self.refused("m", "canary", "2", "--percent", "101", texts=["101"])
        self.refused("m", "canary", "2", texts=["--percent", "--label"], status=2)
        self.refused("m", "set", "2", "--percent", "5", texts=["canary"], status=2)
        self.refused("m", "canary", "2", "--label", "ring", texts=["ring", "NAME=VALUE"], status=2)
        self.refused("m", "promote", texts=["no canary"])

    def test_what_somebody_else_moved_stays(self):
        self.refused("m", "set", "1", "--expect", "2", texts=["generation 3, not 2"])
        self.refused("m:stable", "set", "1", "--expect", "0", texts=["generation 3, not 0"])

    def test_what_is_not_there_is_named(self):
        self.refused("m", "set", "9", texts=["m@9"])
        self.refused("x", "set", "1", texts=["x"])
        self.refused("m:nightly", texts=["m:nightly"])
        self.refused("m:nightly", "rollback", texts=["m:nightly"])
        self.channel("m:once", "set", "1")
        self.refused("m:once", "rollback", texts=["m:once", "@1"])
        self.refused("m", "set", "latest", texts=["latest"])
        self.refused("m:a b", "set", "1", texts=["channel"])

    def test_moves_outlive_the_registry(self):
        self.channel("m", "rollback", "--why", "it is kept")
        before = self.channel("m")
        store = self.folder / "store"
        for program in self.programs:
            program.kill()
        self.url = self.meta("--store", store).url
        self.assertEqual(self.channel("m"), before)
