"""Goal: a directory that follows a channel is at every moment one whole version, gets to the newest
one by the bytes that changed, and never to one that was rolled back. Method: real publishers, a
registry that moves the channel, and followers that are killed, stopped and superseded on the way.
"""
import hashlib
import os
import pathlib
import shutil
import signal

from kit import MB, Sources, SystemTest, poll, tree
from mounts import first_extent, mounted_image


class FollowTest(SystemTest):
    """A model whose versions share most of their files."""

    def setUp(self):
        super().setUp()
        self.store = self.folder / "store"
        self.registry = self.meta("--store", self.store)
        self.url = self.registry.url
        self.out = self.folder / "out"
        self.current = self.out / "current"
        self.versions = []

    def publish(self, *arguments, bytes_total: int = 6 * MB, changed: int = 1) -> pathlib.Path:
        """The next version: three shards, the last `changed` of which are new."""
        version = self.folder / f"source{len(self.versions) + 1}"
        if self.versions:
            shutil.copytree(self.versions[-1], version)
            fresh = Sources.get(bytes_total, 3, 100 + len(self.versions))
            for shard in sorted(fresh.glob("*-of-*.safetensors"))[-changed:]:
                shutil.copy(shard, version / shard.name)
        else:
            shutil.copytree(Sources.get(bytes_total, 3, 100), version)
        self.versions.append(version)
        self.serve(version, *arguments, registry=self.url)
        return version

    def publish_slowly(self, *followers):
        """The next version, all of it new, which takes seconds; all of these are on their way."""
        self.publish("--serve-rate-max", 6 * MB, bytes_total=30 * MB, changed=3)
        for follower in followers:
            follower.wait_any(lambda event: event["event"] == "progress" and
                              0.1 < event["bytes_done"] / event["bytes_total"] < 1,
                              "progress of the next version")

    def follow(self, *arguments, model: str = "m"):
        return self.start_pull(self.url, model, self.out, "--follow", *arguments)

    def follow_the_first(self):
        """A follower that has flipped to the first version."""
        self.publish()
        follower = self.follow()
        self.wait_flip(follower, 1)
        return follower

    def wait_flip(self, follower, generation: int) -> dict:
        return follower.wait_any(
            lambda event: event["event"] == "flip" and event["generation"] == generation,
            f"flip to generation {generation}")

    def flips(self, follower):
        return [(event["version"], event["generation"]) for event in follower.events()
                if event["event"] == "flip"]

    def assert_current(self, version: int):
        self.assertEqual(os.readlink(self.current), f"v{version}")
        self.assert_same_tree(self.current, self.versions[version - 1])

    def channel(self, *arguments, name: str = "m"):
        moved = self.run_program("p2p-channel", self.url, name, *arguments)
        self.assertEqual(moved.wait_end(), 0, moved.evidence())

    def move(self, version: int, channel: str = "m"):
        self.channel("set", version, name=channel)


class Following(FollowTest):
    def test_it_gets_what_changed_and_shares_the_rest(self):
        self.publish()
        follower = self.follow()
        first = self.wait_flip(follower, 1)
        self.assertEqual((first["version"], first["bytes_reused"]), (1, 0))
        self.assert_current(1)
        self.publish()
        second = self.wait_flip(follower, 2)
        self.assertEqual(second["version"], 2)
        self.assertLess(second["bytes_read"], second["bytes"] / 2)
        self.assertEqual(second["bytes_read"] + second["bytes_reused"], second["bytes"])
        self.assert_current(2)
        self.assert_same_tree(self.out / "v1", self.versions[0])
        self.publish()
        self.wait_flip(follower, 3)
        self.assert_current(3)
        poll(lambda: not (self.out / "v1").exists(), "the removal of v1")
        self.assert_same_tree(self.out / "v2", self.versions[1])
        self.assertEqual(follower.stop(), 0, follower.evidence())

    def test_a_chunk_that_moved_to_another_file_is_not_read_again(self):
        first = self.publish()
        follower = self.follow()
        self.wait_flip(follower, 1)
        second = self.folder / "source2"
        shutil.copytree(first, second)
        os.rename(next(second.glob("*1-of-*")), second / "renamed.bin")
        (second / "model.safetensors.index.json").unlink(missing_ok=True)
        self.versions.append(second)
        self.serve(second, registry=self.url)
        done = self.wait_flip(follower, 2)
        self.assertEqual(done["bytes_read"], 0)
        self.assert_current(2)

    def change_scattered(self, every: int) -> pathlib.Path:
        """The next version: one of `every` bytes of all tensors is changed. It is not served."""
        version = self.folder / f"source{len(self.versions) + 1}"
        shutil.copytree(self.versions[-1], version)
        for shard in version.glob("*.safetensors"):
            content = bytearray(shard.read_bytes())
            first = 8 + int.from_bytes(content[:8], "little")
            for place in range(first, len(content), every):
                content[place] ^= len(self.versions)
            shard.write_bytes(content)
        self.versions.append(version)
        return version

    def test_of_files_that_changed_in_places_only_the_changes_are_read(self):
        self.publish()
        follower = self.follow()
        self.wait_flip(follower, 1)
        for version in (2, 3):
            server = self.serve(self.change_scattered(500), "--deltas-from",
                                self.versions[version - 2], registry=self.url)
            done = self.wait_flip(follower, version)
            self.assertGreater(server.ready["delta_bytes"], 0)
            self.assertEqual(done["delta_bytes"], server.ready["delta_bytes"])
            self.assertLess(done["bytes_read"], 0.03 * done["bytes"])
            self.assert_current(version)

    def test_deltas_from_files_that_are_no_earlier_version_are_refused(self):
        self.publish()
        stranger = Sources.get(6 * MB, 3, 7)
        server = self.start_serve(self.change_scattered(500), "--deltas-from", stranger,
                                  registry=self.url)
        self.assert_fails(server, f"deltas: {stranger} is no version of m before @2")
        listed = self.list_registry(self.url, "version")
        self.assertEqual([version["version"] for version in listed], [1])

    def share_by_clones(self, kind: str):
        self.out = mounted_image(self, self.folder / kind, kind) / "out"
        self.current = self.out / "current"
        follower = self.follow_the_first()
        self.publish()
        self.wait_flip(follower, 2)
        self.assert_current(2)
        self.assertEqual(follower.stop(), 0, follower.evidence())
        name = "model-00001-of-00003.safetensors"
        first, second = self.out / "v1" / name, self.out / "v2" / name
        self.assertEqual(first.stat().st_nlink, 1)
        self.assertNotEqual(first.stat().st_ino, second.stat().st_ino)
        self.assertEqual(first_extent(first), first_extent(second))
        # What is written to one is not seen in the other.
        with open(second, "r+b") as file:
            file.write(b"changed")
        self.assert_same_tree(self.out / "v1", self.versions[0])

    def test_unchanged_files_are_clones_on_btrfs(self):
        self.share_by_clones("btrfs")

    def test_unchanged_files_are_clones_on_xfs(self):
        self.share_by_clones("xfs")

    def test_a_rollback_reads_nothing_and_has_a_higher_generation(self):
        follower = self.follow_the_first()
        self.publish()
        self.wait_flip(follower, 2)
        self.move(1)
        done = self.wait_flip(follower, 3)
        self.assertEqual((done["version"], done["bytes_read"]), (1, 0))
        self.assert_current(1)
        for generation, version in ((4, 2), (5, 1), (6, 2)):
            self.move(version)
            self.assertEqual(self.wait_flip(follower, generation)["bytes_read"], 0)
            self.assert_current(version)

    def test_a_newer_version_supersedes_one_that_is_being_pulled(self):
        follower = self.follow_the_first()
        self.publish_slowly(follower)
        self.publish(bytes_total=30 * MB, changed=1)
        done = self.wait_flip(follower, 3)
        self.assertGreater(done["bytes_reused"], 0)  # What the pull of version 2 had so far.
        self.assert_current(3)
        self.assertEqual(self.flips(follower), [(1, 1), (3, 3)])
        poll(lambda: not (self.out / "v2").exists(), "the removal of what was dropped")

    def test_killed_on_the_way_it_is_at_the_old_version_and_goes_on(self):
        follower = self.follow_the_first()
        self.publish_slowly(follower)
        follower.kill()
        self.assert_current(1)
        again = self.follow()
        done = self.wait_flip(again, 2)
        self.assertLess(done["bytes_read"], 0.9 * done["bytes"])
        self.assert_current(2)

    def test_stopped_on_the_way_it_does_not_flip_to_what_was_rolled_back(self):
        follower = self.follow_the_first()
        self.publish_slowly(follower)
        follower.signal(signal.SIGSTOP)
        self.move(1)
        follower.signal(signal.SIGCONT)
        self.wait_flip(follower, 3)
        self.assertEqual(self.flips(follower), [(1, 1), (1, 3)])
        self.assert_current(1)

    def test_restarted_it_shares_with_what_it_had(self):
        follower = self.follow_the_first()
        self.assertEqual(follower.stop(), 0, follower.evidence())
        self.publish()
        again = self.follow()
        done = self.wait_flip(again, 2)
        self.assertLess(done["bytes_read"], done["bytes"] / 2)
        self.assert_current(2)

    def test_moves_while_the_registry_was_away_are_found(self):
        self.publish()
        self.publish()
        follower = self.follow()
        self.wait_flip(follower, 2)
        port = int(self.url.rsplit(":", 1)[1])
        self.registry.kill()
        self.registry = self.meta("--store", self.store, port=port)
        self.move(1)
        self.wait_flip(follower, 3)
        self.assert_current(1)

    def test_damage_in_a_kept_version_is_repaired_and_not_spread(self):
        follower = self.follow_the_first()
        self.assertEqual(follower.stop(), 0, follower.evidence())
        shard = next((self.out / "v1").glob("*1-of-*"))
        with open(shard, "r+b") as file:
            file.seek(1_000_000)
            file.write(b"damage")
        self.publish()
        again = self.follow()
        self.wait_flip(again, 2)
        self.assert_current(2)
        self.assert_same_tree(self.out / "v1", self.versions[0])

    def test_the_last_copy_of_what_a_channel_names_is_kept(self):
        self.publish()
        self.move(1, "m:old")
        follower = self.follow("--keep", "1")
        self.wait_flip(follower, 1)
        self.programs[1].stop()  # the first publisher
        self.publish()
        self.wait_flip(follower, 2)
        self.publish()
        self.wait_flip(follower, 3)
        poll(lambda: {path.name for path in self.out.glob("v*")} == {"v1", "v3"},
             "the removal of v2 alone")

    def test_replicas_follow_the_canary_that_is_for_them(self):
        self.publish()
        self.publish()
        self.move(1)
        trial, rest = (self.start_pull(self.url, "m", self.folder / name, "--follow", *labels)
                       for name, labels in (("trial", ["--label", "ring=0"]), ("rest", [])))
        for follower in (trial, rest):
            self.wait_flip(follower, 3)
        self.channel("canary", "2", "--label", "ring=0")
        self.assertEqual(self.wait_flip(trial, 4)["version"], 2)
        self.assertEqual(self.wait_flip(rest, 4)["version"], 1)
        self.channel("rollback")
        self.assertEqual(self.wait_flip(trial, 5)["version"], 1)
        self.channel("canary", "2", "--percent", "100")
        self.channel("promote")
        for follower in (trial, rest):
            self.assertEqual(self.wait_flip(follower, 7)["version"], 2)

    def test_a_link_that_cannot_be_made_is_told_and_tried_again(self):
        self.current.mkdir(parents=True)
        self.publish()
        follower = self.follow()
        for _ in range(2):
            seen = len(follower.lines)
            follower.wait_for(lambda: next((line for line in follower.lines[seen:]
                                            if "trouble" in line), None), "trouble again")
        self.current.rmdir()
        self.wait_flip(follower, 1)
        self.assert_current(1)

    def test_a_channel_that_does_not_exist_yet_is_waited_for(self):
        self.publish()
        follower = self.follow(model="m:canary")
        self.move(1, "m:canary")
        self.wait_flip(follower, 1)
        self.assert_current(1)

    def test_what_cannot_be_followed_is_refused(self):
        self.publish()
        self.assert_fails(self.follow(model="m@1"), "m@1", "channel")
        self.assert_fails(self.follow("--keep", "0"), "--keep", status=2)
        self.assert_fails(self.start_pull(self.url, "m", self.out, "--keep", "3"), "--follow",
                          status=2)
        follower = self.follow()
        self.wait_flip(follower, 1)
        self.assert_fails(self.follow(), "followed already")
        self.assertEqual(tree(self.current), tree(self.versions[0]))


class Fleet(FollowTest):
    """Eight replicas that serve each other."""

    def follow_all(self):
        return {name: self.start_pull(self.url, "m", self.folder / name, "--follow", "--name", name)
                for name in (f"worker{i}" for i in range(8))}

    def wait_all(self, fleet, generation: int) -> dict:
        """{name: version} at this generation."""
        return {name: self.wait_flip(follower, generation)["version"]
                for name, follower in fleet.items()}

    def assert_monotone(self, fleet):
        for follower in fleet.values():
            generations = [generation for _, generation in self.flips(follower)]
            self.assertEqual(generations, sorted(set(generations)))

    def test_31_rollback_while_all_pull_the_newer_version(self):
        self.publish()
        fleet = self.follow_all()
        self.wait_all(fleet, 1)
        self.publish_slowly(*fleet.values())
        self.channel("set", "1")
        self.assertEqual(set(self.wait_all(fleet, 3).values()), {1})
        self.assert_monotone(fleet)
        for name, follower in fleet.items():
            self.assertNotIn(2, [version for version, _ in self.flips(follower)])
            self.assertEqual(os.readlink(self.folder / name / "current"), "v1")

    def test_a_quarter_gets_the_canary_which_is_promoted_or_taken_back(self):
        self.publish()
        self.publish()
        self.move(1)
        fleet = self.follow_all()
        self.wait_all(fleet, 3)
        hashes = {name: hashlib.sha256(f"m/{name}".encode()).digest() for name in fleet}
        chosen = {name for name, digest in hashes.items()
                  if int.from_bytes(digest[:8], "big") % 100 < 25}
        self.assertEqual(len(chosen), 2)
        self.channel("canary", "2", "--percent", "25")
        trial = self.wait_all(fleet, 4)
        self.assertEqual({name for name, version in trial.items() if version == 2}, chosen)
        self.channel("rollback")
        self.assertEqual(set(self.wait_all(fleet, 5).values()), {1})
        self.channel("canary", "2", "--percent", "25")
        self.wait_all(fleet, 6)
        self.channel("promote")
        self.assertEqual(set(self.wait_all(fleet, 7).values()), {2})
        self.assert_monotone(fleet)
        holders = self.list_registry(self.url, "peer")
        self.assertEqual(len([peer for peer in holders if peer["peer"] in fleet]), 8)

    def test_36_a_late_joiner_gets_what_is_current_when_it_comes(self):
        self.publish()
        early = self.follow()
        self.wait_flip(early, 1)
        self.publish_slowly(early)
        late = self.start_pull(self.url, "m", self.folder / "late", "--follow")
        self.assertEqual(self.wait_flip(late, 2)["version"], 2)
        self.assertEqual(self.flips(late), [(2, 2)])
        self.wait_flip(early, 2)

    def test_14_a_publisher_that_was_stopped_past_its_lease_is_fenced(self):
        self.registry.stop()
        self.registry = self.meta("--lease-ms", "500")
        self.url = self.registry.url
        old = self.serve(Sources.get(1 * MB, 1, 1), "--name", "trainer", registry=self.url)
        old.signal(signal.SIGSTOP)
        poll(lambda: not self.list_registry(self.url, "peer"), "the end of its lease")
        self.serve(Sources.get(1 * MB, 1, 2), "--name", "trainer", registry=self.url)
        old.signal(signal.SIGCONT)
        old.wait_message("trainer")  # Another one has its name: it may not speak for it.
        self.assertEqual(self.pull(self.url, "m@2", self.folder / "two")["version"], 2)
        names = [peer["peer"] for peer in self.list_registry(self.url, "peer")]
        self.assertEqual(names.count("trainer"), 1)

    def test_32_of_two_publishers_of_one_version_one_wins(self):
        racers = [self.start_serve(Sources.get(1 * MB, 1, seed), "--version", "5",
                                   registry=self.url) for seed in (1, 2)]
        poll(lambda: any(not racer.running() for racer in racers), "the end of one of them")
        loser, winner = sorted(racers, key=lambda racer: racer.running())
        self.assert_fails(loser, "m@5", "never changes")
        self.assertEqual(winner.wait_event("ready")["version"], 5)
