"""Goal: a pull over verbs goes on when its holder comes back as another process, and a receiver
that comes back goes on where it was.
Method: processes killed in the middle of a pull, and started again with the same arguments.
"""
from hosts import PATIENT, HostsTest
from kit import MB, Sources

RATE = 6 * MB


class Restarts(HostsTest):
    HOSTS = 3

    def setUp(self):
        super().setUp()
        self.source, self.url = Sources.get(32 * MB), self.meta().url

    def start_publisher(self):
        return self.serve_on(self.hosts[0], self.source, self.url, "--name", "publisher",
                             "--take-over", "--serve-rate-max", RATE)

    def test_the_only_holder(self):
        server = self.start_publisher()
        pull = self.start_pull_on(self.hosts[1], self.url, self.folder / "copy", *PATIENT)
        pull.wait_progress(0.3)
        server.kill()
        self.start_publisher()
        done = self.wait_end_of(pull)
        self.assert_same_tree(self.folder / "copy", self.source)
        self.assertEqual(set(self.shares(done)), {"publisher"})
        self.assertGreaterEqual(done["holders_lost"], 1)
        self.assertLess(done["bytes_read"], 1.5 * done["bytes"])

    def test_a_receiver_that_others_read_from(self):
        def start_receiver():
            return self.start_pull_on(self.hosts[1], self.url, self.folder / "receiver", "--serve",
                                      "--name", "receiver", "--take-over", "--serve-rate-max", RATE)
        self.start_publisher()
        receiver = start_receiver()
        receiver.wait_progress(0.3)
        other = self.start_pull_on(self.hosts[2], self.url, self.folder / "other")
        other.wait_progress(0.1)
        receiver.kill()
        done = start_receiver().wait_event("done")
        self.assertLess(done["bytes_read"], 0.9 * done["bytes"])
        self.assert_same_tree(self.folder / "receiver", self.source)
        self.assertIn("receiver", self.shares(self.wait_end_of(other)))
        self.assert_same_tree(self.folder / "other", self.source)
