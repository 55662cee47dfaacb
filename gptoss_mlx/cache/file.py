"""A prompt cache in one safetensors file, to go on with in another process without computing it again.

The file holds the tokens (``tokens``, int32), the marks' positions (``marks``, int32), each layer's arrays
(``layers.N.P``: keys, then values; a full layer's without the unused end, a sliding layer's ring as it lies)
and each mark's windows (``marks.POSITION.N.P``). Its metadata are the version of this format, the fingerprint of
the model and a SHA-256 of everything else. Runs in the thread that owns MLX.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final, cast

import mlx.core as mx
import numpy as np

from ..checkpoint.safetensors import Checkpoint, read_header
from ..config import ModelConfig
from ..errors import CacheFileError, CheckpointError
from ..files.read import short_repr
from ..files.write import atomic_file
from .layered import PromptCache, SlidingKVCache, Snapshot
from .store import PrefixCache

__all__ = ["VERSION", "model_fingerprint", "read", "write"]

VERSION: Final = 1
_KIND: Final = "gptoss-mlx prompt cache"
_SAMPLE_BYTES: Final = 512
_MAX_PARTS: Final = 6  # keys and values in 8 bits: codes, scales and biases each

_Kind = tuple[tuple[int, ...], mx.Dtype]
_Loaded = tuple[dict[str, mx.array], dict[str, str]]


def model_fingerprint(directory: str | Path, dtype: str, kv_bits: int | None) -> str:
    """Tells models apart, and the ways in which one computes keys and values.

    It is a hash of the config, of every tensor's name, shape and place, and of the first and the last bytes of
    each: a checkpoint of gigabytes is not read for it. Any training changes some of those bytes.

    Raises:
        CheckpointError: the checkpoint is no longer there.
    """
    checkpoint = Checkpoint.open(directory)
    config = asdict(ModelConfig.from_directory(directory))
    digest = hashlib.sha256(json.dumps([config, dtype, kv_bits], sort_keys=True, default=str).encode())
    for path in checkpoint.files:
        with path.open("rb") as file:
            for record in (tensor for tensor in checkpoint.tensors.values() if tensor.file == path):
                digest.update(f"{record.name} {record.dtype} {record.shape}\n".encode())
                for begin in {record.begin, max(record.begin, record.end - _SAMPLE_BYTES)}:
                    file.seek(begin)
                    digest.update(file.read(min(_SAMPLE_BYTES, record.end - begin)))
    return digest.hexdigest()


def write(path: str | Path, prefix: PrefixCache, fingerprint: str) -> None:
    """Saves a prompt cache, whole or not at all, for its owner alone.

    Args:
        path: the file.
        prefix: what is to be saved; unchanged.
        fingerprint: of the model that computed it.

    Raises:
        FileWriteError, NotEnoughDisk: it cannot be written; what stood there before is unchanged.
    """
    arrays = {
        "tokens": mx.array(prefix.tokens, dtype=mx.int32),
        "marks": mx.array(list(prefix.marks), dtype=mx.int32),
    }
    for n, layer in enumerate(prefix.cache.layers):
        arrays |= {f"layers.{n}.{p}": part for p, part in enumerate(layer.content())}
    for position, snapshot in prefix.snapshots.items():
        for n, window in enumerate(snapshot.windows):
            arrays |= {f"marks.{position}.{n}.{p}": part for p, part in enumerate(window.content())}
    # A slice of a buffer has the whole buffer behind it.
    arrays = {name: mx.contiguous(array) for name, array in arrays.items()}
    mx.eval(arrays)
    metadata = {"format": _KIND, "version": str(VERSION), "fingerprint": fingerprint, "sha256": _checksum(arrays)}
    with atomic_file(path, private=True) as file:
        mx.save_safetensors(file, arrays, metadata)


def read(
    path: str | Path, empty: PrefixCache, fingerprint: str, *, config: ModelConfig, dtype: mx.Dtype
) -> PrefixCache:
    """Reads a saved prompt cache.

    Args:
        path: the file.
        empty: a new prompt cache of the model, to fill.
        fingerprint: the model's.
        config: the model's.
        dtype: of the model's keys and values.

    Returns:
        ``empty``, filled.

    Raises:
        CacheFileError: it cannot be read, is damaged, is of a newer version, or of another model.
    """
    path = Path(path)
    try:
        read_header(path)
        arrays, metadata = cast(_Loaded, mx.load(str(path), format="safetensors", return_metadata=True))
        _check_metadata(path, metadata, fingerprint)
        mx.eval(arrays)
    except (CheckpointError, RuntimeError) as error:
        raise CacheFileError(f"{path}: cannot be read as a prompt cache ({error})") from error
    if _checksum(arrays) != metadata.get("sha256"):
        raise _damaged(path, "its checksum differs")
    tokens, marks = (_integers(path, name, arrays) for name in ("tokens", "marks"))
    if not all(0 <= token < config.vocab_size for token in tokens):
        raise _damaged(path, "a token is out of range")
    if marks != sorted({mark for mark in marks if 0 < mark <= len(tokens)}):
        raise _damaged(path, "its marks are not in order")
    _check_arrays(path, arrays, _expected(empty.cache, len(tokens), marks, config, dtype))
    _fill(empty, tokens, marks, arrays)
    return empty


def _checksum(arrays: Mapping[str, mx.array]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(memoryview(array.reshape(-1).view(mx.uint8) if array.size else array))  # type: ignore[arg-type]
    return digest.hexdigest()


def _check_metadata(path: Path, metadata: Mapping[str, str], fingerprint: str) -> None:
    if metadata.get("format") != _KIND:
        raise CacheFileError(f"{path}: is no prompt cache; name a file that gptoss-mlx wrote")
    version = metadata.get("version", "")
    if not re.fullmatch("[0-9]{1,9}", version):
        raise _damaged(path, f"its version is {short_repr(version)}")
    if int(version) > VERSION:
        raise CacheFileError(
            f"{path}: is of format {version}, this gptoss-mlx reads up to {VERSION}; update gptoss-mlx"
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
    cache: PromptCache, length: int, marks: list[int], config: ModelConfig, dtype: mx.Dtype
) -> dict[str, _Kind]:
    """Every array that a file of so many positions has."""
    one = mx.zeros((1, config.num_key_value_heads, 1, config.head_dim), dtype)
    expected: dict[str, _Kind] = {"tokens": ((length,), mx.int32), "marks": ((len(marks),), mx.int32)}
    sliding = 0
    for n, layer in enumerate(cache.layers):
        sample = layer.fork()
        sample.append(one, one)
        rows = layer.window if isinstance(layer, SlidingKVCache) else length
        kinds = [((*part.shape[:2], rows, part.shape[3]), part.dtype) for part in sample.arrays()]
        if length:
            expected |= {f"layers.{n}.{p}": kind for p, kind in enumerate(kinds)}
        if isinstance(layer, SlidingKVCache):
            for mark in marks:
                expected |= {f"marks.{mark}.{sliding}.{p}": kind for p, kind in enumerate(kinds)}
            sliding += 1
    return expected


def _check_arrays(path: Path, arrays: Mapping[str, mx.array], expected: Mapping[str, _Kind]) -> None:
    found = {name: (tuple(array.shape), array.dtype) for name, array in arrays.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise _damaged(path, f"{name} is {found.get(name)} and should be {expected.get(name)}")


def _fill(empty: PrefixCache, tokens: list[int], marks: list[int], arrays: Mapping[str, mx.array]) -> None:
    def parts(name: str) -> list[mx.array]:
        return [arrays[part] for p in range(_MAX_PARTS) if (part := f"{name}.{p}") in arrays]

    windows = [layer.window for layer in empty.cache.layers if isinstance(layer, SlidingKVCache)]
    for n, layer in enumerate(empty.cache.layers):
        layer.restore(len(tokens), parts(f"layers.{n}"))
    snapshots = {}
    for mark in marks:
        restored = [SlidingKVCache(window) for window in windows]
        for n, window in enumerate(restored):
            window.restore(mark, parts(f"marks.{mark}.{n}"))
        snapshots[mark] = Snapshot(offset=mark, windows=tuple(restored))
    empty.restore(tokens, snapshots)


def _damaged(path: Path, what: str) -> CacheFileError:
    return CacheFileError(f"{path}: is damaged ({what}); leave it out and the prompt is computed again")
