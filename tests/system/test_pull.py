"""Goal: p2p-serve and p2p-pull move a checkpoint whole over each fabric, and say so in JSON.
Method: one publisher with its registry inside, pulls into fresh directories, SHA-256 of the trees.
"""
import os
import pathlib
import unittest
import urllib.request

from kit import MB, Sources, SystemTest

HOLDER_FIELDS = {"peer": str, "fabric": str, "emulated": bool, "bytes": int}
NUMBER = (int, float)
DONE_FIELDS = {"bytes": int, "bytes_read": int, "seconds": NUMBER, "bound_seconds": NUMBER,
               "ratio": NUMBER, "limited_by": str, "holders": list}


class Fabrics(SystemTest):
    def check_done(self, done: dict, fabric: str, total: int):
        self.assertEqual(done["event"], "done")
        for field, kind in DONE_FIELDS.items():
            self.assertIsInstance(done[field], kind, field)
        for holder in done["holders"]:
            for field, kind in HOLDER_FIELDS.items():
                self.assertIsInstance(holder[field], kind, field)
            self.assertEqual(holder["fabric"], fabric)
        self.assertEqual(sum(holder["bytes"] for holder in done["holders"]), done["bytes_read"])
        self.assertEqual((done["bytes"], done["bytes_read"]), (total, total))
        self.assertGreater(done["seconds"], 0)
        self.assertGreater(done["bound_seconds"], 0)
        self.assertAlmostEqual(done["ratio"], done["seconds"] / done["bound_seconds"], delta=1e-6)
        self.assertTrue(done["limited_by"])

    def pull_over(self, fabric: str):
        source = Sources.get(64 * MB)
        server = self.start_serve(source, "--fabric", fabric)
        try:
            ready = server.wait_event("ready")
        except AssertionError:
            if server.running() or fabric not in server.stderr():
                raise
            raise unittest.SkipTest(server.stderr()) from None
        self.assertRegex(ready["registry"], r"^http://127\.0\.0\.1:[1-9][0-9]*$")
        done = self.pull(ready["registry"], "m", self.folder / "copy", "--fabric", fabric)
        total = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        self.check_done(done, fabric, total)
        self.assert_same_tree(self.folder / "copy", source)
        self.assertEqual(os.listdir(self.folder), ["copy"])
        self.assertEqual(server.stop(), 0)

    def test_over_shm(self):
        self.pull_over("shm")

    def test_over_tcp(self):
        self.pull_over("tcp")

    def test_over_ucx(self):
        self.pull_over("ucx")

    def test_loads_the_libraries_of_a_transport_only_for_it(self):
        """UCX patches the memory functions of a process that loads it."""
        server = self.serve(Sources.get(1 * MB), "--fabric", "tcp")
        one = self.start_pull(server.url, "m", self.folder / "a", "--serve", "--name", "one")
        one.wait_event("done")
        mapped = pathlib.Path(f"/proc/{one.process.pid}/maps").read_text(encoding="utf-8")
        self.assertIn("libc.so", mapped)
        self.assertNotIn("libucs", mapped)
        if not os.path.isdir("/sys/class/infiniband"):
            self.assertNotIn("libibverbs", mapped)
        self.assertEqual(one.stop(), 0)

    def test_each_line_on_stdout_is_an_event(self):
        server = self.serve(Sources.get(8 * MB), "--serve-rate-max", 20 * MB)
        self.pull(server.url, "m", self.folder / "copy")
        for event in server.events() + self.programs[-1].events():
            self.assertIsInstance(event["event"], str)
        progress = [e for e in self.programs[-1].events() if e["event"] == "progress"]
        done = [event["bytes_done"] for event in progress]
        self.assertEqual(done, sorted(done))
        self.assertEqual(done[-1], progress[-1]["bytes_total"])

    def test_a_serving_receiver_says_done_and_goes_on(self):
        source = Sources.get(8 * MB)
        server = self.serve(source)
        first = self.start_pull(server.url, "m", self.folder / "a", "--serve", "--name", "first")
        first.wait_event("done")
        self.assertTrue(first.running())
        second = self.start_pull(server.url, "m", self.folder / "b", "--name", "second")
        self.wait_end_of(second)
        self.assert_same_tree(self.folder / "b", source)
        self.assertEqual(first.stop(), 0)

    def test_without_json_the_last_line_is_for_people(self):
        server = self.serve(Sources.get(8 * MB))
        pull = self.run_program("p2p-pull", server.url, "m", "-o", self.folder / "copy")
        self.assertEqual(pull.wait_end(), 0, pull.evidence())
        self.assertRegex(pull.lines[-1], r"^m@1: .* lower bound .* ratio")


    def test_the_command_that_p2p_serve_prints_pulls(self):
        source = Sources.get(8 * MB)
        server = self.start("p2p-serve", source, "--model", "llama3", "--listen", "127.0.0.1:0")
        said = server.wait_for(
            lambda: next((line for line in server.lines if "p2p-pull " in line), None), "command")
        name, url, model, *out = said[said.index("p2p-pull "):].split()
        self.assertEqual((model, out), ("llama3", ["-o", "./llama3"]))
        pull = self.run_program(name, url, model, "-o", self.folder / "copy")
        self.assertEqual(pull.wait_end(), 0, pull.evidence())
        self.assert_same_tree(self.folder / "copy", source)


class Trees(SystemTest):
    """What a directory may hold comes through as it is."""

    def test_odd_files(self):
        source, cache = self.folder / "source", self.folder / "cache"
        for folder in (source / "a" / "b" / "c", cache):
            folder.mkdir(parents=True)
        (source / "a" / "b" / "c" / "deep.bin").write_bytes(os.urandom(300_000))
        (source / "run me.sh").write_text("#!/bin/sh\n")
        (source / "run me.sh").chmod(0o755)
        (source / "empty").touch()
        (source / "a" / "größe 重み.txt").write_text("name with spaces and unicode\n")
        (cache / "blob").write_bytes(os.urandom(70_000))  # As the cache of Hugging Face has it.
        (source / "model.bin").symlink_to(cache / "blob")
        server = self.serve(source)
        self.pull(server.url, "m", self.folder / "copy")
        self.assert_same_tree(self.folder / "copy", source)
        self.assertFalse((self.folder / "copy" / "model.bin").is_symlink())

    def test_single_files(self):
        (self.folder / "one.bin").write_bytes(os.urandom(1000))
        (self.folder / "two.bin").write_bytes(b"")
        server = self.serve(self.folder / "one.bin", self.folder / "two.bin")
        self.pull(server.url, "m", self.folder / "copy")
        copied = sorted(path.name for path in (self.folder / "copy").iterdir())
        self.assertEqual(copied, ["one.bin", "two.bin"])

    def test_an_empty_directory_is_refused(self):
        (self.folder / "nothing").mkdir()
        self.assert_fails(self.start_serve(self.folder / "nothing"), "no file to publish")


class Versions(SystemTest):
    def test_versions_and_channels(self):
        one, two = Sources.get(2 * MB, 1, 1), Sources.get(2 * MB, 1, 2)
        registry = self.meta()
        self.serve(one, registry=registry.url)
        self.assertEqual(self.serve(two, registry=registry.url).ready["version"], 2)
        for reference, source in (("@1", one), ("@2", two), (":stable", two), ("", two)):
            out = self.folder / f"copy{reference}"
            self.pull(registry.url, f"m{reference}", out)
            self.assert_same_tree(out, source)

    def test_a_version_gets_the_number_that_was_asked_for(self):
        server = self.serve(Sources.get(2 * MB, 1, 1), "--version", 5)
        self.assertEqual(server.ready["version"], 5)
        self.assertEqual(self.pull(server.url, "m@5", self.folder / "copy")["version"], 5)

    def test_the_same_bytes_are_the_same_version(self):
        registry, source = self.meta(), Sources.get(2 * MB, 1, 1)
        first = self.serve(source, registry=registry.url).ready
        second = self.serve(source, registry=registry.url).ready
        self.assertEqual((first["version"], first["created"]), (1, True))
        self.assertEqual((second["version"], second["created"]), (1, False))
        self.assertEqual(first["manifest"], second["manifest"])

    def test_a_named_channel_moves_alone(self):
        registry = self.meta()
        self.serve(Sources.get(2 * MB, 1, 1), registry=registry.url)
        self.serve(Sources.get(2 * MB, 1, 2), "--channel", "canary", registry=registry.url)
        self.assertEqual(self.pull(registry.url, "m", self.folder / "a")["version"], 1)
        self.assertEqual(self.pull(registry.url, "m:canary", self.folder / "b")["version"], 2)


class Listing(SystemTest):
    def test_p2p_ls_tells_versions_channels_peers_and_holdings(self):
        server = self.serve(Sources.get(2 * MB, 1, 1), "--name", "publisher")
        (version,) = self.list_registry(server.url, "version")
        self.assertEqual((version["model"], version["version"]), ("m", 1))
        self.assertEqual(version["bytes"], server.ready["bytes"])
        self.assertEqual([c["channel"] for c in version["channels"]], ["stable"])
        (peer,) = self.list_registry(server.url, "peer", "m")
        self.assertEqual(peer["peer"], "publisher")
        self.assertEqual([(h["model"], h["version"], h["complete"]) for h in peer["holdings"]],
                         [("m", 1, True)])
        self.assert_fails(self.start("p2p-ls", server.url, "other"), "other")

    def test_health_and_metrics_are_there(self):
        server = self.serve(Sources.get(2 * MB, 1, 1))
        self.pull(server.url, "m", self.folder / "copy")
        with urllib.request.urlopen(f"{server.url}/healthz", timeout=60) as answer:
            self.assertEqual(answer.status, 200)
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
            self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))
            text = answer.read().decode()
        samples = [line for line in text.splitlines() if line and not line.startswith("#")]
        self.assertTrue(samples)
        for sample in samples:
            self.assertRegex(sample, r"^weightcast_[a-z0-9_]+(\{[^}]*\})? [-+0-9.eE]+(Inf|NaN)?$")

    def test_listening_beyond_loopback_without_a_token_is_warned_of(self):
        open_to_all = self.start("p2p-meta", "--json", "--listen", "0.0.0.0:0")
        open_to_all.wait_event("ready")
        self.assertIn("TOKEN", open_to_all.wait_message("warning"))
        guarded = self.meta()
        self.assertEqual(guarded.stop(), 0)
        self.assertEqual(guarded.messages, [])
