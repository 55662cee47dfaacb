"""Reading the header of a GGUF file: metadata and the places of the tensors, every byte of it checked.

A GGUF file is a magic number, counts, metadata as typed key-value pairs, a table of tensors, and the tensors'
bytes, each padded to an alignment. Nothing in it is trusted: counts, lengths and offsets are compared with limits
and with the size of the file before they are used. Knows nothing of which tensors a model needs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from ..errors import CheckpointError
from ..files.read import inside, open_regular, short_repr
from .safetensors import TensorRecord

__all__ = ["BLOCKS", "MAGIC", "GgufFile", "read_gguf"]

MAGIC: Final = b"GGUF"
BLOCKS: Mapping[int, tuple[str, int, int]] = MappingProxyType(
    {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        4: ("MXFP4_OLLAMA", 32, 17),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        30: ("BF16", 1, 2),
        39: ("MXFP4", 32, 17),
    }
)
"""The types of tensors that are read: name, values in a block, bytes of a block. 4 is Ollama's first MXFP4."""

_VERSIONS = (2, 3)
_MAX_HEADER_BYTES = 64 * 2**20  # the released models' tokenizer takes 12 MB
_MAX_PAIRS = 1000
_MAX_TENSORS = 10_000
_MAX_ELEMENTS = 2**21  # of all arrays: gpt-oss's tokenizer has 201,088 tokens and 446,189 merges
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 2**16
_SCALARS: Mapping[int, struct.Struct] = MappingProxyType(
    {
        0: struct.Struct("<B"),
        1: struct.Struct("<b"),
        2: struct.Struct("<H"),
        3: struct.Struct("<h"),
        4: struct.Struct("<I"),
        5: struct.Struct("<i"),
        6: struct.Struct("<f"),
        10: struct.Struct("<Q"),
        11: struct.Struct("<q"),
        12: struct.Struct("<d"),
    }
)
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """A GGUF file whose header was checked."""

    path: Path
    metadata: Mapping[str, Any]
    """Numbers, bools, texts, and lists of them."""
    tensors: Mapping[str, TensorRecord]
    """Dtypes are the names in :data:`BLOCKS`; shapes have the longest axis of the memory first, as in NumPy."""


def read_gguf(path: Path) -> GgufFile:
    """Reads the header of one GGUF file.

    It refuses files that are not regular; versions other than 2 and 3, and big-endian files; headers longer than
    64 MB, or with more than 1,000 pairs, 10,000 tensors or 2,097,152 array elements; arrays in arrays; keys and
    names that are duplicate or not printable; unknown types; rows that are not whole blocks; offsets that overlap,
    leave holes or lead beyond the end.

    Raises:
        CheckpointError: one of these; it names the file and the key or tensor.
    """
    try:
        file, size = open_regular(inside(path))
        with file:
            return _Header(path, file, size).read()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; name a GGUF file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Header:
    """Reads a header from its beginning to its end."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._position = self._elements = 0

    def read(self) -> GgufFile:
        if self._bytes(4) != MAGIC:
            raise self._error("is not a GGUF file")
        version = self._scalar(4)
        if version not in _VERSIONS:
            raise self._error(f"has version {version}; {_VERSIONS[0]} or {_VERSIONS[1]}, little-endian, is read")
        tensors, pairs = self._scalar(10), self._scalar(10)
        if tensors > _MAX_TENSORS or pairs > _MAX_PAIRS:
            raise self._error(f"has {tensors} tensors and {pairs} keys; it is damaged")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._name("key")
            if key in metadata:
                raise self._error(f"key {short_repr(key)} is duplicated")
            metadata[key] = self._value(self._scalar(4))
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._error(f"general.alignment is {short_repr(alignment)}; a power of two from 8 on is needed")
        records = [self._tensor() for _ in range(tensors)]
        names = {record.name for record in records}
        if len(names) != len(records):
            raise self._error("has two tensors of the same name; it is damaged")
        return GgufFile(
            path=self._path,
            metadata=MappingProxyType(metadata),
            tensors=MappingProxyType(self._placed(records, alignment)),
        )

    def _placed(self, records: list[TensorRecord], alignment: int) -> dict[str, TensorRecord]:
        """The tensors by name, their offsets counted from the beginning of the file, in their order."""
        base = self._position + -self._position % alignment
        end = base
        found: dict[str, TensorRecord] = {}
        for record in sorted(records, key=lambda record: record.begin):
            begin = base + record.begin
            if begin != end + -end % alignment:
                what = "overlaps the tensor before it" if begin < end else "leaves a hole before it"
                raise self._error(f"tensor {record.name} {what}; the file is damaged")
            end = begin + record.nbytes
            if end > self._size:
                raise self._error(
                    f"tensor {record.name} ends at byte {end} of {self._size}; truncated, download it again"
                )
            found[record.name] = TensorRecord(
                name=record.name, dtype=record.dtype, shape=record.shape, file=self._path, begin=begin, end=end
            )
        if self._size > end + -end % alignment:
            raise self._error("has bytes after its last tensor; it is damaged")
        return found

    def _tensor(self) -> TensorRecord:
        """One tensor, its offsets counted from the beginning of the tensors."""
        name = self._name("tensor")
        dimensions = self._scalar(4)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._error(f"tensor {name} has {dimensions} dimensions; it is damaged")
        shape = tuple(reversed([self._scalar(10) for _ in range(dimensions)]))
        number = self._scalar(4)
        if number not in BLOCKS:
            raise self._error(
                f"tensor {name} is of type {number}, which is not read; "
                "get a file with experts in MXFP4 and the rest in BF16, F16 or Q8_0"
            )
        dtype, values, nbytes = BLOCKS[number]
        count = math.prod(shape)
        if not 1 <= count < 2**48 or shape[-1] % values:
            raise self._error(f"tensor {name} has shape {list(shape)}, which is not whole blocks of {dtype}")
        begin = self._scalar(10)
        if begin >= 2**62:
            raise self._error(f"tensor {name} begins at byte {begin}; it is damaged")
        end = begin + count // values * nbytes
        return TensorRecord(name=name, dtype=dtype, shape=shape, file=self._path, begin=begin, end=end)

    def _value(self, kind: int) -> Any:
        if kind != _ARRAY:
            return self._element(kind)
        kind, count = self._scalar(4), self._scalar(10)
        self._elements += count
        if self._elements > _MAX_ELEMENTS:
            raise self._error(f"has more than {_MAX_ELEMENTS} array elements; it is damaged")
        if kind in _SCALARS:
            layout = _SCALARS[kind]
            return [value for (value,) in layout.iter_unpack(self._bytes(count * layout.size))]
        return [self._element(kind) for _ in range(count)]

    def _element(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _BOOL:
            value = self._bytes(1)[0]
            if value > 1:
                raise self._error(f"has a truth value of {value}; it is damaged")
            return value == 1
        if kind not in _SCALARS:
            raise self._error(f"has a value of type {kind}, which is not read; it is damaged")
        return self._scalar(kind)

    def _scalar(self, kind: int) -> Any:
        layout = _SCALARS[kind]
        return layout.unpack(self._bytes(layout.size))[0]

    def _name(self, what: str) -> str:
        name = self._text()
        if not name or not name.isprintable() or len(name) > 255:
            raise self._error(f"{what} {short_repr(name)} must be printable text of at most 255 characters")
        return name

    def _text(self) -> str:
        data = self._bytes(self._scalar(10))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._error(f"has text that is not UTF-8: {short_repr(data)}") from None

    def _bytes(self, count: int) -> bytes:
        if self._position + count > min(self._size, _MAX_HEADER_BYTES):
            raise self._error("has a header longer than the file or than 64 MB; it is truncated or damaged")
        self._position += count
        data = self._file.read(count)
        if len(data) != count:
            raise self._error("became shorter while it was read")
        return data

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {what}")
