"""Goal: faults of files and disks (19, 21, 22 and 23 in the numbering of the tests' names).
Method: a small file system that fills up, headers written byte by byte, sources that change while
they are read.
"""
import json
import os
import resource
import shutil
import struct

from kit import MB, Sources, SystemTest, poll
from mounts import fill, mounted, resize


class FullDisk(SystemTest):
    def test_19_too_small_for_the_version(self):
        source, disk = Sources.get(64 * MB), mounted(self, self.folder / "disk", 40 * MB)
        server = self.serve(source)
        self.assert_fails(self.start_pull(server.url, "m", disk / "copy"), str(disk / "copy"),
                          "No space left")
        resize(disk, 200 * MB)
        self.pull(server.url, "m", disk / "copy")
        self.assert_same_tree(disk / "copy", source)

    def test_19_what_was_verified_is_kept(self):
        source, disk = Sources.get(64 * MB), mounted(self, self.folder / "disk", 200 * MB)
        server = self.serve(source, "--serve-rate-max", 30 * MB)
        pull = self.start_pull(server.url, "m", disk / "copy")
        kept = pull.wait_progress(0.4)["bytes_done"]
        pull.kill()
        # The stage loses its last file, and there is no room to make it anew.
        (disk / "copy" / ".weightcast-partial" / "files" / "tokenizer.json").unlink()
        fill(disk / "filler")
        self.assert_fails(self.start_pull(server.url, "m", disk / "copy"), str(disk / "copy"),
                          "No space left")
        (disk / "filler").unlink()
        done = self.pull(server.url, "m", disk / "copy")
        self.assert_same_tree(disk / "copy", source)
        self.assertLessEqual(done["bytes_read"], done["bytes"] - kept + MB)

    def test_19_mount_point_as_directory(self):
        source, disk = Sources.get(8 * MB), mounted(self, self.folder / "disk", 40 * MB)
        server = self.serve(source)
        self.pull(server.url, "m", disk)
        self.assert_same_tree(disk, source)
        self.assertEqual(self.pull(server.url, "m", disk)["bytes_read"], 0)


def safetensors(header, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def tensor(first: int, last: int, shape=None, dtype: str = "U8"):
    return {"dtype": dtype, "shape": [last - first] if shape is None else shape,
            "data_offsets": [first, last]}


class Headers(SystemTest):
    """A source with a wrong header is not published, and the message says where it is wrong."""

    def refuse(self, name: str, data: bytes, *texts: str):
        with self.subTest(name):
            folder = self.folder / name
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(data)
            program = self.start_serve(folder)
            self.assert_fails(program, "model.safetensors", *texts)
            self.assertNotIn("ready", [event["event"] for event in program.events()])

    def test_21_corrupt_files_are_named_with_tensor_and_offset(self):
        data = bytes(100)
        self.refuse("cut", safetensors({"a": tensor(0, 60), "b": tensor(60, 100)}, data[:80]),
                    "b", "100")
        self.refuse("overlap", safetensors({"a": tensor(0, 60), "b": tensor(50, 100)}, data),
                    "b", "50")
        self.refuse("hole", safetensors({"a": tensor(0, 40), "b": tensor(50, 100)}, data),
                    "b", "50")
        self.refuse("rest", safetensors({"a": tensor(0, 90)}, data), "10 bytes")
        self.refuse("shape", safetensors({"a": tensor(0, 100, [7, 7])}, data), "a", "49")
        self.refuse("dtype", safetensors({"a": tensor(0, 100, dtype="U9")}, data), "a", "U9")
        self.refuse("order", safetensors({"a": tensor(100, 0, [100])}, data), "a", "100")
        self.refuse("json", safetensors(b'{"a": {"dtype": "U8", ', data), "JSON")
        self.refuse("short", b"\1\2\3")
        self.refuse("empty", b"")

    def test_21_shard_index_that_names_what_is_not_there(self):
        shutil.copytree(Sources.get(8 * MB), self.folder / "source")
        (self.folder / "source" / "model-00002-of-00003.safetensors").unlink()
        self.assert_fails(self.start_serve(self.folder / "source"),
                          "model.safetensors.index.json", "model-00002-of-00003.safetensors")

    def test_23_hostile_headers_are_refused_in_bounded_memory(self):
        limit = 512 * MB  # Far below what the headers ask for.
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.refuse("huge", struct.pack("<Q", 2**63) + b"{}")
        self.refuse("past", struct.pack("<Q", 10**12) + b"{}")
        self.refuse("nested", safetensors(b'{"a":' * 2_000_000 + b"1" + b"}" * 2_000_000))
        self.refuse("arrays", safetensors(b'{"a":' + b"[" * 5_000_000))
        self.refuse("twice", safetensors(b'{"a":%b,"a":%b}' % (
            (json.dumps(tensor(0, 4)).encode(),) * 2), bytes(4)), "a")
        self.refuse("overflow", safetensors(
            {"a": tensor(0, 8, [2**62, 2**62, 16], "F64")}, bytes(8)), "a")
        self.refuse("offsets", safetensors({"a": tensor(2**64 - 8, 2**64 - 4, [4])}, bytes(8)),
                    "a")
        self.refuse("negative", safetensors({"a": tensor(-4, 0, [4])}, bytes(8)), "a")
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.assertLess(max(before, after) * 1024, max(limit, before * 1024 + 1))


class ChangedSource(SystemTest):
    """Number 22: a file is truncated, overwritten or replaced while it is served."""

    def setUp(self):
        super().setUp()
        self.source, self.out = self.folder / "source", self.folder / "copy"
        shutil.copytree(Sources.get(64 * MB), self.source)
        self.shard = self.source / "model-00003-of-00003.safetensors"

    def truncate(self):
        os.truncate(self.shard, 1000)

    def overwrite(self):
        with open(self.shard, "r+b") as file:
            file.seek(self.shard.stat().st_size // 2)
            file.write(b"\xff" * (8 * MB))

    def change_the_only_source(self, fabric: str, change):
        registry = self.meta("--lease-ms", 1000)
        server = self.serve(self.source, "--serve-rate-max", 20 * MB, registry=registry.url)
        pull = self.start_pull(registry.url, "m", self.out, "--fabric", fabric,
                               "--no-holder-ms-max", 2000)
        pull.wait_progress(0.2)
        change()
        self.assert_fails(pull, "m@1")
        self.assertEqual([path.name for path in self.out.iterdir()], [".weightcast-partial"])
        server.wait_message(self.shard.name)
        poll(lambda: self.list_registry(registry.url, "version")[0]["quarantined"],
             "the version's quarantine")
        self.assertEqual(server.stop(), 0)

    def test_22_truncated_over_shm(self):
        self.change_the_only_source("shm", self.truncate)

    def test_22_truncated_over_tcp(self):
        self.change_the_only_source("tcp", self.truncate)

    def test_22_overwritten_over_shm(self):
        self.change_the_only_source("shm", self.overwrite)

    def test_22_overwritten_over_tcp(self):
        self.change_the_only_source("tcp", self.overwrite)

    def test_22_the_rest_comes_from_elsewhere(self):
        registry, good = self.meta("--lease-ms", 1000), Sources.get(64 * MB)
        server, _ = (self.serve(source, "--name", name, "--serve-rate-max", 15 * MB,
                                registry=registry.url)
                     for source, name in ((self.source, "bad"), (good, "good")))
        pull = self.start_pull(registry.url, "m", self.out)
        pull.wait_progress(0.2)
        self.truncate()
        self.wait_end_of(pull)
        self.assert_same_tree(self.out, good)
        server.wait_message(self.shard.name)
        self.assertTrue(server.running())

        def only_the_good():
            peers = {peer["peer"]: [held["complete"] for held in peer["holdings"]]
                     for peer in self.list_registry(registry.url, "peer")}
            return peers == {"bad": [], "good": [True]}
        poll(only_the_good, "the registry's forgetting of the holder that changed")

    def test_22_a_file_that_is_replaced_by_renaming_is_served_on(self):
        good = Sources.get(64 * MB)
        server = self.serve(self.source, "--serve-rate-max", 30 * MB)
        pull = self.start_pull(server.url, "m", self.out)
        pull.wait_progress(0.2)
        (self.folder / "new").write_bytes(b"another file")
        os.replace(self.folder / "new", self.shard)
        self.wait_end_of(pull)
        self.assert_same_tree(self.out, good)
