"""Goal: two rails on both sides carry a pull together, one alone where the other is down or goes
down, and then no holder counts as lost.
Method: each side has two devices; what a rail carried is told by its interface's counters.
"""
from hosts import HostsTest
from kit import MB, Sources


class Rails(HostsTest):
    def setUp(self):
        super().setUp()
        self.source, self.url, self.out = Sources.get(32 * MB), self.meta().url, self.folder / "out"
        self.holders, self.readers = self.hosts[:2], self.hosts[2:]

    def devices(self, hosts):
        return [word for host in hosts for word in ("--device", host.device)]

    def start_server(self, *arguments):
        return self.serve_on(self.holders[0], self.source, self.url, *self.devices(self.holders),
                             *arguments)

    def start_pull_by_rails(self):
        return self.start_pull_on(self.readers[0], self.url, self.out, *self.devices(self.readers))

    def finish(self, pull) -> dict:
        done = self.wait_end_of(pull)
        self.assert_same_tree(self.out, self.source)
        self.shares(done)
        self.assertEqual(done["holders_lost"], 0, pull.evidence())
        return done

    def test_both_carry_a_fair_share(self):
        self.start_server()
        sent = [host.sent() for host in self.holders]
        received = [host.received() for host in self.readers]
        done = self.finish(self.start_pull_by_rails())
        for host, before in zip(self.holders, sent):
            self.assertGreater(host.sent() - before, 0.3 * done["bytes"])
        for host, before in zip(self.readers, received):
            self.assertGreater(host.received() - before, 0.3 * done["bytes"])

    def lose_a_rail(self, lost, other):
        """Pulls the cable of `lost` in the middle; `other` is the same side's other host."""
        # Slow enough for the pull to last. A cap would leave little to read at a time, for which
        # one rail is enough.
        for host in self.holders:
            host.shape("tbf", "rate", "40mbit", "burst", "256kb", "limit", "16mb")
        before = [host.sent() for host in self.holders]
        self.start_server()
        pull = self.start_pull_by_rails()
        for host, start in zip(self.holders, before):
            self.wait_until_read(host, start, pull)
        had = pull.events()[-1]["bytes_done"]
        lost.pull_cable()
        crossed = other.sent() + other.received()
        done = self.finish(pull)
        # Some chunks were on their way, and some that had come were not reported yet, above all
        # where the processor is emulated.
        self.assertGreater(other.sent() + other.received() - crossed,
                           0.5 * (done["bytes"] - had))

    def test_the_first_of_the_holder_is_lost(self):
        self.lose_a_rail(self.holders[0], self.holders[1])

    def test_the_second_of_the_reader_is_lost(self):
        self.lose_a_rail(self.readers[1], self.readers[0])

    def test_what_is_down_at_the_start_is_left_out(self):
        self.holders[1].pull_cable()
        self.readers[1].switch_off()
        server = self.start_server()
        pull = self.start_pull_by_rails()
        self.finish(pull)
        for program, host in ((server, self.holders[1]), (pull, self.readers[1])):
            (message,) = program.messages
            self.assertRegex(message, f"warning: .*{host.device}.* down")
