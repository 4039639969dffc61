#!/usr/bin/env python3
"""Tests tests/rdma/vm, with three boots of the guest. Skipped where the guest cannot be had."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

VM = pathlib.Path(__file__).resolve().parent / "vm"
DEVICES = 3
# One boot does all this; each part prints a line for a case below.
SCRIPT = r"""
echo "printed $WORD in $PWD"
echo "an error" >&2
echo written >"$FOLDER/file" && echo "mapped as $(python3 -c '
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
    view[:4] = b"MAPP"
    print(view[:].decode().strip())' "$FOLDER/file")"
rdma link
dmesg | grep -c 'rdma_rxe: loaded' | sed 's/^/in the log: /'
if command -v rping >/dev/null; then
    # Each side sends and reads what the other has, ten times.
    rping -s -a 10.0.0.1 -C 10 &
    until rdma resource show cm_id | grep -q LISTEN; do sleep 0.1; done
    rping -c -a 10.0.0.1 -I 10.0.0.3 -C 10 && wait $! && echo "rping: done"
    ip link set p0 down
    rdma link show rdma0/1 | sed 's/^/cut: /'
fi
sleep 1000 &   # The guest ends all the same.
exit 7
"""


def run(*arguments, **environment):
    return subprocess.run([VM, *arguments], env={**os.environ, **environment},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


class Vm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        check = run("--check")
        if check.returncode == 77:
            raise unittest.SkipTest(check.stderr.strip())
        with tempfile.TemporaryDirectory() as folder:
            cls.done = run("-n", str(DEVICES), "-w", folder, "bash", "-c", SCRIPT,
                           WORD="two  words", FOLDER=folder)
            cls.file = pathlib.Path(folder, "file").read_text(encoding="utf-8")

    def test_output_and_status_are_handed_through(self):
        self.assertEqual(7, self.done.returncode, self.done)
        self.assertIn(f"printed two  words in {os.getcwd()}\nan error\n", self.done.stdout)
        self.assertEqual("", self.done.stderr)

    def test_shared_folder_is_written_and_mapped(self):
        self.assertEqual("MAPPten\n", self.file)
        self.assertIn("mapped as MAPPten\n", self.done.stdout)

    def test_devices_are_active(self):
        for number in range(DEVICES):
            self.assertIn(f"link rdma{number}/1 state ACTIVE physical_state LINK_UP "
                          f"netdev r{number}", self.done.stdout)
        self.assertIn("in the log: 1\n", self.done.stdout)

    @unittest.skipUnless(shutil.which("rping"), "rping is not installed (package rdmacm-utils)")
    def test_devices_reach_each_other(self):
        self.assertIn("rping: done\n", self.done.stdout)

    @unittest.skipUnless(shutil.which("rping"), "rping is not installed (package rdmacm-utils)")
    def test_device_that_is_cut_off_is_down(self):
        self.assertIn("cut: link rdma0/1 state DOWN", self.done.stdout)

    def test_timeout_is_told(self):
        done = run("-T", "2", "sleep", "1000")
        self.assertEqual((124, ""), (done.returncode, done.stdout), done)
        self.assertIn("no end within 2 s", done.stderr)

    def test_death_of_the_guest_is_told(self):
        done = run("bash", "-c", "echo before; echo c >/proc/sysrq-trigger")
        self.assertEqual((125, "before\n"), (done.returncode, done.stdout), done)
        self.assertIn("sysrq triggered crash", done.stderr)


class VmWithoutGuest(unittest.TestCase):
    def test_missing_guest_is_a_skip_with_its_reason(self):
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(sys.executable, pathlib.Path(folder, "python3"))
            done = run("true", PATH=folder)
        self.assertEqual((77, ""), (done.returncode, done.stdout), done)
        self.assertRegex(done.stderr, r"\Atests/rdma/vm: skipped: [^\n]+\n\Z")

    def test_usage_is_checked(self):
        for arguments in ([], ["-n", "0", "true"], ["-w", "/no such folder", "true"]):
            self.assertEqual(2, run(*arguments).returncode, arguments)


if __name__ == "__main__":
    unittest.main()
