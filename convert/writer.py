"""Writes the files of a target directory sequentially, hashes them meanwhile, and syncs them.

A shard's header is complete before its first byte is written, because every shape is known. While a block is read
and computed, earlier blocks are hashed and written, in two threads.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.checkpoint.safetensors import INDEX_NAME

from .manifest import FileEntry, TensorEntry
from .readers import Block, blocks
from .targets import TargetTensor
from .uncached import UncachedFile

__all__ = ["SHARD_BYTES", "DirectoryWriter", "Shard", "plan_shards"]

SHARD_BYTES = 5_000_000_000
_PENDING = 16  # blocks read but not yet hashed
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A safetensors file to write."""

    name: str
    tensors: tuple[TargetTensor, ...]

    @property
    def header(self) -> bytes:
        """The header's length and JSON, padded so that the data begins at a multiple of 64 bytes."""
        entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        position = 0
        for tensor in self.tensors:
            offsets = [position, position + tensor.nbytes]
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
            position = offsets[1]
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def plan_shards(tensors: Sequence[TargetTensor], limit: int = SHARD_BYTES) -> list[Shard]:
    """Distributes tensors over shards in order; a shard exceeds ``limit`` bytes only if a single tensor does."""
    groups: list[list[TargetTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    return [
        Shard(name=f"model-{number:05}-of-{len(groups):05}.safetensors", tensors=tuple(group))
        for number, group in enumerate(groups, start=1)
    ]


class DirectoryWriter:
    """Writes files into one directory and records their sizes and hashes.

    It is a context manager: leaving it ends its thread.
    """

    def __init__(self, directory: Path, progress: Callable[[int], None]) -> None:
        self.directory = directory
        self.files: dict[str, FileEntry] = {}
        self.tensors: dict[str, TensorEntry] = {}
        self._progress = progress
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="convert-hash")

    def __enter__(self) -> DirectoryWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def write_small(self, name: str, content: bytes) -> None:
        """Writes a file from bytes."""
        with closing(UncachedFile(self.directory / name)) as file:
            file.write(memoryview(content))
            file.finish()
        self.files[name] = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def write_shard(self, shard: Shard) -> None:
        """Writes a shard block by block."""
        header = shard.header
        with closing(UncachedFile(self.directory / shard.name)) as file:
            file.write(memoryview(header))
            for tensor in shard.tensors:
                self._write_tensor(file, tensor, shard.name)
            file.finish()
        self.files[shard.name] = FileEntry(bytes=shard.nbytes, sha256=hashlib.sha256(header).hexdigest())

    def _write_tensor(self, file: UncachedFile, tensor: TargetTensor, name: str) -> None:
        digest = hashlib.sha256()
        pending: deque[Future[None]] = deque()
        for block in blocks(tensor.reader):
            view = _bytes_of(block)
            pending.append(self._thread.submit(digest.update, view))
            file.write(view)
            self._progress(len(view))
            if len(pending) >= _PENDING:
                pending.popleft().result()
        while pending:
            pending.popleft().result()
        self.tensors[tensor.name] = TensorEntry(
            dtype=tensor.dtype, shape=tensor.shape, file=name, sha256=digest.hexdigest()
        )

    def write_index(self, shards: Sequence[Shard]) -> None:
        """Writes the index of the shards."""
        weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
        total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        self.write_small(INDEX_NAME, (json.dumps(content, indent=1) + "\n").encode())


def _bytes_of(block: Block) -> memoryview:
    return block.reshape(-1).data
