#!/usr/bin/env python3
"""Writes a sharded safetensors checkpoint, as a trainer would, of any size and fast.

Usage: checkpoint.py DIR --bytes N [--shards K] [--seed S]
N counts the tensors' bytes. The same arguments give the same bytes. Every 64 KiB of payload
differ from every other, so that no two chunks share a digest.
"""
import argparse
import json
import pathlib
import random
import struct

PIECE_BYTES = 64 * 1024
POOL_BYTES = 8 * 1024 * 1024
WRITE_BYTES = 1024 * 1024
MARK = struct.Struct("<QQ")  # seed and piece number, at the start of each piece

HIDDEN, KV, MLP = 4096, 1024, 14336
LAYER = (("input_layernorm", (HIDDEN,)),
         ("self_attn.q_proj", (HIDDEN, HIDDEN)),
         ("self_attn.k_proj", (KV, HIDDEN)),
         ("self_attn.v_proj", (KV, HIDDEN)),
         ("self_attn.o_proj", (HIDDEN, HIDDEN)),
         ("post_attention_layernorm", (HIDDEN,)),
         ("mlp.gate_proj", (MLP, HIDDEN)),
         ("mlp.up_proj", (MLP, HIDDEN)),
         ("mlp.down_proj", (HIDDEN, MLP)))


class Payload:
    """Seeded bytes: slices of a random pool at random offsets, each piece marked by its number."""

    def __init__(self, seed: int):
        self.seed = seed
        self.random = random.Random(seed)
        self.pool = memoryview(self.random.randbytes(POOL_BYTES))
        self.pieces = 0

    def write(self, file, count: int):
        while count > 0:
            size = min(count, PIECE_BYTES)
            mark = MARK.pack(self.seed & (2**64 - 1), self.pieces)[:size]
            offset = self.random.randrange(POOL_BYTES - PIECE_BYTES)
            file.write(mark)
            file.write(self.pool[offset:offset + size - len(mark)])
            self.pieces += 1
            count -= size


def tensors(layer: int, count: int):
    """Yields (name, dtype, shape, bytes) that add up to `count` bytes, from layer `layer` on."""
    while count > 0:
        for name, shape in LAYER:
            rows, row_bytes = shape[0], 2 * (shape[1] if len(shape) > 1 else 1)
            rows = min(rows, count // row_bytes)
            if rows > 0:
                fitted = (rows, *shape[1:])
                yield f"model.layers.{layer}.{name}.weight", "BF16", fitted, rows * row_bytes
                count -= rows * row_bytes
            if 0 < count < 2 * HIDDEN:  # Less than a row: an odd rest, as some checkpoints have.
                yield f"model.layers.{layer}.rest", "U8", (count,), count
                return
        layer += 1


def write_shard(path: pathlib.Path, shard, payload: Payload):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, size in shard:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=WRITE_BYTES) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        payload.write(file, offset)


def write_json(path: pathlib.Path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_side_files(folder: pathlib.Path, layers: int, seed: int):
    words = random.Random(seed)
    vocabulary = {f"t{words.getrandbits(48):x}": index for index in range(20000)}
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": len(vocabulary)})
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.6})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(folder / "tokenizer.json", {"model": {"type": "BPE", "vocab": vocabulary}})
    (folder / "original").mkdir(exist_ok=True)
    write_json(folder / "original" / "params.json", {"dim": HIDDEN, "n_layers": layers})


def write_checkpoint(folder: pathlib.Path, total_bytes: int, shards: int = 1, seed: int = 1):
    """Writes the whole checkpoint into `folder`, which is made if it is not there."""
    if total_bytes < shards or shards < 1:
        raise ValueError("a shard holds at least one byte")
    folder.mkdir(parents=True, exist_ok=True)
    payload, weight_map, layer = Payload(seed), {}, 0
    for number in range(1, shards + 1):
        share = total_bytes * number // shards - total_bytes * (number - 1) // shards
        shard = list(tensors(layer, share))
        layer = max(int(name.split(".")[2]) for name, *_ in shard) + 1
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        if shards == 1:
            name = "model.safetensors"
        write_shard(folder / name, shard, payload)
        weight_map |= {tensor: name for tensor, *_ in shard}
    if shards > 1:
        write_json(folder / "model.safetensors.index.json",
                   {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
    write_side_files(folder, layer, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_checkpoint(options.folder, options.bytes, options.shards, options.seed)


if __name__ == "__main__":
    main()
