"""Goal: what a pull leaves in its directory, and what it refuses to touch.
Method: directories that are empty, complete, damaged, foreign or in use; chosen tensors parsed
here, apart from the code under test.
"""
import fnmatch
import json
import shutil
import signal
import struct

from kit import MB, Sources, SystemTest, tree


def read_safetensors(path):
    """{tensor: (dtype, shape, bytes)} of a file whose tensors fill it without hole or overlap."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    payload, tensors, end = memoryview(data)[8 + size:], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end:
            raise AssertionError(f"{path}: {name} begins at {first}, not at {end}")
        tensors[name] = (entry["dtype"], entry["shape"], bytes(payload[first:last]))
        end = last
    if end != len(payload):
        raise AssertionError(f"{path}: {len(payload) - end} bytes belong to no tensor")
    return tensors


class Tensors(SystemTest):
    def setUp(self):
        super().setUp()
        self.source = Sources.get(64 * MB)
        self.all = {}
        for shard in self.source.glob("*.safetensors"):
            self.all |= read_safetensors(shard)

    def test_chosen_tensors_come_alone_in_one_file(self):
        server = self.serve(self.source)
        for number, globs in enumerate((["*.input_layernorm.weight"], ["*"],
                                        ["model.layers.[12].*norm*", "model.layers.0.*q_p?oj*"])):
            with self.subTest(globs=globs):
                wanted = {name: tensor for name, tensor in self.all.items()
                          if any(fnmatch.fnmatchcase(name, glob) for glob in globs)}
                self.assertTrue(wanted)
                out = self.folder / f"copy{number}"
                options = [part for glob in globs for part in ("--tensor", glob)]
                done = self.pull(server.url, "m", out, *options)
                self.assertEqual([path.name for path in out.iterdir()], ["model.safetensors"])
                self.assertEqual(read_safetensors(out / "model.safetensors"), wanted)
                if len(wanted) < len(self.all) / 2:
                    self.assertLess(done["bytes_read"], server.ready["bytes"])

    def test_a_glob_without_a_match_is_named(self):
        server = self.serve(self.source)
        out = self.folder / "copy"
        self.assert_fails(self.start_pull(server.url, "m", out, "--tensor", "no.such.*"),
                          "no.such.*")
        self.assertFalse(out.exists())


class Directories(SystemTest):
    def setUp(self):
        super().setUp()
        self.source, self.out = Sources.get(8 * MB), self.folder / "copy"

    def test_a_complete_directory_is_not_read_again(self):
        server = self.serve(self.source)
        self.pull(server.url, "m", self.out)
        again = self.pull(server.url, "m", self.out)
        self.assertEqual((again["bytes_read"], again["holders"]), (0, []))
        self.assertEqual(again["bytes"], server.ready["bytes"])
        self.assert_same_tree(self.out, self.source)

    def test_foreign_files_are_refused_and_untouched_unless_replaced(self):
        server = self.serve(self.source)
        (self.out / "original").mkdir(parents=True)
        (self.out / "original" / "thesis.txt").write_text("the only copy\n")
        before = tree(self.out)
        self.assert_fails(self.start_pull(server.url, "m", self.out), "thesis.txt", "--replace")
        self.assertEqual(tree(self.out), before)
        self.pull(server.url, "m", self.out, "--replace")
        self.assert_same_tree(self.out, self.source)

    def test_a_damaged_copy_is_refused_and_mended_when_replaced(self):
        server = self.serve(self.source)
        self.pull(server.url, "m", self.out)
        damaged = self.out / "model-00002-of-00003.safetensors"
        with open(damaged, "r+b") as file:
            file.seek(damaged.stat().st_size // 2)
            file.write(b"\0damaged\0")
        before = tree(self.out)
        self.assert_fails(self.start_pull(server.url, "m", self.out), damaged.name, "offset")
        self.assertEqual(tree(self.out), before)
        done = self.pull(server.url, "m", self.out, "--replace")
        self.assert_same_tree(self.out, self.source)
        self.assertTrue(0 < done["bytes_read"] < done["bytes"] / 2, done)

    def test_a_missing_file_alone_is_read(self):
        server = self.serve(self.source)
        self.pull(server.url, "m", self.out)
        missing = self.out / "model-00003-of-00003.safetensors"
        size = missing.stat().st_size
        missing.unlink()
        done = self.pull(server.url, "m", self.out)
        self.assertEqual(done["bytes_read"], size)
        self.assert_same_tree(self.out, self.source)

    def test_a_directory_takes_one_pull_at_a_time(self):
        server = self.serve(self.source, "--serve-rate-max", 4 * MB)
        first = self.start_pull(server.url, "m", self.out)
        first.wait_progress(0.1)
        second = self.start_pull(server.url, "m", self.out)
        self.assert_fails(second, str(self.out), "another pull")
        self.wait_end_of(first)
        self.assert_same_tree(self.out, self.source)

    def test_an_interrupted_pull_ends_with_1_and_is_resumed(self):
        server = self.serve(self.source, "--serve-rate-max", 6 * MB)
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name):
                shutil.rmtree(self.out, ignore_errors=True)
                first = self.start_pull(server.url, "m", self.out)
                kept = first.wait_progress(0.3)["bytes_done"]
                first.signal(number)
                self.assert_fails(first)
                done = self.pull(server.url, "m", self.out)
                self.assertLessEqual(done["bytes_read"], done["bytes"] - kept)
                self.assert_same_tree(self.out, self.source)

    def test_a_symbolic_link_in_the_directory_is_not_followed_out_of_it(self):
        server = self.serve(self.source)
        outside = self.folder / "outside"
        outside.mkdir()
        self.out.mkdir()
        (self.out / "original").symlink_to(outside)
        self.assert_fails(self.start_pull(server.url, "m", self.out), "original")
        self.pull(server.url, "m", self.out, "--replace")
        self.assertEqual(list(outside.iterdir()), [])
        self.assert_same_tree(self.out, self.source)

    def test_a_directory_that_cannot_be_made_is_named(self):
        server = self.serve(self.source)
        (self.folder / "file").write_text("in the way\n")
        out = self.folder / "file" / "copy"
        self.assert_fails(self.start_pull(server.url, "m", out), str(out))
