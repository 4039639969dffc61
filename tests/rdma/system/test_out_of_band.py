"""Goal: hosts that connect without librdmacm read from each other as others do, over all rails.
Method: both sides are told so; each has two devices, whose counters tell what they carried.
"""
from hosts import HostsTest
from kit import MB, Sources


class OutOfBand(HostsTest):
    def test_two_rails_each(self):
        source, url = Sources.get(32 * MB), self.meta().url
        holders, readers = self.hosts[:2], self.hosts[2:]
        rails = [[word for host in hosts for word in ("--device", host.device)]
                 for hosts in (holders, readers)]
        self.serve_on(holders[0], source, url, "--out-of-band", *rails[0], "--name", "publisher")
        before = [host.sent() for host in holders]
        done = self.pull_on(readers[0], url, self.folder / "copy", "--out-of-band", *rails[1])
        self.assert_same_tree(self.folder / "copy", source)
        self.assertEqual(set(self.shares(done)), {"publisher"})
        self.assertEqual((done["holders_lost"], done["corrupt_chunks"]), (0, 0), done)
        for host, start in zip(holders, before):
            self.assertGreater(host.sent() - start, 0.3 * done["bytes"])

    def test_one_device_each(self):
        source, url, (here, there, *_) = Sources.get(32 * MB), self.meta().url, self.hosts
        self.serve_on(here, source, url, "--out-of-band", "--name", "publisher")
        done = self.pull_on(there, url, self.folder / "copy", "--out-of-band")
        self.assert_same_tree(self.folder / "copy", source)
        self.assertEqual(set(self.shares(done)), {"publisher"})
        self.assertEqual((done["holders_lost"], done["corrupt_chunks"]), (0, 0), done)
