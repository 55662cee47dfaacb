"""The arithmetic of a conversion in row blocks: to bfloat16, to MLX's affine form and back, to MXFP4.

A quantised tensor consists of two or three tensors that are computed together. The words are read first and
streamed; the scales (and biases), a sixteenth of their size, are buffered until they are read, so that nothing is
computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.config import MXFP4_GROUP_SIZE

from .readers import BLOCK_BYTES, Block, JoinedRows, Reader, RowSlice, Stored

__all__ = [
    "AffineTensors",
    "Dequantised",
    "Mxfp4Tensors",
    "QuantizationError",
    "ToBfloat16",
    "affine_quantise",
    "as_float32",
    "mxfp4_values",
]

_Part = TypeVar("_Part")
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def _to_mlx(block: Block, dtype: str) -> mx.array:
    """A block of floats as an array; bfloat16 is passed as words, because numpy has no such type."""
    array = mx.array(block.view(_FLOATS[dtype]))
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def _to_block(array: mx.array) -> Block:
    """The bytes of a 2-D array."""
    words = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    mx.eval(words)
    return np.ascontiguousarray(np.asarray(words)).view(np.uint8)


def as_float32(block: Block) -> npt.NDArray[np.float32]:
    """Converts a block of bfloat16."""
    return (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def mxfp4_values(words: Block, scales: Block) -> npt.NDArray[np.float32]:
    """Dequantises rows of MXFP4."""
    values = mx.dequantize(
        mx.array(words.view(np.uint32)), mx.array(scales), group_size=MXFP4_GROUP_SIZE, bits=4, mode="mxfp4"
    )
    return np.asarray(values.astype(mx.float32))


def affine_quantise(block: Block, bits: int, group_size: int) -> tuple[Block, Block, Block]:
    """Words, scales and biases of rows of bfloat16, bit for bit as ``mx.quantize`` makes them on the CPU.

    numpy needs four fifths of the time, because MLX's loop takes one value at a time there.

    Args:
        block: shape [rows, 2 · width].
        bits: 4 or 8.
        group_size: values that share a scale and a bias; divides the width.
    """
    values = as_float32(block).reshape(-1, group_size)
    with np.errstate(all="ignore"):  # NaN stays NaN
        scales, biases = _affine_grid(values, bits)
        values -= biases[:, None]
        values /= scales[:, None]
        np.rint(values, out=values)
        np.clip(values, 0, 2**bits - 1, out=values)
        codes = values.astype(np.uint8)
    # The first of two codes is the lower half of a byte.
    words = codes if bits == 8 else codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    parts = (words, _as_bfloat16(scales), _as_bfloat16(biases))
    return _three(part.reshape(len(block), -1).view(np.uint8) for part in parts)


def _affine_grid(
    groups: npt.NDArray[np.float32], bits: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Scale and bias of each group, such that zero and the end farther from zero are represented exactly."""
    high, low = groups.max(axis=1), groups.min(axis=1)
    from_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / np.float32(2**bits - 1), np.float32(1e-7))
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    steps = np.rint(edge / scale)
    zero = steps == 0
    return np.where(zero, scale, edge / np.where(zero, 1, steps)), np.where(zero, 0, edge)


def _as_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds to nearest even."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class ToBfloat16:
    """A tensor of another float type as bfloat16, rounded to nearest even."""

    step = 1

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._dtype = stored.record.dtype
        self.rows = stored.rows
        elements = stored.row_bytes // np.dtype(_FLOATS[self._dtype]).itemsize
        self.row_bytes = 2 * elements
        self.cost = stored.cost

    def read(self, begin: int, end: int) -> Block:
        return _to_block(_to_mlx(self._stored.read(begin, end), self._dtype).astype(mx.bfloat16))


class Dequantised:
    """An affine-quantised tensor, dequantised to bfloat16."""

    step = 1

    def __init__(self, words: Reader, scales: Reader, biases: Reader, bits: int, group_size: int) -> None:
        self.parts = (words, scales, biases)
        self.bits, self.group_size = bits, group_size
        self.rows = words.rows
        self.row_bytes = words.row_bytes * 8 // bits * 2
        self.cost = 2 * self.row_bytes

    def read(self, begin: int, end: int) -> Block:
        words, scales, biases = (part.read(begin, end) for part in self.parts)
        values = mx.dequantize(
            mx.array(words.view(np.uint32)),
            _to_mlx(scales, "BF16"),
            _to_mlx(biases, "BF16"),
            group_size=self.group_size,
            bits=self.bits,
        )
        return _to_block(values)


class AffineTensors:
    """The words, scales and biases of a bfloat16 tensor in MLX's affine form."""

    def __init__(self, values: Reader, bits: int, group_size: int) -> None:
        width = values.row_bytes // 2
        scale_bytes = width // group_size * 2
        self._values, self._bits, self._group_size = values, bits, group_size
        self._buffer = _ScaleBuffer(values.rows, (scale_bytes, scale_bytes))
        self.words: Reader = _QuantisedWords(
            self._quantise, rows=values.rows, row_bytes=width * bits // 8, step=values.step, cost=values.cost
        )
        self.scales: Reader = _BufferedScales(self._buffer, 0, self._fill, last=False)
        self.biases: Reader = _BufferedScales(self._buffer, 1, self._fill, last=True)

    @classmethod
    def of(cls, values: Reader, bits: int, group_size: int) -> tuple[Reader, Reader, Reader]:
        """The three readers; the stored ones where ``values`` was dequantised from exactly this form."""
        stored = _quantised_parts(values, bits, group_size)
        if stored is not None:
            return stored
        made = cls(values, bits, group_size)
        return made.words, made.scales, made.biases

    def _quantise(self, begin: int, end: int) -> Block:
        values = self._values.read(begin, end)
        words, scales, biases = affine_quantise(values, self._bits, self._group_size)
        self._buffer.store(begin, end, (scales, biases))
        return words

    def _fill(self, end: int) -> None:
        _read_up_to(self.words, self._buffer, end)


def _quantised_parts(values: Reader, bits: int, group_size: int) -> tuple[Reader, Reader, Reader] | None:
    """The stored parts, if there are any: rows are quantised one by one, so joins and cuts commute with it."""
    if isinstance(values, Dequantised) and (values.bits, values.group_size) == (bits, group_size):
        return values.parts
    if isinstance(values, JoinedRows):
        found = [_quantised_parts(part, bits, group_size) for part in values.parts]
        stored = [parts for parts in found if parts is not None]
        if len(stored) == len(found):
            return _three(JoinedRows([parts[number] for parts in stored]) for number in range(3))
    if isinstance(values, RowSlice):
        whole = _quantised_parts(values.whole, bits, group_size)
        if whole is not None:
            return _three(RowSlice(part, values.first, values.rows) for part in whole)
    return None


def _three(parts: Iterable[_Part]) -> tuple[_Part, _Part, _Part]:
    words, scales, biases = parts
    return words, scales, biases


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationError:
    """The error of quantising experts to MXFP4."""

    largest: float
    """The largest absolute error of a weight."""
    relative: float
    """Root mean square of the errors, divided by that of the weights."""


class Mxfp4Tensors:
    """Words and scales of float experts [E, in, out]; they are stored transposed: [E, out, in]."""

    def __init__(self, stored: Stored) -> None:
        experts, self._inputs, self._outputs = stored.record.shape
        self._stored, self._dtype = stored, stored.record.dtype
        rows = experts * self._outputs
        self._buffer = _ScaleBuffer(rows, (self._inputs // MXFP4_GROUP_SIZE,))
        # A stored row is an input and a row of words an output; an expert has as many bytes either way.
        cost = stored.row_bytes * self._inputs // self._outputs
        self.words: Reader = _QuantisedWords(
            self._quantise, rows=rows, row_bytes=self._inputs // 2, step=self._outputs, cost=cost
        )
        self.scales: Reader = _BufferedScales(self._buffer, 0, self._fill, last=True)
        self._largest = self._squares = self._error_squares = 0.0

    @property
    def error(self) -> QuantizationError:
        """The error of the rows read so far."""
        return self.combined([self])

    @staticmethod
    def combined(tensors: Sequence[Mxfp4Tensors]) -> QuantizationError:
        """The error of several tensors together."""
        squares = sum(tensor._squares for tensor in tensors)
        return QuantizationError(
            largest=max((tensor._largest for tensor in tensors), default=0.0),
            relative=math.sqrt(sum(tensor._error_squares for tensor in tensors) / squares) if squares else 0.0,
        )

    def _quantise(self, begin: int, end: int) -> Block:
        first, last = begin // self._outputs, -(-end // self._outputs)
        block = self._stored.read(first * self._inputs, last * self._inputs)
        values = _to_mlx(block, self._dtype).reshape(last - first, self._inputs, self._outputs)
        values = mx.contiguous(values.swapaxes(1, 2).reshape(-1, self._inputs))
        words, scales, *_ = mx.quantize(values, group_size=MXFP4_GROUP_SIZE, bits=4, mode="mxfp4")
        self._measure(values, words, scales)
        self._buffer.store(begin, end, (_to_block(scales),))
        return _to_block(words)

    def _measure(self, values: mx.array, words: mx.array, scales: mx.array) -> None:
        restored = mx.dequantize(words, scales, group_size=MXFP4_GROUP_SIZE, bits=4, mode="mxfp4")
        exact = values.astype(mx.float32)
        error = restored.astype(mx.float32) - exact
        largest, squares, error_squares = (
            float(np.asarray(value))
            for value in (mx.abs(error).max(), mx.square(exact).sum(), mx.square(error).sum())
        )
        self._largest = max(self._largest, largest)
        self._squares += squares
        self._error_squares += error_squares

    def _fill(self, end: int) -> None:
        _read_up_to(self.words, self._buffer, end)


_Quantise = Callable[[int, int], Block]
_Fill = Callable[[int], None]


class _ScaleBuffer:
    """Scales (and biases), from when they are computed with the words until they are read."""

    def __init__(self, rows: int, widths: tuple[int, ...]) -> None:
        self.rows, self.widths = rows, widths
        self.filled = 0
        self._tensors: list[Block] = []

    def store(self, begin: int, end: int, blocks: tuple[Block, ...]) -> None:
        if not self._tensors:
            self._tensors = [np.empty((self.rows, width), np.uint8) for width in self.widths]
        for tensor, block in zip(self._tensors, blocks, strict=True):
            tensor[begin:end] = block
        if begin <= self.filled:
            self.filled = max(self.filled, end)

    def rows_of(self, number: int, begin: int, end: int) -> Block:
        return self._tensors[number][begin:end]

    def release(self) -> None:
        self.filled = 0
        self._tensors = []


class _QuantisedWords:
    """The words of a quantised tensor."""

    def __init__(self, quantise: _Quantise, *, rows: int, row_bytes: int, step: int, cost: int) -> None:
        self.rows, self.row_bytes, self.step, self.cost = rows, row_bytes, step, cost
        self.read = quantise


def _read_up_to(words: Reader, buffer: _ScaleBuffer, end: int) -> None:
    """Reads the words again, which fills the buffer."""
    size = max(1, BLOCK_BYTES // words.cost // words.step) * words.step
    while buffer.filled < end:
        words.read(buffer.filled, min(buffer.filled + size, words.rows))


class _BufferedScales:
    """The scales or biases of a quantised tensor."""

    step = 1

    def __init__(self, buffer: _ScaleBuffer, number: int, fill: _Fill, *, last: bool) -> None:
        self._buffer, self._number, self._fill, self._last = buffer, number, fill, last
        self.rows = buffer.rows
        self.row_bytes = self.cost = buffer.widths[number]

    def read(self, begin: int, end: int) -> Block:
        if end > self._buffer.filled:
            self._fill(end)
        block = self._buffer.rows_of(self._number, begin, end)
        if self._last and end == self.rows:
            block = block.copy()
            self._buffer.release()
        return block
