"""Reading a checkpoint directory: every byte of a header is checked before MLX sees the file.

A safetensors file is eight bytes of length, a JSON header, and the tensors' bytes back to back. MLX trusts
the header; this module does not: it refuses what safetensors refuses and more (see ``read_header``).
Knows nothing of which tensors a model needs: that is ``weights``.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .config import read_json
from .errors import CheckpointError

__all__ = ["DTYPE_BYTES", "Checkpoint", "TensorRecord", "read_header"]

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

DTYPE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 1,
        "U8": 1,
        "I8": 1,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "U16": 2,
        "I16": 2,
        "F16": 2,
        "BF16": 2,
        "U32": 4,
        "I32": 4,
        "F32": 4,
        "U64": 8,
        "I64": 8,
        "F64": 8,
    }
)

_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_MAX_TENSORS = 10_000  # a 120b in the widest layout has about 800
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """Where one tensor lies."""

    name: str
    dtype: str
    """safetensors' name, for example ``BF16``."""
    shape: tuple[int, ...]
    file: Path
    begin: int
    """Of its bytes, counted from the start of the file."""
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A directory of safetensors files whose headers were all checked."""

    directory: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorRecord]

    @classmethod
    def open(cls, directory: str | Path) -> Checkpoint:
        """Finds the shards (the index decides, where there is one) and reads every header.

        Raises:
            CheckpointError: no checkpoint there, a shard missing or damaged, or index and shards disagree.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such directory; name a checkpoint directory")
        index = directory / INDEX_NAME
        weight_map = _read_index(index) if index.exists() else None
        names = sorted(set(weight_map.values())) if weight_map is not None else [_single_file(directory)]
        tensors: dict[str, TensorRecord] = {}
        for name in names:
            for record in read_header(_inside(directory, name)).values():
                if record.name in tensors:
                    raise CheckpointError(
                        f"{record.file}: tensor {record.name} is also in {tensors[record.name].file.name}"
                    )
                tensors[record.name] = record
        if weight_map is not None:
            _check_index(index, weight_map, tensors)
        return cls(
            directory=directory,
            files=tuple(directory / name for name in names),
            tensors=MappingProxyType(tensors),
        )


def read_header(path: Path) -> dict[str, TensorRecord]:
    """The tensors of one safetensors file, in the order of their bytes.

    Refused: what is no regular file; a header longer than the file or than 100 MB; duplicate keys; unknown
    dtypes; shapes that are not whole numbers; offsets out of range; tensors that overlap, leave holes or are
    followed by other bytes; a shape whose bytes are not the span; names with control characters; more than
    10,000 tensors.

    Raises:
        CheckpointError: any of these, naming the file and the tensor.
    """
    header, data_begin, file_bytes = _read_header_json(path)
    # MLX writes null where it was given none.
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map text to text; download it again")
    if len(header) > _MAX_TENSORS:
        raise CheckpointError(f"{path}: {len(header)} tensors; at most {_MAX_TENSORS} are read")
    records = [_record(path, name, entry, data_begin) for name, entry in header.items()]
    # Empty tensors sort before the one that begins where they do.
    records.sort(key=lambda record: (record.begin, record.end))
    position = data_begin
    for record in records:
        if record.begin != position:
            what = "overlaps the tensor before it" if record.begin < position else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {record.name} {what}; the file is damaged")
        position = record.end
    if position != file_bytes:
        what = "is truncated" if position > file_bytes else "has bytes after its last tensor"
        raise CheckpointError(
            f"{path}: {what} ({file_bytes} bytes, the header says {position}); download it again"
        )
    return {record.name: record for record in records}


def _read_header_json(path: Path) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where the data begins, and the size of the file."""
    try:
        # Non-blocking: opening a FIFO must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; download the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: is no regular file")
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES or 8 + length > status.st_size:
            raise CheckpointError(
                f"{path}: a header of {length} bytes in a file of {status.st_size}; truncated or no safetensors"
            )
        text = file.read(length)
    if len(text) != length or not text.startswith(b"{"):
        raise CheckpointError(f"{path}: no safetensors header; download it again")
    try:
        header = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON ({error}); download it again") from error
    return header, 8 + length, status.st_size


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} stands twice")
    return content


def _record(path: Path, name: str, entry: Any, data_begin: int) -> TensorRecord:
    """One entry of the header, checked by itself."""
    where = f"{path}: tensor {name!r}"
    if not name or not name.isprintable():
        raise CheckpointError(f"{where}: a name must be printable text")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: dtype, shape and data_offsets are needed, nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{where}: dtype {dtype!r} is unknown")
    # type(), not isinstance(): True is an int in Python.
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise CheckpointError(f"{where}: shape {shape!r} is no list of whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise CheckpointError(f"{where}: data_offsets {offsets!r} are no two whole numbers")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise CheckpointError(f"{where}: {dtype} {shape} does not fill bytes {begin} to {end}")
    return TensorRecord(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        file=path,
        begin=data_begin + begin,
        end=data_begin + end,
    )


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name → file name."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is missing; download it again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise CheckpointError(f"{path}: tensor {tensor!r} is said to lie in {name!r}, outside the directory")
    return weight_map


def _check_index(path: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorRecord]) -> None:
    for tensor, name in weight_map.items():
        if tensor not in tensors or tensors[tensor].file.name != name:
            raise CheckpointError(f"{path}: tensor {tensor!r} is not in {name}; download both again")
    for tensor, record in tensors.items():
        if tensor not in weight_map:
            raise CheckpointError(f"{record.file}: tensor {tensor!r} is not in the index")


def _single_file(directory: Path) -> str:
    """The one shard of a directory without an index."""
    shards = sorted(path.name for path in directory.glob("*.safetensors"))
    if SINGLE_NAME in shards:
        return SINGLE_NAME
    if len(shards) == 1:
        return shards[0]
    if shards:
        raise CheckpointError(f"{directory}: {len(shards)} shards but no {INDEX_NAME}; download it too")
    pickles = next(_pickles(directory), None)
    if pickles is not None:
        raise CheckpointError(f"{directory}: only {pickles.name}; pickles are never read, get the safetensors")
    raise CheckpointError(f"{directory}: no safetensors files; this is not a checkpoint directory")


def _pickles(directory: Path) -> Iterator[Path]:
    for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"):
        yield from directory.glob(pattern)


def _inside(directory: Path, name: str) -> Path:
    """The path of a file of the directory; a link may not lead out of it.

    The Hub's cache is built of links: a snapshot's files point into ``blobs`` beside ``snapshots``. Those
    are followed.
    """
    path = directory / name
    if path.is_symlink():
        target = path.resolve()
        home = directory.resolve()
        allowed = [home]
        if home.parent.name == "snapshots":
            allowed.append(home.parent.parent / "blobs")
        if not any(target.is_relative_to(place) for place in allowed):
            raise CheckpointError(f"{path}: links out of the directory, to {target}")
    return path
