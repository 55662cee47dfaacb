"""Reading checkpoints: what safetensors refuses is refused, and more; every tensor is accounted for."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from gptoss_mlx.checkpoint.safetensors import INDEX_NAME, Checkpoint, read_header
from gptoss_mlx.checkpoint.tensors import open_model
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.model.transformer import load_transformer
from gptoss_mlx.model.weights import load_weights
from tests.checkpoints import load_shape, random_tokens
from tests.hostile.corpus import write_header


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


A, B = {"a": entry(0, 4)}, {"b": entry(4, 6)}

# The header, the number of bytes that follow it, and a part of the error message.
REFUSED: dict[str, tuple[Any, int, str]] = {
    "overlap": ({**A, "b": entry(3, 6)}, 6, "overlaps"),
    "hole": ({**A, "b": entry(5, 6)}, 6, "hole"),
    "hole at the beginning": ({"a": entry(1, 4)}, 4, "hole"),
    "trailing bytes": ({**A, **B}, 7, "after its last tensor"),
    "truncated": ({**A, **B}, 5, "truncated"),
    "shape does not fill the span": ({"a": entry(0, 4, [2])}, 4, "does not fill"),
    "shape overflows 64 bits": ({"a": entry(0, 4, [2**62, 2**62, 4])}, 4, "does not fill"),
    "float shape": ({"a": entry(0, 4, [4.0])}, 4, "whole numbers"),
    "bool shape": ({"a": entry(0, 4, [True, 4])}, 4, "whole numbers"),
    "negative shape": ({"a": entry(0, 4, [-2, -2])}, 4, "whole numbers"),
    "shape of 2^32 + 4": ({"a": entry(0, 4, [2**32 + 4])}, 4, "does not fill"),
    "shape is text": ({"a": entry(0, 4) | {"shape": "4"}}, 4, "whole numbers"),
    "shape of 2^63": ({"a": entry(0, 4, [2**63])}, 4, "whole numbers"),
    "offset of 2^63": ({"a": entry(0, 4) | {"data_offsets": [0, 2**63]}}, 4, "whole numbers"),
    "empty, and 2^63 bytes without the zero": ({"a": entry(0, 0, [2**62, 2, 0])}, 0, "does not fill"),
    "nine dimensions": ({"a": entry(0, 1, [1] * 9)}, 1, "whole numbers"),
    "offsets reversed": ({"a": entry(0, 4) | {"data_offsets": [4, 0]}}, 4, "does not fill"),
    "offsets are text": ({"a": entry(0, 4) | {"data_offsets": "04"}}, 4, "whole numbers"),
    "one offset": ({"a": entry(0, 4) | {"data_offsets": [0]}}, 4, "whole numbers"),
    "float offsets": ({"a": entry(0, 4) | {"data_offsets": [0.0, 4.0]}}, 4, "whole numbers"),
    "unknown dtype": ({"a": entry(0, 4, dtype="F7")}, 4, "unknown"),
    "dtype is a number": ({"a": entry(0, 4, dtype=8)}, 4, "unknown"),
    "a key too many": ({"a": entry(0, 4) | {"more": 1}}, 4, "nothing else"),
    "a key too few": ({"a": {"dtype": "U8", "shape": [4]}}, 4, "nothing else"),
    "empty, and 2^63 bytes of eight each without it": ({"a": entry(0, 0, [2**60, 0], "F64")}, 0, "does not fill"),
    "shape is empty text": ({"a": entry(0, 1) | {"shape": ""}}, 1, "whole numbers"),
    "shape is an object": ({"a": entry(0, 1) | {"shape": {}}}, 1, "whole numbers"),
    "dtype is a list": ({"a": entry(0, 4) | {"dtype": []}}, 4, "unknown"),
    "entry is a list of keys": ({"a": ["dtype", "shape", "data_offsets"]}, 4, "nothing else"),
    "entry is a list": ({"a": [0, 4]}, 4, "nothing else"),
    "control character in a name": ({"a\x1b[2J": entry(0, 4)}, 4, "printable"),
    "empty name": ({"": entry(0, 4)}, 4, "printable"),
    "metadata is a number": ({"__metadata__": 1, **A}, 4, "__metadata__"),
    "metadata is a list of pairs": ({"__metadata__": [["a", "b"]], **A}, 4, "__metadata__"),
    "metadata is false": ({"__metadata__": False, **A}, 4, "__metadata__"),
    "metadata holds null": ({"__metadata__": {"a": None}, **A}, 4, "__metadata__"),
    "metadata holds numbers": ({"__metadata__": {"a": 1}, **A}, 4, "__metadata__"),
    "duplicate tensor": (b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), 4, "is duplicated"),
    "duplicate inner key": (
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        4,
        "is duplicated",
    ),
    "no JSON": (b"{'a'}", 0, "header cannot be read"),
    "a list": (b"[1, 2]", 0, "no safetensors header"),
    "bytes that are no UTF-8": (b'{"\xff":1}', 0, "header cannot be read"),
    "deep nesting": (b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", 0, "header cannot be read"),
    "wide nesting": (b'{"a":[' + b"[]," * 30_000 + b"[]]}", 0, "lists and objects"),
    "10,001 tensors": (
        {f"t{n}": entry(n, n + 1) for n in range(10_001)},
        10_001,
        "more than 30002 lists",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_header_is_refused(name: str, tmp_path: Path) -> None:
    header, size, message = REFUSED[name]
    path = write_header(tmp_path / "model.safetensors", header, bytes(size))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_at_every_limit_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small = {f"t{n}": entry(n + 8, n + 9, [1] * 8) for n in range(9_996)}
    # Empty ones at the beginning, in the middle and at the end; without the zero they have 2^63 - 1 elements.
    empty = {name: entry(at, at, [2**63 - 1, 0]) for name, at in {"z": 0, "m": 8, "e": 10_004}.items()}
    metadata = {"__metadata__": {"a": "b", "c": ""}}
    for header in ({**metadata, **small, **empty}, {**empty, **dict(reversed(small.items())), **metadata}):
        write_header(path, header | {"first": entry(0, 8, [], "F64")}, bytes(10_004))
        found = read_header(path)
        assert list(found) == ["z", "first", "m", *small, "e"]
        assert len(found) == 10_000
        begins = [record.begin for record in found.values()]
        assert begins == sorted(begins)
        assert found["t0"].shape == (1,) * 8
        assert found["t0"].nbytes == 1
        assert found["e"].end == path.stat().st_size
    assert set(deserialize_header(path)) == set(found)


@pytest.mark.parametrize(
    "dtype",
    [
        "BOOL",
        "U8",
        "I8",
        "F8_E4M3",
        "F8_E5M2",
        "U16",
        "I16",
        "F16",
        "BF16",
        "U32",
        "I32",
        "F32",
        "U64",
        "I64",
        "F64",
    ],
)
def test_a_dtype_has_the_size_that_safetensors_gives_it(dtype: str, tmp_path: Path) -> None:
    path, sizes = tmp_path / "model.safetensors", []
    for size in range(20):
        write_header(path, {"a": entry(0, size, [2], dtype)}, bytes(size))
        with contextlib.suppress(SafetensorError):
            assert deserialize_header(path) == ["a"]
            sizes.append(size)
            assert read_header(path)["a"].nbytes == size
    assert len(sizes) == 1


def deserialize_header(path: Path) -> list[str]:
    """As safetensors reads it."""
    with safe_open(path, "np") as file:
        return list(file.keys())


@pytest.mark.parametrize("content", [b"", b"\x08", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 3) + b"{}"])
def test_a_length_beyond_the_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or no safetensors"):
        read_header(path)


def test_the_shortest_and_the_longest_header_are_read(tmp_path: Path) -> None:
    for text in (b"{}", b"{}" + b" " * (2 * 2**20 - 2)):
        assert read_header(write_header(tmp_path / "model.safetensors", text)) == {}


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "model.safetensors"
    os.mkfifo(fifo)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(fifo)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(Path("/dev/zero"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return load_shape(tmp_path / "checkpoint", "small")


def sharded(directory: Path) -> Path:
    """The same checkpoint in two shards with an index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard, part in (("first.safetensors", names[:9]), ("second.safetensors", names[9:])):
        save_file({name: tensors[name] for name in part}, directory / shard)
        weight_map |= dict.fromkeys(part, shard)
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def test_shards_and_a_single_file_load_alike(checkpoint: Path) -> None:
    tokens = mx.array([random_tokens("small", 20)])
    single = load_transformer(checkpoint, mx.float32)(tokens)
    mx.eval(single)
    assert mx.array_equal(single, load_transformer(sharded(checkpoint), mx.float32)(tokens))


def edit_tensors(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


SINKS, SCALES = "model.layers.0.self_attn.sinks", "model.layers.1.mlp.experts.down_proj_scales"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(SINKS), f"{SINKS} is missing"),
        (lambda tensors: tensors.update({"model.extra.weight": tensors[SINKS]}), "model.extra.weight is unknown"),
        (lambda tensors: tensors.update({SINKS: tensors[SINKS].astype(np.int32)}), f"{SINKS} is I32"),
        (lambda tensors: tensors.update({SINKS: tensors[SINKS][:-1]}), rf"{SINKS} has shape \[3\]"),
        (lambda tensors: tensors[SCALES].__setitem__((1, 2, 1), 0xFF), f"{SCALES} holds NaN scales"),
    ],
)
def test_every_tensor_is_accounted_for(
    checkpoint: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_tensors(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_weights(open_model(checkpoint), mx.float32)


def test_an_index_outside_the_directory_is_refused(checkpoint: Path) -> None:
    for name in ("../model.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin", 3):
        (checkpoint / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError, match="outside the directory"):
            Checkpoint.open(checkpoint)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": ["a"]}])
def test_an_index_without_tensors_is_refused(content: Any, checkpoint: Path) -> None:
    (checkpoint / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="weight_map is missing"):
        Checkpoint.open(checkpoint)


def test_names_of_shards_are_names_that_a_disk_has(checkpoint: Path) -> None:
    longest = "a" * 243 + ".safetensors"
    for name, message in (
        (longest, "missing"),
        ("a" + longest, "outside"),
        ("a\x1b.safetensors", "outside"),
        ("\u202e.safetensors", "outside"),
    ):
        (checkpoint / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(checkpoint)


def test_a_tensor_stands_in_one_shard(checkpoint: Path) -> None:
    sharded(checkpoint)
    shutil.copy(checkpoint / "first.safetensors", checkpoint / "second.safetensors")
    with pytest.raises(CheckpointError, match=r"second\.safetensors: tensor .* is also in first\.safetensors"):
        Checkpoint.open(checkpoint)
    (checkpoint / "second.safetensors").unlink()
    (checkpoint / INDEX_NAME).write_text(json.dumps({"weight_map": {"nothing": "first.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"nothing' is not in first\.safetensors"):
        Checkpoint.open(checkpoint)


def test_index_and_shards_must_agree(checkpoint: Path) -> None:
    sharded(checkpoint)
    index = checkpoint / INDEX_NAME
    content = json.loads(index.read_text())
    name = next(iter(content["weight_map"]))
    content["weight_map"][name] = "second.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"is not in second\.safetensors"):
        Checkpoint.open(checkpoint)
    del content["weight_map"][name]
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is not in the index"):
        Checkpoint.open(checkpoint)


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    (sharded(checkpoint) / "second.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"second\.safetensors: missing"):
        Checkpoint.open(checkpoint)


def test_a_truncated_shard_is_named(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is truncated"):
        load_weights(open_model(checkpoint), mx.float32)


def test_links_may_not_leave_the_directory(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "model.safetensors"
    shutil.move(path, tmp_path / "elsewhere.safetensors")
    path.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="links out of the directory"):
        Checkpoint.open(checkpoint)


def test_links_of_the_hub_cache_are_followed(checkpoint: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models--openai--gpt-oss-20b"
    snapshot = repo / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    shutil.move(checkpoint, snapshot)
    (repo / "blobs").mkdir()
    blob = "0123456789" * 4
    shutil.move(snapshot / "model.safetensors", repo / "blobs" / blob)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob}")
    assert Checkpoint.open(snapshot).tensors


def test_beside_other_shards_the_single_file_is_the_checkpoint(checkpoint: Path) -> None:
    for name in ("consolidated.safetensors", "z.safetensors"):
        shutil.copy(checkpoint / "model.safetensors", checkpoint / name)
    assert Checkpoint.open(checkpoint).files == (checkpoint / "model.safetensors",)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is also in consolidated\.safetensors"):
        Checkpoint.open(checkpoint)
    (checkpoint / "z.safetensors").unlink()
    assert Checkpoint.open(checkpoint).files == (checkpoint / "consolidated.safetensors",)


def test_a_directory_without_weights_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        Checkpoint.open(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no safetensors files"):
        Checkpoint.open(tmp_path)
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=f"only {name}; pickles are never read"):
            Checkpoint.open(tmp_path)
        (tmp_path / name).unlink()


def test_a_disk_that_fails_while_a_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(
        "gptoss_mlx.checkpoint.safetensors.open_regular", lambda path: (io.BufferedReader(Failing()), 100)
    )
    with pytest.raises(CheckpointError, match=r"cannot be read \(Input/output error\)"):
        read_header(tmp_path / "model.safetensors")


def test_a_nul_is_in_no_name() -> None:
    with pytest.raises(CheckpointError, match="null"):
        read_header(Path("a\0b"))
