"""Malformed safetensors files: good ones with changes of their structure and bytes."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES, read_header
from gptoss_mlx.errors import CheckpointError

__all__ = ["LARGE", "accepted", "mutated"]

NUMBERS = [0, 1, -1, 4, 2**31, 2**32 + 4, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400]
VALUES: list[Any] = [*NUMBERS, -0.0, 4.0, 1e308, float("nan"), True, None, "", "4", "U8", [], [4], {}, "\ud800"]
NAMES = ["a", "b", "", "a\x00", "a\x1b[2J", "\u202e", "\ud800", "__metadata__", "../a", "a" * 300, "é", "model.a"]
# JSON that some readers allow, and JSON that none allows.
FRAGMENTS = [
    b"-0",
    b"1e0",
    b"4.0",
    b"01",
    b"+1",
    b"NaN",
    b"Infinity",
    b"\\ud800",
    b"\\u0000",
    b"\xed\xa0\x80",
    b"\xff",
]
FRAGMENTS += [b"//", b"'", b"\x00", b"\n", b"\t", b" ", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\xef\xbb\xbf"]

LARGE: dict[str, bytes] = {
    "lists": b'{"a":[' + b"[]," * 690_000 + b"[]]}",
    "objects": b'{"a":[' + b"{}," * 690_000 + b"{}]}",
    "lists in lists": b'{"a":[' + (b"[" * 400 + b"]" * 400 + b",") * 2_600 + b"0]}",
    "objects in lists": b'{"a":[' + b"[{}]," * 410_000 + b"0]}",
    "objects in objects": b'{"a":[' + (b'{"":' * 300 + b"0" + b"}" * 300 + b",") * 1_390 + b"0]}",
    "keys": b"{" + b",".join(b'"%x":1' % number for number in range(2**20, 2**20 + 180_000)) + b"}",
    "wide keys": '{"🙂":1,'.encode() + b",".join(b'"%x":1' % n for n in range(2**20, 2**20 + 180_000)) + b"}",
    "tensors": b"{" + b",".join(b'"%d":{}' % number for number in range(150_000)) + b"}",
    "a wide text": '{"__metadata__":{"a":"🙂'.encode() + b"a" * 2_000_000 + b'","b":1}}',
    "escapes": b'{"__metadata__":{"a":1},"b":"' + b"\\u0041" * 340_000 + b'"}',
    "numbers": b'{"a":[' + b",".join([b"9" * 4300] * 480) + b"]}",
    "a number": b'{"a":' + b"9" * 2_000_000 + b"}",
    "names": b'{"__metadata__":{"' + b"x" * 2_000_000 + b'":1}}',
    "spaces": b'{"a":' + b" " * 2_000_000 + b"1}",
    "the last tensor": json.dumps(
        {f"t{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(9_999)}
        | {"last": {"dtype": "U8", "shape": [1], "data_offsets": [9_998, 9_999]}}
    ).encode(),
}
"""Headers near the bound of 2 MB that take as much time or memory as they can before they are refused."""


def good(rng: random.Random) -> tuple[dict[str, Any], bytes]:
    """A valid header and its data."""
    header: dict[str, Any] = {}
    if rng.random() < 0.3:
        header["__metadata__"] = rng.choice([{"format": "pt"}, {"a": "b", "c": "\n"}, {}, None])
    position = 0
    for number in range(rng.randint(0, 4)):
        dtype = rng.choice(list(DTYPE_BYTES))
        shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 4))]
        size = DTYPE_BYTES[dtype]
        for length in shape:
            size *= length
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return header, bytes(position)


def mutated(rng: random.Random) -> bytes:
    """A good file with changes of its structure, text, length or data."""
    header, data = good(rng)
    for _ in range(rng.choice([0, 1, 1, 2])):
        _change_structure(rng, header)
    text = json.dumps(header, separators=rng.choice([(",", ":"), (", ", ": ")])).encode()
    for _ in range(rng.choice([0, 0, 1, 2])):
        text = _change_text(rng, text)
    length = len(text) if rng.random() < 0.95 else rng.choice([0, 1, len(text) + 1, len(text) - 1, 2**32, 2**63])
    if rng.random() < 0.1:
        data = rng.choice([data + b"\x00", data[:-1], b"", data * 2])
    whole = struct.pack("<Q", max(length, 0)) + text + data
    return whole[: rng.randrange(len(whole) + 1)] if rng.random() < 0.02 else whole


def _change_structure(rng: random.Random, header: dict[str, Any]) -> None:
    name = rng.choice([*header, "new"])
    kind = rng.randrange(9)
    if kind == 0:
        header[rng.choice(NAMES)] = header.pop(name, {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})
        return
    entry = header.get(name)
    if kind == 1 or not isinstance(entry, dict) or not entry:
        header[name] = rng.choice(VALUES)
    elif kind == 2:
        entry[rng.choice([*entry, "more"])] = rng.choice(VALUES)
    elif kind == 3:
        del entry[rng.choice(list(entry))]
    elif kind >= 6 and "data_offsets" in entry:
        _move(rng, header, entry)
    else:
        numbers = entry.get(rng.choice(["shape", "data_offsets"]))
        if isinstance(numbers, list):
            at = rng.randint(0, len(numbers))
            numbers[at : at + rng.randint(0, 1)] = [rng.choice(VALUES)]


def _move(rng: random.Random, header: dict[str, Any], entry: dict[str, Any]) -> None:
    """Moves a tensor, so that it overlaps with another, leaves a gap, or changes places."""
    tensors = [other for other in header.values() if isinstance(other, dict)]
    spans = [span for other in tensors if isinstance(span := other.get("data_offsets"), list) and len(span) == 2]
    if rng.random() < 0.5 and spans:
        entry["data_offsets"] = list(rng.choice(spans))
    elif entry["data_offsets"] in spans and all(type(number) is int for number in entry["data_offsets"]):
        by = rng.choice([-4, -1, 1, 4, 8])
        entry["data_offsets"] = [number + by for number in entry["data_offsets"]]


def _change_text(rng: random.Random, text: bytes) -> bytes:
    at, end = sorted(rng.randint(0, len(text)) for _ in range(2))
    kind = rng.randrange(6)
    if kind == 0:
        return text[:at] + rng.choice(FRAGMENTS) + text[at:]
    if kind == 1:
        return text[:at] + rng.choice(FRAGMENTS) + text[at + 1 :]
    if kind == 2:
        return text[:at] + text[at + 1 :]
    if kind == 3:  # duplicates keys
        return text[:at] + text[at:end] * 2 + text[end:]
    if kind == 4:
        return text.decode("utf-8", "ignore").encode(rng.choice(["utf-16-le", "utf-8", "utf-8-sig"]))
    return text.replace(rng.choice([b"0", b"1", b"2"]), rng.choice(FRAGMENTS), 1)


def accepted(path: Path, content: bytes) -> bool:
    """Whether the file is accepted; safetensors' own parser must then read the same tensors."""
    path.write_bytes(content)
    try:
        ours = read_header(path)
    except CheckpointError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 2000
        return False
    try:
        theirs = dict(deserialize(content))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise AssertionError(f"safetensors refuses what was accepted: {error}: {content!r}") from error
    assert {name: record.shape for name, record in ours.items()} == {
        name: tuple(entry["shape"]) for name, entry in theirs.items()
    }
    assert {name: record.nbytes for name, record in ours.items()} == {
        name: len(entry["data"]) for name, entry in theirs.items()
    }
    return True
