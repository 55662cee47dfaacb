"""Reading a checkpoint directory: every byte of a header is checked before MLX sees the file.

A safetensors file is eight bytes of length, a JSON header, and the tensors' bytes back to back. MLX trusts
the header; this module does not: it refuses what safetensors refuses and more (see ``read_header``).
Knows nothing of which tensors a model needs: see ``layouts``.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import CheckpointError
from ..files.read import LFS_POINTER, inside, open_regular, parse_json, read_json, short_repr

__all__ = ["DTYPE_BYTES", "MAX_NAME_BYTES", "Checkpoint", "TensorRecord", "read_header"]

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ADAPTER_FILES = ("adapter_model.safetensors", "adapters.safetensors")
"""The weights of a LoRA adapter, as PEFT and mlx-lm name them."""

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

MAX_NAME_BYTES = 255  # of a file, on any disk
_MAX_TENSORS = 10_000  # a 120b in the widest layout has about 800
# Enough for that many entries of 200 bytes. safetensors allows 100 MB, which can take gigabytes once parsed.
_MAX_HEADER_BYTES = 2 * 2**20
# One object and two lists per tensor, and the enclosing objects.
_MAX_CONTAINERS = 3 * _MAX_TENSORS + 2
_MAX_DIMENSIONS = 8
_MAX_SHARDS = 10_000
_RELEASED = re.compile(r"(?:openai|unsloth)/gpt-oss-(?P<alias>20b|120b)(?:-unsloth)?(?:-bnb-4bit|-BF16)?")
_NUMBERED = re.compile(r".+-(?P<number>\d{1,5})-of-(?P<total>\d{1,5})\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One tensor and the place of its bytes."""

    name: str
    dtype: str
    """safetensors' name, for example ``BF16``."""
    shape: tuple[int, ...]
    file: Path
    begin: int
    """Offset of its first byte in the file."""
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
        names = sorted(set(weight_map.values())) if weight_map is not None else _shards(directory)
        _check_is_base(directory, names)
        tensors: dict[str, TensorRecord] = {}
        for name in names:
            for record in read_header(directory / name).values():
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

    It refuses files that are not regular, and links out of the directory; headers longer than the file or than
    2 MB, or not in UTF-8; duplicate keys; unknown dtypes; shapes that are not whole numbers or whose product
    overflows; offsets out of range; tensors that overlap, leave gaps or are followed by other bytes; shapes that
    do not fill their bytes; names with control characters; more than 10,000 tensors.

    Raises:
        CheckpointError: one of these; it names the file and the tensor.
    """
    header, data_begin, file_bytes = _read_header_json(path)
    _check_metadata(path, header.pop("__metadata__", None))
    records = [_record(path, name, entry, data_begin) for name, entry in header.items()]
    # An empty tensor sorts before the tensor that begins at the same offset.
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
    """The parsed header, the offset of the data, and the size of the file."""
    try:
        file, file_bytes = open_regular(inside(path))
        with file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == LFS_POINTER[:8]:
                raise CheckpointError(
                    f"{path}: is a git-lfs pointer, not the file itself; get it with: git lfs pull"
                )
            if not 2 <= length <= _MAX_HEADER_BYTES or 8 + length > file_bytes:
                raise CheckpointError(
                    f"{path}: a header of {length} bytes in a file of {file_bytes}; truncated or no safetensors"
                )
            text = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; download the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if len(text) != length or not text.lstrip(b" ").startswith(b"{"):
        raise CheckpointError(f"{path}: no safetensors header; download it again")
    try:
        header = parse_json(text, containers=_MAX_CONTAINERS)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header cannot be read ({error}); download it again") from error
    return header, 8 + length, file_bytes


def _check_metadata(path: Path, metadata: Any) -> None:
    if metadata is None:  # MLX writes null if it was given none.
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map text to text; download it again")
    try:
        "".join([*metadata, *metadata.values()]).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{path}: __metadata__ holds half a surrogate pair; download it again") from None


def _record(path: Path, name: str, entry: Any, data_begin: int) -> TensorRecord:
    """One entry of the header, checked on its own."""
    where = f"{path}: tensor {short_repr(name)}"
    if not name or not name.isprintable():
        raise CheckpointError(f"{where}: a name must be printable text")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: dtype, shape and data_offsets are needed, nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{where}: dtype {short_repr(dtype)} is unknown")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise CheckpointError(f"{where}: shape {short_repr(shape)} is not a list of whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise CheckpointError(f"{where}: data_offsets {short_repr(offsets)} are no two whole numbers")
    begin, end = offsets
    # Also without the zeros: [2^62, 2^62, 0] is empty, but its product overflows if computed from the left.
    largest = math.prod(filter(None, shape)) * DTYPE_BYTES[dtype]
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype] or not _is_size(largest):
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
    # type(), not isinstance(): True is an int in Python.
    return type(value) is int and 0 <= value < 2**63


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name → file name."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is missing; download it again")
    for tensor, name in weight_map.items():
        if not _is_shard_name(name):
            raise CheckpointError(
                f"{path}: tensor {short_repr(tensor)} is said to lie in {short_repr(name)}, outside the directory"
            )
    return weight_map


def _is_shard_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and name.isprintable()
        and len(name.encode()) <= MAX_NAME_BYTES
        and Path(name).name == name
    )


def _check_index(path: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorRecord]) -> None:
    for tensor, name in weight_map.items():
        if tensor not in tensors or tensors[tensor].file.name != name:
            raise CheckpointError(f"{path}: tensor {short_repr(tensor)} is not in {name}; download both again")
    for tensor, record in tensors.items():
        if tensor not in weight_map:
            raise CheckpointError(f"{record.file}: tensor {tensor!r} is not in the index")


def _shards(directory: Path) -> list[str]:
    """The shards of a directory without an index. Hidden files, which some disks add, are none."""
    names = sorted(path.name for path in directory.glob("*.safetensors") if not path.name.startswith("."))
    if SINGLE_NAME in names:
        return [SINGLE_NAME]
    if not names:
        raise CheckpointError(f"{directory}: {_what_it_is(directory)}")
    numbered = [match for match in map(_NUMBERED.fullmatch, names) if match]
    for total in {match["total"] for match in numbered}:
        found = {int(match["number"]) for match in numbered if match["total"] == total}
        missing = sorted(set(range(1, min(int(total), _MAX_SHARDS) + 1)) - found)  # OpenAI's are numbered from 0
        if missing:
            raise CheckpointError(
                f"{directory}: shard {missing[0]:0{len(total)}} of {total} is missing; download it again"
            )
    return names


def _what_it_is(directory: Path) -> str:
    """What a directory without safetensors is, and what to do about it."""
    gguf = next((path for path in sorted(directory.glob("*.gguf")) if not path.name.startswith(".")), None)
    if gguf is not None:
        return f"only {gguf.name}, a GGUF file; convert it once: {shlex.join(['gptoss', 'convert', str(gguf)])}"
    pickles = next(_pickles(directory), None)
    if pickles is not None:
        return f"only {pickles.name}; pickles are never read, get the safetensors"
    return "no safetensors files; this is not a checkpoint directory"


def _check_is_base(directory: Path, names: Collection[str]) -> None:
    """Refuses an adapter, which is not a model, and one beside a model, which other programs would apply."""
    beside = [name for name in (*ADAPTER_FILES, "adapter_model.bin") if (directory / name).exists()]
    if not beside:
        return
    if set(names) <= set(ADAPTER_FILES):
        command = shlex.join(["gptoss", "convert", _base_of(directory), "--adapter", str(directory)])
        raise CheckpointError(f"{directory}: is a LoRA adapter, not a model; merge it: {command}")
    own = f"{directory.resolve()}-adapter"
    command = shlex.join(["gptoss", "convert", str(directory), "--adapter", own])
    raise CheckpointError(
        f"{directory}: {beside[0]} beside the weights is an adapter, which other programs apply; move it and "
        f"adapter_config.json to {own}, and merge it: {command}"
    )


def _base_of(adapter: Path) -> str:
    """The model that an adapter says it is for, as far as it says so in plain text.

    Unsloth trains on copies of the released models that are quantised in ways that are not read here.
    """
    try:
        name = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    except CheckpointError:
        name = None
    if isinstance(name, str) and (released := _RELEASED.fullmatch(name)) is not None:
        return released["alias"]
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= MAX_NAME_BYTES else "BASE"


def _pickles(directory: Path) -> Iterator[Path]:
    for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"):
        yield from directory.glob(pattern)
