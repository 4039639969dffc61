"""Goal: a reader whose host goes without a word leaves no queue pair behind at the holder.
Method: a reader is cut off and then killed, so that its goodbye is lost too; the kernel's list of
queue pairs is the witness.
"""
import json
import pathlib

from hosts import HostsTest, run
from kit import MB, Sources, poll


def connected_pairs(pid: int) -> int:
    """Queue pairs of a process, whose threads the kernel names as their owners."""
    threads = {int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()}
    told = json.loads(run("rdma", "-j", "resource", "show", "qp"))
    return sum(pair.get("pid") in threads and pair.get("type") == "RC" for pair in told)


class Gone(HostsTest):
    HOSTS = 2

    def test_a_reader_cut_off_and_killed(self):
        source, url, (here, there) = Sources.get(32 * MB), self.meta().url, self.hosts
        server = self.serve_on(here, source, url, "--serve-rate-max", 3 * MB)
        pull = self.start_pull_on(there, url, self.folder / "copy")
        pull.wait_progress(0.1)
        self.assertGreater(connected_pairs(server.process.pid), 0)
        there.lose_all()
        pull.kill()
        poll(lambda: connected_pairs(server.process.pid) == 0, "the end of the queue pair", 120)
