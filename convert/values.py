"""Tensors by their values, whatever form they are stored in, and the moves that change no value.

Rows are quantised one by one, so joining or cutting rows of quantised tensors joins or cuts their words, scales
and biases alike. Arithmetic is in ``quantize``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gptoss_mlx.checkpoint.adapter import Factors
from gptoss_mlx.checkpoint.layouts import parts_of
from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES
from gptoss_mlx.quantization import Quantization

from .readers import (
    AlternateRows,
    Block,
    ColumnSlice,
    ExpertBiases,
    InterleavedRows,
    JoinedColumns,
    JoinedRows,
    Reader,
    RowSlice,
    Transposed,
    row_count,
)

__all__ = [
    "Float",
    "Form",
    "StoredPart",
    "Values",
    "alternate_rows",
    "columns",
    "expert_biases",
    "interleaved",
    "joined_columns",
    "joined_rows",
    "merged",
    "row_slice",
    "transposed",
]

Float = Literal["BF16", "F16", "F32"]
Form = Quantization | Float
"""How values are stored: quantised, or as floats of a dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One tensor of those that hold the values."""

    name: str
    """``weight``, ``scales`` or ``biases``."""
    dtype: str
    shape: tuple[int, ...]
    reader: Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """A tensor, and the readers of what stores it."""

    place: str
    """The file and the tensor, for messages."""
    shape: tuple[int, ...]
    form: Form
    parts: tuple[Reader, ...]
    """The floats; or words and scales; or words, scales and biases."""
    scale_dtype: Float = "BF16"
    """Of the scales and biases of an affine form."""

    @property
    def quantization(self) -> Quantization | None:
        """The form, if it is no float's."""
        return self.form if isinstance(self.form, Quantization) else None

    @property
    def element(self) -> int:
        """Bytes of a float."""
        assert not isinstance(self.form, Quantization), f"{self.place}: only floats have elements"
        return DTYPE_BYTES[self.form]

    @property
    def stored(self) -> tuple[StoredPart, ...]:
        """The tensors to write."""
        affine = self.scale_dtype if isinstance(self.form, Quantization) else self.form
        found = []
        for part, reader in zip(parts_of(self.shape, self.quantization), self.parts, strict=True):
            dtype = affine if affine in part.dtypes else part.dtypes[0]
            found.append(StoredPart(name=part.name, dtype=dtype, shape=part.shape, reader=reader))
        return tuple(found)

    def moved(self, shape: tuple[int, ...], move: Callable[..., Reader], *others: Values) -> Values:
        """The result of a move of rows, which is the same for every part.

        Args:
            shape: of the result.
            move: takes a part of this tensor and the same part of the others.
            others: of the same form.
        """
        parts = zip(self.parts, *(other.parts for other in others), strict=True)
        return dataclasses.replace(self, shape=shape, parts=tuple(move(*part) for part in parts))


def joined_rows(tensors: Sequence[Values], shape: tuple[int, ...]) -> Values:
    """Tensors of the same form, one below the other."""
    first, *others = tensors
    return first.moved(shape, lambda *parts: JoinedRows(parts), *others) if others else first


def joined_columns(tensors: Sequence[Values], shape: tuple[int, ...]) -> Values:
    """Floats of the same dtype, one beside the other."""
    first, *others = tensors
    return first.moved(shape, lambda *parts: JoinedColumns(parts), *others)


def interleaved(tensors: Sequence[Values], shape: tuple[int, ...]) -> Values:
    """The rows of two tensors of the same form in turn."""
    even, odd = tensors
    return even.moved(shape, InterleavedRows, odd)


def expert_biases(tensors: Sequence[Values], shape: tuple[int, ...]) -> Values:
    """Gate and up interleaved element by element, with down beside them."""
    gate, up, down = tensors
    return gate.moved(shape, lambda *parts: ExpertBiases(parts, gate.element), up, down)


def transposed(tensor: Values, shape: tuple[int, ...]) -> Values:
    """Floats [E, in, out] as [E, out, in]."""
    return tensor.moved(shape, lambda part: Transposed(part, shape[0], tensor.element))


def merged(floats: Values, factors: Factors) -> Values:
    """Floats in float32 with the product of an adapter's factors added."""
    return floats.moved(floats.shape, lambda part: _Merged(part, factors))


class _Merged:
    """Rows of float32 with those of a product added: of up [..., out, R] and down [..., R, in]."""

    def __init__(self, whole: Reader, factors: Factors) -> None:
        self._whole = whole
        self._down, self._up = (part.reshape(-1, *part.shape[-2:]) for part in (factors.down, factors.up))
        self.rows, self.row_bytes, self.step = whole.rows, whole.row_bytes, whole.step
        self.cost = whole.cost + 2 * whole.row_bytes

    def read(self, begin: int, end: int) -> Block:
        values = self._whole.read(begin, end).view(np.float32).copy()
        height = self._up.shape[1]
        for number in range(begin // height, -(-end // height)):
            first, last = max(begin, number * height), min(end, (number + 1) * height)
            up = self._up[number, first - number * height : last - number * height]
            values[first - begin : last - begin] += up @ self._down[number]
        return values.view(np.uint8)


def row_slice(whole: Values, first: int, shape: tuple[int, ...]) -> Values:
    """Consecutive rows."""
    return whole.moved(shape, lambda part: RowSlice(part, first, row_count(shape)))


def alternate_rows(whole: Values, first: int, shape: tuple[int, ...]) -> Values:
    """Every second row: the inverse of :func:`interleaved`."""
    return whole.moved(shape, lambda part: AlternateRows(part, first))


def columns(whole: Values, cut: slice, shape: tuple[int, ...]) -> Values:
    """Some columns of floats."""
    assert math.prod(shape[1:]) == len(range(*cut.indices(whole.shape[-1])))
    return whole.moved(shape, lambda part: ColumnSlice(part, cut, whole.element))
