"""Goal: a pull over verbs survives links that fail, by themselves or in silence, and adapts to
links that are slow.
Method: ports of the switch are switched off, or tc loses or delays what crosses them.
"""
from hosts import PATIENT, HostsTest
from kit import MB, Sources


class Links(HostsTest):
    def lose_one_of_two(self, cut):
        source, url, (one, other, here, there) = Sources.get(32 * MB), self.meta().url, self.hosts
        _, second = self.serve_on_both((one, other), source, url, 5 * MB)
        before = one.sent()
        pull = self.start_pull_on(here, url, self.folder / "copy")
        self.wait_until_read(one, before, pull)
        cut(one)
        done = self.wait_end_of(pull)
        self.assert_same_tree(self.folder / "copy", source)
        self.assertGreaterEqual(done["holders_lost"], 1)
        self.assertEqual(set(self.shares(done)), {"first", "second"})
        # The link is mended, and its host is read from again, here by need.
        one.restore()
        second.kill()
        done = self.pull_on(there, url, self.folder / "again", *PATIENT)
        self.assert_same_tree(self.folder / "again", source)
        self.assertEqual(set(self.shares(done)), {"first"})

    def test_a_cable_is_pulled_and_plugged_in_again(self):
        self.lose_one_of_two(lambda host: host.pull_cable())

    def test_all_packets_are_lost_in_silence(self):
        self.lose_one_of_two(lambda host: host.lose_all())


class Slow(HostsTest):
    def test_behind_a_slow_link_receivers_read_from_each_other(self):
        source, url, (publisher, *others) = Sources.get(32 * MB), self.meta().url, self.hosts
        publisher.shape("tbf", "rate", "80mbit", "burst", "256kb", "limit", "16mb")
        server = self.serve_on(publisher, source, url, "--name", "publisher")
        size = server.ready["bytes"]
        receivers = [self.start_pull_on(host, url, self.folder / host.device, "--serve", "--name",
                                        host.device) for host in others]
        done = [receiver.wait_event("done") for receiver in receivers]
        for host in others:
            self.assert_same_tree(self.folder / host.device, source)
        shares = [self.shares(one) for one in done]
        # Who comes first may read all of it there.
        self.assertLess(sum(share.get("publisher", 0) for share in shares), 2.5 * size, shares)
