"""Goal: a pull over verbs brings the right bytes, and goes on when a holder dies.
Method: a checkpoint pulled from one device to another and compared byte by byte.
"""
from hosts import HostsTest
from kit import MB, Sources


class Pull(HostsTest):
    HOSTS = 3

    def test_from_host_to_host(self):
        source, (here, there, _) = Sources.get(32 * MB), self.hosts
        server = self.start("p2p-serve", source, "--model", "m", "--json", "--fabric", "verbs",
                            "--listen", f"{here.address}:0", "--name", "publisher")
        ready, before = server.wait_event("ready"), here.sent()
        done = self.pull_on(there, ready["registry"], self.folder / "copy")
        self.assert_same_tree(self.folder / "copy", source)
        self.assertEqual(set(self.shares(done)), {"publisher"})
        self.assertEqual((done["holders_lost"], done["corrupt_chunks"]), (0, 0), done)
        self.assertGreater(here.sent() - before, ready["bytes"])
        self.assertNotIn("verbs", server.stderr())

    def test_one_of_two_holders_is_killed(self):
        source, url, (one, other, here) = Sources.get(32 * MB), self.meta().url, self.hosts
        first, _ = self.serve_on_both((one, other), source, url, 5 * MB)
        before = one.sent()
        pull = self.start_pull_on(here, url, self.folder / "copy")
        self.wait_until_read(one, before, pull)
        first.kill()
        done = self.wait_end_of(pull)
        self.assert_same_tree(self.folder / "copy", source)
        self.assertGreaterEqual(done["holders_lost"], 1)
        self.assertEqual(set(self.shares(done)), {"first", "second"})
        # What came from the dead one is kept; only what was on its way is read twice.
        self.assertLess(done["bytes_read"], 1.3 * done["bytes"])
