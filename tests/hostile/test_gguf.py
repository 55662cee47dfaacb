"""GGUF files of strangers: every length and offset is checked before it is used."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gptoss_mlx.checkpoint.gguf import read_gguf
from gptoss_mlx.errors import CheckpointError
from tests.hostile.gguf_headers import mutate, outcome, write_small


def test_mutated_headers_are_refused_or_read_as_the_package_reads_them(tmp_path: Path) -> None:
    """The long run is ``tests/benchmarks/trust_gguf.py``."""
    header = write_small(tmp_path / "small.gguf")
    data = (tmp_path / "small.gguf").read_bytes()
    rng = np.random.default_rng(20)
    outcomes = []
    for _ in range(400):
        (tmp_path / "x.gguf").write_bytes(mutate(data, header, rng))
        outcomes.append(outcome(tmp_path / "x.gguf"))
    assert set(outcomes) == {"refused", "equal"}


def _header(*parts: bytes, tensors: int = 0, pairs: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + b"".join(parts)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    numbers = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _text(name) + numbers + struct.pack("<IQ", kind, offset)


PAIR = _text("general.alignment")
HOSTILE = {
    "no magic": (b"GGML" + bytes(60), "is not a GGUF file"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(60), "has version"),
    "a trillion tensors": (_header(tensors=2**40), "tensors and 0 keys"),
    "a trillion keys": (_header(pairs=2**63), "0 tensors and"),
    "a key beyond the end": (_header(struct.pack("<Q", 2**63), pairs=1), "longer than the file"),
    "an array of a trillion": (_header(PAIR, struct.pack("<IIQ", 9, 4, 2**40), pairs=1), "array elements"),
    "arrays in arrays": (_header(PAIR, struct.pack("<IIQ", 9, 9, 1), bytes(64), pairs=1), "value of type 9"),
    "an unknown type": (_header(PAIR, struct.pack("<I", 99), bytes(64), pairs=1), "value of type 99"),
    "an alignment of zero": (_header(PAIR, struct.pack("<II", 4, 0), pairs=1), "general.alignment is 0"),
    "half an alignment": (_header(PAIR, struct.pack("<II", 4, 24), pairs=1), "general.alignment is 24"),
    "text that is no text": (_header(PAIR, struct.pack("<I", 8), struct.pack("<Q", 1), b"\xff", pairs=1), "UTF-8"),
    "many dimensions": (_header(_text("a"), struct.pack("<I", 2**31), tensors=1), "dimensions"),
    "a product that overflows": (_header(_tensor("a", (2**33, 2**33), 0, 0), tensors=1), "whole blocks"),
    "no rows": (_header(_tensor("a", (32, 0), 0, 0), tensors=1), "whole blocks"),
    "half a block": (_header(_tensor("a", (33, 2), 8, 0), bytes(4096), tensors=1), "whole blocks of Q8_0"),
    "a type that is not read": (_header(_tensor("a", (32, 2), 16, 0), bytes(4096), tensors=1), "of type 16"),
    "longer than the file": (_header(_tensor("a", (2**20, 2**10), 0, 0), bytes(64), tensors=1), "truncated"),
    "an offset beyond the end": (_header(_tensor("a", (4,), 0, 2**40), bytes(64), tensors=1), "hole"),
    "an offset that wraps": (_header(_tensor("a", (4,), 0, 2**64 - 32), bytes(64), tensors=1), "begins at byte"),
    "tensors that overlap": (
        _header(_tensor("a", (16,), 0, 0), _tensor("b", (16,), 0, 32), bytes(512), tensors=2),
        "overlaps",
    ),
    "bytes after the tensors": (_header(_tensor("a", (16,), 0, 0), bytes(4096), tensors=1), "after its last"),
    "a name twice": (
        _header(_tensor("a", (8,), 0, 0), _tensor("a", (8,), 0, 32), bytes(99), tensors=2),
        "same name",
    ),
    "a name with escapes": (_header(_tensor("\x1b[2J", (8,), 0, 0), bytes(99), tensors=1), "printable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_at_once(name: str, tmp_path: Path) -> None:
    content, match = HOSTILE[name]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_gguf(tmp_path / "x.gguf")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_refusing_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(_header(PAIR, struct.pack("<I", 8), struct.pack("<Q", 2**40), pairs=1))
        file.truncate(2**41)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="64 MB"):
        read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_gguf(tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="missing"):
        read_gguf(tmp_path / "y.gguf")
