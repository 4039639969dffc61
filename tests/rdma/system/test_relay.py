"""Goal: receivers over verbs read from each other, so that a publisher sends about one copy.
Method: a publisher and seven receivers that start together. What the publisher sent is counted
twice: by the receivers' own shares, and by its interface.
"""
from hosts import HostsTest
from kit import MB, Sources

RATE = 6 * MB
COPIES_MAX = 2
# 4096 bytes of an answer travel in about 4160. The interface's counter holds besides: requests,
# pages, and what software devices send twice when a busy processor lets them wait for too long.
OVERHEAD = 1.3


class Relays(HostsTest):
    HOSTS = 8

    def test_a_publisher_sends_at_most_two_copies_to_seven_receivers(self):
        source, url = Sources.get(32 * MB), self.meta().url
        publisher, *others = self.hosts
        server = self.serve_on(publisher, source, url, "--name", "publisher", "--serve-rate-max",
                               RATE)
        size, before = server.ready["bytes"], publisher.sent()
        receivers = [self.start_pull_on(host, url, self.folder / host.device, "--serve", "--name",
                                        host.device, "--serve-rate-max", RATE) for host in others]
        done = [receiver.wait_event("done") for receiver in receivers]
        sent = publisher.sent() - before
        for host in others:
            self.assert_same_tree(self.folder / host.device, source)
        shares = [self.shares(one) for one in done]
        egress = sum(share.get("publisher", 0) for share in shares)
        self.assertGreaterEqual(egress, size)
        self.assertLessEqual(egress, COPIES_MAX * size, shares)
        self.assertLessEqual(sent, OVERHEAD * COPIES_MAX * size, shares)
