"""Goal: faults of the registry (5, 6, 7 and 33, and 19 for its disk): what it acknowledged stays,
pulls that run finish, and the agents find their way back by themselves.
Method: p2p-meta with a store, killed and restarted on its port; what it lists afterwards.
"""
import random
import shutil
import time

from kit import MB, Sources, SystemTest, poll
from mounts import fill, mounted


class Registry(SystemTest):
    def setUp(self):
        super().setUp()
        self.store = self.folder / "store"

    def restart(self, registry, *arguments):
        """Starts a registry on the port of one that has ended."""
        return self.meta("--store", self.store, *arguments, port=registry.url.rsplit(":", 1)[1])

    def wait_for_peer(self, url: str, name: str):
        def known():
            peers = {peer["peer"]: peer for peer in self.list_registry(url, "peer")}
            return name in peers and any(held["complete"] for held in peers[name]["holdings"])
        poll(known, f"{name} announces itself again")

    def test_05_registry_killed_mid_pull(self):
        source = Sources.get(64 * MB)
        registry = self.meta("--store", self.store, "--lease-ms", 1000)
        self.serve(source, "--name", "publisher", "--serve-rate-max", 30 * MB,
                   registry=registry.url)
        pull = self.start_pull(registry.url, "m", self.folder / "copy")
        pull.wait_progress(0.3)
        registry.kill()
        self.wait_end_of(pull)
        self.assert_same_tree(self.folder / "copy", source)
        registry = self.restart(registry, "--lease-ms", 1000)
        (version,) = self.list_registry(registry.url, "version")
        self.assertEqual((version["version"], version["channels"][0]["channel"]), (1, "stable"))
        self.wait_for_peer(registry.url, "publisher")
        self.pull(registry.url, "m", self.folder / "again")
        self.assert_same_tree(self.folder / "again", source)

    def test_05_registry_killed_and_back_while_pulls_run(self):
        source = Sources.get(64 * MB)
        registry = self.meta("--store", self.store, "--lease-ms", 500)
        self.serve(source, "--serve-rate-max", 20 * MB, registry=registry.url)
        pulls = [self.start_pull(registry.url, "m", self.folder / f"copy{i}") for i in range(3)]
        for share in (0.2, 0.4, 0.6):
            pulls[0].wait_progress(share)
            registry.kill()
            registry = self.restart(registry, "--lease-ms", 500)
        for i, pull in enumerate(pulls):
            self.wait_end_of(pull)
            self.assert_same_tree(self.folder / f"copy{i}", source)

    def publish_and_kill(self, number: int, moment: float, registry):
        """Publishes a model while the registry dies; the manifest if that was acknowledged."""
        server = self.start_serve(Sources.get(MB // 4, 1, number), model=f"m{number}",
                                  registry=registry.url)
        # Not a wait for anything, but the moment of the fault: around that of the commit.
        time.sleep(moment)
        registry.kill()
        try:
            return server.wait_event("ready")["manifest"]
        except AssertionError:
            self.assertEqual(server.wait_end(), 1, server.evidence())
            return None
        finally:
            server.kill()

    def test_06_registry_killed_around_commits(self):
        moments, acknowledged, numbers = random.Random(6), {}, range(1, 17)
        registry = self.meta("--store", self.store)
        for number in numbers:
            Sources.get(MB // 4, 1, number)  # So that what is timed is the publishing.
            manifest = self.publish_and_kill(number, moments.random() * 0.06, registry)
            if manifest is not None:
                acknowledged[f"m{number}"] = manifest
            registry = self.restart(registry)
        listed = {version["model"]: version["manifest"]
                  for version in self.list_registry(registry.url, "version")}
        self.assertEqual({**listed, **acknowledged}, listed)
        for number in numbers:
            model, source = f"m{number}", Sources.get(MB // 4, 1, number)
            again = self.serve(source, model=model, registry=registry.url)
            self.assertEqual(again.ready["version"], 1)
            self.assertEqual(again.ready["created"], model not in listed)
            self.assertEqual(again.ready["manifest"], listed.get(model, again.ready["manifest"]))
            self.pull(registry.url, model, self.folder / model)
            self.assert_same_tree(self.folder / model, source)
            again.kill()

    def test_07_registry_disk_lost(self):
        source = Sources.get(8 * MB)
        registry = self.meta("--store", self.store, "--lease-ms", 500)
        server = self.serve(source, "--name", "publisher", registry=registry.url)
        registry.kill()
        shutil.rmtree(self.store)
        registry = self.restart(registry, "--lease-ms", 500)
        server.wait_message("another cluster")
        self.wait_for_peer(registry.url, "publisher")
        (version,) = self.list_registry(registry.url, "version")
        self.assertEqual(version["manifest"], server.ready["manifest"])
        self.pull(registry.url, "m:stable", self.folder / "copy")
        self.assert_same_tree(self.folder / "copy", source)

    def test_19_registry_disk_full(self):
        disk = mounted(self, self.folder / "disk", 2 * MB)
        registry = self.meta("--store", disk / "store")
        fill(disk / "filler")
        publish = self.start_serve(Sources.get(MB // 4, 1, 1), registry=registry.url)
        self.assert_fails(publish, str(disk / "store"))
        self.assertTrue(registry.running())
        (disk / "filler").unlink()
        self.serve(Sources.get(MB // 4, 1, 1), registry=registry.url)
        self.pull(registry.url, "m", self.folder / "copy")
        self.assert_same_tree(self.folder / "copy", Sources.get(MB // 4, 1, 1))

    def test_33_same_version_other_bytes(self):
        registry = self.meta("--store", self.store)
        first = self.serve(Sources.get(2 * MB, 1, 1), "--version", 1, registry=registry.url).ready
        second = self.start_serve(Sources.get(2 * MB, 1, 2), "--version", 1, registry=registry.url)
        message = self.assert_fails(second, first["manifest"], "m@1")
        digests = {word for word in message.replace(",", " ").split() if len(word) == 64}
        self.assertEqual(len(digests), 2, message)
        self.pull(registry.url, "m@1", self.folder / "copy")
        self.assert_same_tree(self.folder / "copy", Sources.get(2 * MB, 1, 1))


class Store(SystemTest):
    def test_a_store_that_cannot_be_made_is_named(self):
        (self.folder / "file").write_text("in the way\n")
        store = self.folder / "file" / "store"
        self.assert_fails(self.start("p2p-meta", "--listen", "127.0.0.1:0", "--store", store),
                          str(store))

    def test_a_store_belongs_to_one_registry(self):
        self.meta("--store", self.folder / "store")
        second = self.start("p2p-meta", "--listen", "127.0.0.1:0", "--store", self.folder / "store")
        self.assert_fails(second, str(self.folder / "store"))
