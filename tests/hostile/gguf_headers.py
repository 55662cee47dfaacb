"""Mutations of a GGUF file's header, and what ``gguf`` itself reads in the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from gptoss_mlx.checkpoint.gguf import GgufFile, read_gguf
from gptoss_mlx.errors import CheckpointError

__all__ = ["mutate", "outcome", "write_small"]

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def write_small(path: Path) -> int:
    """Writes a file with metadata of every kind and five tensors; returns where its header ends."""
    writer = gguf.GGUFWriter(path, "gpt-oss")
    writer.add_uint32("a.number", 7)
    writer.add_float32("a.float", 1e-5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "some text")
    writer.add_array("a.texts", ["one", "two", "three"])
    writer.add_array("a.numbers", [1, 2, 3])
    rng = np.random.default_rng(1)
    writer.add_tensor("x", rng.normal(size=(3, 64)).astype(np.float32))
    for name, kind in (("q", gguf.GGMLQuantizationType.Q8_0), ("m", gguf.GGMLQuantizationType.MXFP4)):
        values = gguf.quants.quantize(rng.normal(size=(3, 64)).astype(np.float32), kind)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.add_tensor("h", rng.normal(size=(5,)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(record.begin for record in read_gguf(path).tensors.values())


def mutate(data: bytes, header: int, rng: np.random.Generator) -> bytes:
    """Changes one to three places of the header, or the file's length."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(header))
        match int(rng.integers(5)):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place] = int(rng.integers(256))
            case 2:
                value, size = int(rng.choice(np.array(_EXTREMES, object))), int(rng.choice((4, 8)))
                changed[place : place + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
            case 3:
                del changed[place : place + int(rng.integers(1, 9))]
            case _:
                changed[place:place] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
    if rng.integers(8) == 0:
        del changed[int(rng.integers(len(changed))) :]
    return bytes(changed)


def outcome(path: Path) -> str:
    """``refused``, or ``equal`` if the package reads the same; anything else is an error of this library."""
    try:
        ours = read_gguf(path)
    except CheckpointError as error:
        said = str(error)
    else:
        _equals_the_package(path, ours)
        return "equal"
    assert "\n" not in said
    assert len(said) < 1000
    return "refused"


def _equals_the_package(path: Path, ours: GgufFile) -> None:
    theirs = gguf.GGUFReader(path)
    assert _as_read(ours) == {
        tensor.name: (int(tensor.tensor_type), tuple(map(int, reversed(tensor.shape))), int(tensor.data_offset))
        for tensor in theirs.tensors
    }
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for name, field in fields.items():
        assert _same(ours.metadata[name], field.contents()), name


def _as_read(file: GgufFile) -> dict[str, tuple[int, tuple[int, ...], int]]:
    from gptoss_mlx.checkpoint.gguf import BLOCKS

    numbers = {name: number for number, (name, _, _) in BLOCKS.items()}
    return {name: (numbers[record.dtype], record.shape, record.begin) for name, record in file.tensors.items()}


def _same(ours: Any, theirs: Any) -> bool:
    return bool(np.array_equal(np.asarray(ours), np.asarray(theirs), equal_nan=isinstance(ours, float)))
