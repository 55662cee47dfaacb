"""A prompt cache in one safetensors file, so that another process need not compute it again.

The file holds the tokens (``tokens``, int32), the positions of the snapshots (``snapshots``, int32), each layer's
arrays (``layers.N.P``: keys, then values; a full layer's without the unused end, a sliding layer's ring) and each
snapshot's windows (``snapshots.POSITION.N.P``). Its metadata are the version of this format, the fingerprint of
the model and a SHA-256 of everything else. Runs in the thread that owns MLX.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

import mlx.core as mx
import numpy as np

from ..checkpoint.adapter import adapter_file
from ..checkpoint.safetensors import read_header
from ..checkpoint.tensors import open_model
from ..config import ModelConfig
from ..errors import CacheFileError, CheckpointError
from ..files.read import short_repr
from ..files.write import atomic_file
from .entry import CacheEntry
from .layered import PromptCache, Snapshot
from .layers import SlidingKVCache

__all__ = ["VERSION", "SavedCache", "model_fingerprint", "read", "write"]

VERSION: Final = 2
_KIND: Final = "gptoss-mlx prompt cache"
_SAMPLE_BYTES: Final = 512
_MAX_PARTS: Final = 6  # keys and values in 8 bits: codes, scales and biases each

_Kind = tuple[tuple[int, ...], mx.Dtype]
_Loaded = tuple[dict[str, mx.array], dict[str, str]]


def model_fingerprint(
    directory: str | Path, dtype: str, kv_bits: int | None, adapter: str | Path | None = None
) -> str:
    """A hash that differs between models, and between the dtypes, ``kv_bits`` and adapters of one model.

    It covers the config, every tensor's name, shape and place, and the first and the last bytes of each, so that
    gigabytes need not be read. Any training changes some of those bytes.

    Raises:
        CheckpointError: the checkpoint is no longer there.
    """
    model = open_model(directory)
    checkpoint, config = model.checkpoint, asdict(model.config)
    digest = hashlib.sha256(json.dumps([config, dtype, kv_bits], sort_keys=True, default=str).encode())
    files = [
        (path, [tensor for tensor in checkpoint.tensors.values() if tensor.file == path])
        for path in checkpoint.files
    ]
    if adapter is not None:
        path = adapter_file(Path(adapter))
        files.append((path, list(read_header(path).values())))
    for path, records in files:
        with path.open("rb") as file:
            for record in records:
                digest.update(f"{record.name} {record.dtype} {record.shape}\n".encode())
                for begin in {record.begin, max(record.begin, record.end - _SAMPLE_BYTES)}:
                    file.seek(begin)
                    digest.update(file.read(min(_SAMPLE_BYTES, record.end - begin)))
    return digest.hexdigest()


def write(path: str | Path, entry: CacheEntry, fingerprint: str) -> None:
    """Saves a prompt cache, whole or not at all, readable by its owner alone.

    Args:
        path: the file.
        entry: the prompt cache; unchanged.
        fingerprint: of the model that computed it.

    Raises:
        FileWriteError, NotEnoughDisk: it cannot be written; the previous content, if any, is unchanged.
    """
    arrays = {
        "tokens": mx.array(entry.tokens, dtype=mx.int32),
        "snapshots": mx.array(list(entry.snapshots), dtype=mx.int32),
    }
    for n, layer in enumerate(entry.cache.layers):
        arrays |= {f"layers.{n}.{p}": part for p, part in enumerate(layer.content())}
    for position, snapshot in entry.snapshots.items():
        for n, window in enumerate(snapshot.windows):
            arrays |= {f"snapshots.{position}.{n}.{p}": part for p, part in enumerate(window.content())}
    # A slice keeps the whole buffer that it is a part of.
    arrays = {name: mx.contiguous(array) for name, array in arrays.items()}
    mx.eval(arrays)
    metadata = {"format": _KIND, "version": str(VERSION), "fingerprint": fingerprint, "sha256": _checksum(arrays)}
    with atomic_file(path, private=True) as file:
        mx.save_safetensors(file, arrays, metadata)


@dataclass(frozen=True, kw_only=True)
class SavedCache:
    """The content of a file."""

    cache: PromptCache
    tokens: list[int]
    snapshots: list[Snapshot]


def read(
    path: str | Path,
    fingerprint: str,
    *,
    config: ModelConfig,
    kv_bits: int | None,
    dtype: mx.Dtype,
    limit: int,
    admit: Callable[[list[int], int], bool] = lambda tokens, size: True,
) -> SavedCache | None:
    """Reads a saved prompt cache; None if it is not admitted.

    Args:
        path: the file.
        fingerprint: the model's.
        config: the model's.
        kv_bits: the model's.
        dtype: of the model's keys and values.
        limit: bytes that the file may have; a larger one is not read.
        admit: is called with the tokens and the bytes before the rest is read, and says whether it shall be.

    Raises:
        CacheFileError: it cannot be read, is too large, damaged, of another version or of another model.
    """
    path = Path(path)
    try:
        size = sum(record.end - record.begin for record in read_header(path).values())
        if size > limit:
            raise CacheFileError(
                f"{path}: holds {size:,} bytes, and all prompt caches together may take {limit:,}; "
                "raise max_cache_bytes, or leave the file out"
            )
        arrays, metadata = cast(_Loaded, mx.load(str(path), format="safetensors", return_metadata=True))
        _check_metadata(path, metadata, fingerprint)
        tokens = _integers(path, "tokens", arrays)
        if not tokens or not all(0 <= token < config.vocab_size for token in tokens):
            raise _damaged(path, "a token is out of range, or there is none")
        if not admit(tokens, size):
            return None
        mx.eval(arrays)
    except (CheckpointError, RuntimeError) as error:
        raise CacheFileError(f"{path}: cannot be read as a prompt cache ({error})") from error
    if _checksum(arrays) != metadata.get("sha256"):
        raise _damaged(path, "its checksum differs")
    positions = _integers(path, "snapshots", arrays)
    if positions != sorted({position for position in positions if 0 < position <= len(tokens)}):
        raise _damaged(path, "its snapshots are not in order")
    _check_arrays(path, arrays, _expected(config, kv_bits, dtype, len(tokens), positions))
    cache = PromptCache(config, kv_bits)
    return SavedCache(cache=cache, tokens=tokens, snapshots=_fill(cache, len(tokens), positions, arrays))


def _checksum(arrays: Mapping[str, mx.array]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(memoryview(array.reshape(-1).view(mx.uint8) if array.size else array))  # type: ignore[arg-type]
    return digest.hexdigest()


def _check_metadata(path: Path, metadata: Mapping[str, str], fingerprint: str) -> None:
    if metadata.get("format") != _KIND:
        raise CacheFileError(f"{path}: is not a prompt cache; name a file that gptoss-mlx wrote")
    version = metadata.get("version", "")
    if not re.fullmatch("[0-9]{1,9}", version):
        raise _damaged(path, f"its version is {short_repr(version)}")
    if int(version) != VERSION:
        raise CacheFileError(
            f"{path}: is of format {version}, and this gptoss-mlx reads format {VERSION}; leave it out and the "
            "prompt is computed again"
        )
    if metadata.get("fingerprint") != fingerprint:
        raise CacheFileError(
            f"{path}: was computed by another model, or with another dtype or kv_bits; leave it out and "
            "the prompt is computed again"
        )


def _integers(path: Path, name: str, arrays: Mapping[str, mx.array]) -> list[int]:
    array = arrays.get(name)
    if array is None or array.dtype != mx.int32 or array.ndim != 1:
        raise _damaged(path, f"{name} is missing or no list of numbers")
    return [int(value) for value in np.array(array)]


def _expected(
    config: ModelConfig, kv_bits: int | None, dtype: mx.Dtype, length: int, snapshots: list[int]
) -> dict[str, _Kind]:
    """The shape and dtype of every array in a file of so many positions."""
    one = mx.zeros((1, config.num_key_value_heads, 1, config.head_dim), dtype)
    expected: dict[str, _Kind] = {"tokens": ((length,), mx.int32), "snapshots": ((len(snapshots),), mx.int32)}
    sliding = 0
    for n, layer in enumerate(PromptCache(config, kv_bits).layers):
        layer.append(one, one)
        rows = layer.window if isinstance(layer, SlidingKVCache) else length
        kinds = [((*part.shape[:2], rows, part.shape[3]), part.dtype) for part in layer.arrays()]
        expected |= {f"layers.{n}.{p}": kind for p, kind in enumerate(kinds)}
        if isinstance(layer, SlidingKVCache):
            for position in snapshots:
                expected |= {f"snapshots.{position}.{sliding}.{p}": kind for p, kind in enumerate(kinds)}
            sliding += 1
    return expected


def _check_arrays(path: Path, arrays: Mapping[str, mx.array], expected: Mapping[str, _Kind]) -> None:
    found = {name: (tuple(array.shape), array.dtype) for name, array in arrays.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise _damaged(path, f"{name} is {found.get(name)} and should be {expected.get(name)}")


def _fill(cache: PromptCache, length: int, positions: list[int], arrays: Mapping[str, mx.array]) -> list[Snapshot]:
    """Fills an empty cache with what was read. Returns the snapshots."""

    def parts(name: str) -> list[mx.array]:
        return [arrays[part] for p in range(_MAX_PARTS) if (part := f"{name}.{p}") in arrays]

    for n, layer in enumerate(cache.layers):
        layer.restore(length, parts(f"layers.{n}"))
    snapshots = []
    for position in positions:
        windows = tuple(SlidingKVCache(window.window) for window in cache.windows)
        for n, window in enumerate(windows):
            window.restore(position, parts(f"snapshots.{position}.{n}"))
        snapshots.append(Snapshot(offset=position, windows=windows))
    return snapshots


def _damaged(path: Path, what: str) -> CacheFileError:
    return CacheFileError(f"{path}: is damaged ({what}); leave it out and the prompt is computed again")
