"""Tensors as rows of bytes, which are read in blocks, cut, joined and interleaved, and never held whole.

A reader represents a tensor that may not exist in any file; ``read`` makes some of its rows. Readers nest: a fused
qkv joins three stored tensors, and its export to another layout is a slice of that. Everything here moves bytes;
arithmetic is in ``quantize``.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gptoss_mlx.checkpoint.safetensors import TensorRecord
from gptoss_mlx.errors import CheckpointError

__all__ = [
    "BLOCK_BYTES",
    "AlternateRows",
    "Block",
    "CheckedScales",
    "ColumnSlice",
    "ExpertBiases",
    "InterleavedRows",
    "JoinedColumns",
    "JoinedRows",
    "MadeTogether",
    "Reader",
    "RowSlice",
    "SourceFiles",
    "Stored",
    "Transposed",
    "blocks",
    "read_size",
    "row_count",
]

BLOCK_BYTES = 1024**2
"""Approximate size of a block. It is still in the processor's cache when it is hashed and written: with 16 MB that
took twice the time."""

Block = npt.NDArray[np.uint8]
"""Shape [rows, row_bytes]."""

_ELEMENTS = {2: np.uint16, 4: np.uint32}


class Reader(Protocol):
    """Gives the bytes of a tensor by rows."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    @property
    def row_bytes(self) -> int:
        """The size of a row."""

    @property
    def step(self) -> int:
        """Blocks begin and end at multiples of this number of rows."""

    @property
    def cost(self) -> int:
        """Bytes of memory needed to make a row."""

    def read(self, begin: int, end: int) -> Block:
        """Returns the rows from ``begin`` up to, not including, ``end``."""


def row_count(shape: Sequence[int]) -> int:
    """The number of rows of a tensor; those of an expert tensor (three axes or more) are its first two axes."""
    return math.prod(shape[:2]) if len(shape) > 2 else math.prod(shape[:1])


def blocks(reader: Reader) -> Iterator[Block]:
    """Yields all rows, in blocks that take about ``BLOCK_BYTES`` of memory to make."""
    size = read_size(reader)
    for begin in range(0, reader.rows, size):
        yield reader.read(begin, min(begin + size, reader.rows))


def read_size(reader: Reader) -> int:
    """The number of rows that take about ``BLOCK_BYTES`` of memory to make, at least one step."""
    return max(1, BLOCK_BYTES // max(1, reader.cost) // reader.step) * reader.step


class SourceFiles:
    """The open files of a source. Reads do not move a shared position, so any thread may read."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self.bytes_read = 0

    def read(self, record: TensorRecord, offset: int, size: int) -> bytes:
        """Reads ``size`` bytes of a tensor, from ``offset`` on.

        Raises:
            CheckpointError: the file cannot be read, or is shorter than when its header was checked.
        """
        if not size:
            return b""
        parts: list[bytes] = []
        done = 0
        try:
            descriptor = self._descriptor(record.file)
            while done < size:
                part = os.pread(descriptor, size - done, record.begin + offset + done)
                if not part:
                    raise CheckpointError(f"{record.file}: became shorter at {record.name} while it was read")
                parts.append(part)
                done += len(part)
        except OSError as error:
            raise CheckpointError(
                f"{record.file}: tensor {record.name} cannot be read ({error.strerror or error}); "
                "check the disk, or download it again"
            ) from error
        self.bytes_read += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _descriptor(self, file: Path) -> int:
        if file not in self._descriptors:
            self._descriptors[file] = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        return self._descriptors[file]

    def close(self) -> None:
        """Closes every file."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> SourceFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Stored:
    """A tensor as it is in its file.

    Args:
        record: its place.
        files: the source's.
        rows: their number; by default :func:`row_count` of its shape.
    """

    step = 1

    def __init__(self, record: TensorRecord, files: SourceFiles, rows: int | None = None) -> None:
        self.record = record
        self.rows = row_count(record.shape) if rows is None else rows
        self.row_bytes = record.nbytes // self.rows if self.rows else 0
        self.cost = self.row_bytes
        self._files = files

    def read(self, begin: int, end: int) -> Block:
        data = self._files.read(self.record, begin * self.row_bytes, (end - begin) * self.row_bytes)
        return np.frombuffer(data, np.uint8).reshape(end - begin, self.row_bytes)


class JoinedRows:
    """Several tensors of the same width, one below the other."""

    step = 1

    def __init__(self, parts: Sequence[Reader]) -> None:
        self.parts = tuple(parts)
        self._ends = list(itertools.accumulate(part.rows for part in parts))
        self.rows = self._ends[-1]
        self.row_bytes = parts[0].row_bytes
        self.cost = max(part.cost for part in parts)

    def read(self, begin: int, end: int) -> Block:
        found: list[Block] = []
        while begin < end:
            index = bisect.bisect_right(self._ends, begin)
            first = self._ends[index] - self.parts[index].rows
            stop = min(end, self._ends[index])
            found.append(self.parts[index].read(begin - first, stop - first))
            begin = stop
        return found[0] if len(found) == 1 else np.concatenate(found)


class JoinedColumns:
    """Several tensors of the same height, one beside the other."""

    step = 1

    def __init__(self, parts: Sequence[Reader]) -> None:
        self.parts = tuple(parts)
        self.rows = parts[0].rows
        self.row_bytes = sum(part.row_bytes for part in parts)
        self.cost = 2 * self.row_bytes

    def read(self, begin: int, end: int) -> Block:
        return np.concatenate([part.read(begin, end) for part in self.parts], axis=1)


class InterleavedRows:
    """The rows of two tensors in turn: even rows from the first, odd rows from the second."""

    step = 2

    def __init__(self, even: Reader, odd: Reader) -> None:
        self.even, self.odd = even, odd
        self.rows = even.rows * 2
        self.row_bytes = even.row_bytes
        self.cost = 2 * self.row_bytes

    def read(self, begin: int, end: int) -> Block:
        block = np.empty((end - begin, self.row_bytes), np.uint8)
        block[0::2] = self.even.read(begin // 2, end // 2)
        block[1::2] = self.odd.read(begin // 2, end // 2)
        return block


class ExpertBiases:
    """Gate and up interleaved element by element, with down beside them."""

    step = 1

    def __init__(self, parts: Sequence[Reader], element: int) -> None:
        gate, up, down = self.parts = tuple(parts)
        self._dtype = _ELEMENTS[element]
        self.rows = gate.rows
        self.row_bytes = gate.row_bytes + up.row_bytes + down.row_bytes
        self.cost = 2 * self.row_bytes

    def read(self, begin: int, end: int) -> Block:
        gate, up, down = (part.read(begin, end).view(self._dtype) for part in self.parts)
        both = np.stack([gate, up], axis=-1).reshape(end - begin, -1)
        return np.concatenate([both, down], axis=1).view(np.uint8)


class RowSlice:
    """Consecutive rows of a tensor."""

    step = 1

    def __init__(self, whole: Reader, first: int, rows: int) -> None:
        if whole.step != 1:
            raise ValueError("only a tensor that can be read row by row can be cut")
        self.whole, self.first = whole, first
        self.rows = rows
        self.row_bytes, self.cost = whole.row_bytes, whole.cost

    def read(self, begin: int, end: int) -> Block:
        return self.whole.read(self.first + begin, self.first + end)


class AlternateRows:
    """Every second row of a tensor: the inverse of :class:`InterleavedRows`."""

    def __init__(self, whole: Reader, first: int) -> None:
        self.whole, self.first = whole, first
        self.step = max(1, whole.step // 2)
        self.rows = whole.rows // 2
        self.row_bytes = whole.row_bytes
        self.cost = 3 * whole.cost

    def read(self, begin: int, end: int) -> Block:
        return np.ascontiguousarray(self.whole.read(2 * begin, 2 * end)[self.first :: 2])


class ColumnSlice:
    """Some columns of a tensor."""

    def __init__(self, whole: Reader, columns: slice, element: int) -> None:
        self.whole, self.columns = whole, columns
        self._dtype = _ELEMENTS[element]
        self.step, self.rows = whole.step, whole.rows
        self.row_bytes = element * len(range(*columns.indices(whole.row_bytes // element)))
        self.cost = whole.cost + self.row_bytes

    def read(self, begin: int, end: int) -> Block:
        cut: npt.NDArray[Any] = self.whole.read(begin, end).view(self._dtype)[:, self.columns]
        return np.ascontiguousarray(cut).view(np.uint8)


class Transposed:
    """Matrices of the same size, one after another, each transposed.

    A matrix is read whole and kept until the next is read, because its rows are the columns of what is stored: an
    unpacked expert of the 20b has 33 MB.
    """

    step = 1

    def __init__(self, stored: Reader, matrices: int, element: int) -> None:
        self._stored, self._dtype = stored, _ELEMENTS[element]
        self._inputs, self._outputs = stored.rows // matrices, stored.row_bytes // element
        self.rows = matrices * self._outputs
        self.row_bytes = self.cost = self._inputs * element
        self._held = -1
        self._matrix = np.empty((0, 0), self._dtype)

    def read(self, begin: int, end: int) -> Block:
        found: list[Block] = []
        while begin < end:
            number, first = divmod(begin, self._outputs)
            last = min(self._outputs, first + end - begin)
            columns = self._read_matrix(number)[:, first:last]
            found.append(np.ascontiguousarray(columns.T).view(np.uint8))
            begin += last - first
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _read_matrix(self, number: int) -> npt.NDArray[Any]:
        if self._held != number:
            self._matrix = np.empty((0, 0), self._dtype)  # freed before the next is read
            block = self._stored.read(number * self._inputs, (number + 1) * self._inputs)
            self._matrix, self._held = block.view(self._dtype), number
        return self._matrix


class MadeTogether:
    """Tensors whose rows are made together: the words of a quantised tensor with their scales (and biases).

    The first, the largest, is read first and streamed. The others are kept from when they are made until they are
    read, so that nothing is made twice; where they are not there, the first is made again.

    Args:
        make: the rows of all of them, from one row up to another.
        source: what they are made from: has as many rows.
        widths: the bytes of a row of each.
        cost: bytes of memory needed to make a row; by default the source's.
    """

    def __init__(
        self,
        make: Callable[[int, int], Sequence[Block]],
        source: Reader,
        widths: Sequence[int],
        cost: int | None = None,
    ) -> None:
        self.rows, self.step = source.rows, source.step
        self.cost = source.cost if cost is None else cost
        self._make, self.widths = make, tuple(widths)
        self._kept: list[Block] = []
        self._filled = 0
        self.parts: tuple[Reader, ...] = (_First(self), *(_Other(self, n) for n in range(1, len(widths))))

    def make(self, begin: int, end: int) -> Block:
        """Makes rows, keeps those of the others, and returns the first's."""
        first, *others = self._make(begin, end)
        if not self._kept:
            self._kept = [np.empty((self.rows, width), np.uint8) for width in self.widths[1:]]
        for tensor, block in zip(self._kept, others, strict=True):
            tensor[begin:end] = block
        if begin <= self._filled:
            self._filled = max(self._filled, end)
        return first

    def kept(self, number: int, begin: int, end: int) -> Block:
        """Rows of one of the others. The last of them are the last rows read: nothing is kept after them."""
        size = read_size(self.parts[0])
        while self._filled < end:
            self.make(self._filled, min(self._filled + size, self.rows))
        block = self._kept[number - 1][begin:end]
        if number == len(self._kept) and end == self.rows:
            block = block.copy()
            self._filled, self._kept = 0, []
        return block


class _First:
    """The first of tensors that are made together."""

    def __init__(self, together: MadeTogether) -> None:
        self.rows, self.step, self.cost = together.rows, together.step, together.cost
        self.row_bytes = together.widths[0]
        self.read = together.make


class _Other:
    """Another of them."""

    step = 1

    def __init__(self, together: MadeTogether, number: int) -> None:
        self._together, self._number = together, number
        self.rows = together.rows
        self.row_bytes = self.cost = together.widths[number]

    def read(self, begin: int, end: int) -> Block:
        return self._together.kept(self._number, begin, end)


class CheckedScales:
    """Scales in E8M0, refused if they hold its NaN (0xFF), which would turn every answer into noise."""

    def __init__(self, scales: Reader, record: TensorRecord) -> None:
        self._scales, self._record = scales, record
        self.rows, self.row_bytes, self.step, self.cost = scales.rows, scales.row_bytes, scales.step, scales.cost

    def read(self, begin: int, end: int) -> Block:
        block = self._scales.read(begin, end)
        if block.size and block.max() == 0xFF:
            raise CheckpointError(
                f"{self._record.file}: tensor {self._record.name} holds NaN scales; download it again"
            )
        return block
