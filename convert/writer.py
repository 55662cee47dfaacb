"""Writes the files of a target directory: sequentially, once, hashed on the way, and synced.

A shard's header is complete before its first byte is written, since every shape is known. While one block is
read and computed, the blocks before it are written and hashed in two threads: one writes and hashes the file, one
hashes the tensor. A third thread for the writing costs more in handing over than it saves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gptoss_mlx.checkpoint import INDEX_NAME
from gptoss_mlx.errors import FileWriteError
from gptoss_mlx.files import sync_descriptor

from .manifest import FileEntry, TensorEntry
from .readers import Block, blocks
from .targets import TargetTensor

__all__ = ["SHARD_BYTES", "DirectoryWriter", "Shard", "plan_shards"]

SHARD_BYTES = 5_000_000_000
_PENDING = 8  # blocks read but not yet written and hashed
_ALIGNMENT = 64
_FLUSH_BYTES = 256 * 1024**2
"""So many bytes after the last time the disk is set to work, which it would otherwise be only at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One safetensors file to write."""

    name: str
    tensors: tuple[TargetTensor, ...]

    @property
    def header(self) -> bytes:
        """Length and JSON, padded so that the data begins at a multiple of 64 bytes."""
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
        """Of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def plan_shards(tensors: Sequence[TargetTensor], limit: int = SHARD_BYTES) -> list[Shard]:
    """Fills shards in order, none with more than ``limit`` bytes of tensors unless one tensor is larger."""
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


class _Hash(Protocol):
    """What of hashlib is needed."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class DirectoryWriter:
    """Writes files into one directory and remembers what it wrote.

    Use as a context: leaving it waits for the threads, so that nothing writes afterwards.
    """

    def __init__(self, directory: Path, progress: Callable[[int], None]) -> None:
        self.directory = directory
        self.files: dict[str, FileEntry] = {}
        self.tensors: dict[str, TensorEntry] = {}
        self._progress = progress
        self._unflushed = 0
        self._flush: Future[None] | None = None
        # One thread each, so that each sees the blocks in order.
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix=f"convert-{name}") for name in ("file", "tensor", "sync")
        ]
        self._syncs: list[Future[None]] = []

    def __enter__(self) -> DirectoryWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)

    def write_small(self, name: str, content: bytes) -> None:
        """Writes a whole file at once."""
        with self._created(name) as descriptor:
            _write_all(descriptor, memoryview(content))
            sync_descriptor(descriptor)
        self.files[name] = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def write_shard(self, shard: Shard) -> None:
        """Streams a shard; its sync goes on while the next one is written (see :meth:`finish`)."""
        header = shard.header
        file_hash = hashlib.sha256(header)
        descriptor = self._open(shard.name)
        try:
            _write_all(descriptor, memoryview(header))
            for tensor in shard.tensors:
                self._write_tensor(descriptor, tensor, shard.name, file_hash)
        except BaseException:
            # The threads may still be at work on it.
            self.__exit__()
            os.close(descriptor)
            raise
        self.files[shard.name] = FileEntry(bytes=shard.nbytes, sha256=file_hash.hexdigest())
        self._syncs.append(self._threads[2].submit(_sync_and_close, descriptor))

    def finish(self) -> None:
        """Waits until every shard is on the disk."""
        for sync in self._syncs:
            sync.result()
        self._syncs.clear()

    def _write_tensor(self, descriptor: int, tensor: TargetTensor, file: str, file_hash: _Hash) -> None:
        write, hash_tensor, _ = self._threads
        tensor_hash = hashlib.sha256()
        pending: deque[tuple[int, list[Future[None]]]] = deque()
        for block in blocks(tensor.reader):
            view = _bytes_of(block)
            pending.append(
                (
                    len(view),
                    [
                        write.submit(_write_hashed, descriptor, view, file_hash),
                        hash_tensor.submit(tensor_hash.update, view),
                    ],
                )
            )
            while len(pending) >= _PENDING:
                self._settle(descriptor, *pending.popleft())
        while pending:
            self._settle(descriptor, *pending.popleft())
        self.tensors[tensor.name] = TensorEntry(
            dtype=tensor.dtype, shape=tensor.shape, file=file, sha256=tensor_hash.hexdigest()
        )

    def _settle(self, descriptor: int, size: int, work: list[Future[None]]) -> None:
        """Waits until a block is written and hashed."""
        for future in work:
            future.result()
        self._progress(size)
        self._unflushed += size
        if self._unflushed >= _FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self._unflushed = 0
            self._flush = self._threads[2].submit(_start_writing_back, descriptor)
            # The system reports a failed write-back once, perhaps here and no longer at the sync.
            self._syncs.append(self._flush)

    def write_index(self, shards: Sequence[Shard]) -> None:
        """The index of the shards."""
        weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
        total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        self.write_small(INDEX_NAME, (json.dumps(content, indent=1) + "\n").encode())

    def _open(self, name: str) -> int:
        return os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    @contextlib.contextmanager
    def _created(self, name: str) -> Iterator[int]:
        descriptor = self._open(name)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _bytes_of(block: Block) -> memoryview:
    return block.reshape(-1).data


def _write_all(descriptor: int, view: memoryview) -> None:
    """A write may take only a part, and one of 2 GB and more always does."""
    while view:
        written = os.write(descriptor, view)
        if written <= 0:
            raise FileWriteError("the disk accepts no more bytes; free some space and try again")
        view = view[written:]


def _write_hashed(descriptor: int, view: memoryview, file_hash: _Hash) -> None:
    file_hash.update(view)
    _write_all(descriptor, view)


def _start_writing_back(descriptor: int) -> None:
    """Linux lets gigabytes pile up before it writes them; macOS, which has no fdatasync, does not."""
    if sys.platform != "darwin":
        os.fdatasync(descriptor)


def _sync_and_close(descriptor: int) -> None:
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)
