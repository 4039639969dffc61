"""Goal: the checkpoint generator writes valid safetensors, and the tally counts what was run.
Method: small checkpoints read back byte by byte; logs as the test programs print them."""
import hashlib
import json
import pathlib
import struct
import tempfile
import unittest

import checkpoint
import tally

ITEM_BYTES = {"BF16": 2, "U8": 1}


def read_shard(path: pathlib.Path):
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__")
    return header, data[8 + size:]


class Checkpoint(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def test_tensors_fill_every_shard_without_hole_or_overlap(self):
        for total, shards in ((1, 1), (8191, 1), (9_000_001, 4), (70_000_000, 3)):
            folder = self.folder / f"{total}-{shards}"
            checkpoint.write_checkpoint(folder, total, shards, seed=7)
            names, found = set(), 0
            for path in folder.glob("*.safetensors"):
                header, payload = read_shard(path)
                end = 0
                for name, tensor in header.items():
                    begin, after = tensor["data_offsets"]
                    size = ITEM_BYTES[tensor["dtype"]]
                    for extent in tensor["shape"]:
                        size *= extent
                    self.assertEqual((begin, after - begin), (end, size), name)
                    self.assertNotIn(name, names)
                    names.add(name)
                    end = after
                self.assertEqual(end, len(payload))
                found += end
            self.assertEqual(found, total)
            if shards > 1:
                index = json.loads((folder / "model.safetensors.index.json").read_text())
                self.assertEqual(set(index["weight_map"]), names)
                self.assertEqual(index["metadata"]["total_size"], total)

    def test_the_seed_decides_the_bytes(self):
        digests = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            checkpoint.write_checkpoint(self.folder / name, 300_000, 1, seed)
            data = (self.folder / name / "model.safetensors").read_bytes()
            digests.append(hashlib.sha256(data).hexdigest())
        self.assertEqual(digests[0], digests[1])
        self.assertNotEqual(digests[0], digests[2])

    def test_no_two_pieces_are_equal(self):
        checkpoint.write_checkpoint(self.folder, 40 * checkpoint.PIECE_BYTES)
        _, payload = read_shard(self.folder / "model.safetensors")
        pieces = {payload[offset:offset + checkpoint.PIECE_BYTES]
                  for offset in range(0, len(payload), checkpoint.PIECE_BYTES)}
        self.assertEqual(len(pieces), 40)


class Tally(unittest.TestCase):
    def test_cases_inside_a_program_are_counted(self):
        def count(result, output):
            return tally.count_test({"result": result, "stdout": output})
        self.assertEqual(count("OK", "All tests passed (9 assertions in 3 test cases)"), (3, 0, 0))
        self.assertEqual(count("FAIL", "test cases: 5 | 3 passed | 2 failed\n"), (3, 2, 0))
        self.assertEqual(count("OK", "test cases:  4 | 3 passed | 1 skipped\n"), (3, 0, 1))
        self.assertEqual(count("OK", "Ran 4 tests in 1.0s\n\nOK (skipped=1)\n"), (3, 0, 1))
        self.assertEqual(count("OK", "prints nothing known"), (1, 0, 0))
        self.assertEqual(count("SKIP", ""), (0, 0, 1))

    def test_a_program_that_failed_is_never_counted_as_passed(self):
        self.assertEqual(tally.count_test({"result": "TIMEOUT"}), (0, 1, 0))
        crashed = {"result": "ERROR", "stdout": "All tests passed (1 assertion in 1 test case)"}
        self.assertEqual(tally.count_test(crashed)[1], 1)

    def test_the_last_summary_line_counts(self):
        with tempfile.NamedTemporaryFile("w+") as log:
            log.write("1 passed, 0 failed\nFAIL  that\n7 passed, 1 failed, 2 skipped\n")
            log.flush()
            self.assertEqual(tally.lines(log.name), ((7, 1, 2), ["FAIL  that"]))

    def test_the_failed_checks_of_a_program_are_told(self):
        output = "noise\n" * 40 + "the case\na.cpp:5: FAILED:\n  REQUIRE( a )\n" + "more\n" * 40
        told = tally.failure({"name": "a test", "result": "FAIL", "stdout": output})
        self.assertIn("the case", told)
        self.assertIn("  REQUIRE( a )", told)
        self.assertLess(len(told), 20)
        silent = tally.failure({"name": "a test", "result": "TIMEOUT"})
        self.assertEqual(silent, ["a test: TIMEOUT"])


if __name__ == "__main__":
    unittest.main()
