"""The arithmetic of a conversion in row blocks: from any form of values to any that is written.

A quantised tensor consists of two or three tensors that are computed together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES
from gptoss_mlx.checkpoint.tensors import joined_form, pack, unpack
from gptoss_mlx.quantization import MXFP4, Quantization

from .readers import Block, MadeTogether, Reader, read_size, row_count
from .values import Float, Form, Values

__all__ = [
    "ErrorSums",
    "QuantizationError",
    "affine_quantise",
    "as_floats",
    "as_form",
    "float32_blocks",
    "in_one_form",
    "is_exact",
    "measured_error",
    "on_mxfp4_grid",
]

_Part = TypeVar("_Part")
_MEASURED_BYTES = 64 * 1024**2
_Floats = npt.NDArray[np.float32]


def _as_float32(block: Block, dtype: Float) -> _Floats:
    """The values of a block of floats."""
    if dtype == "BF16":
        return (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return block.view(np.float16).astype(np.float32) if dtype == "F16" else block.view(np.float32)


def _from_float32(values: _Floats, dtype: Float) -> Block:
    """Rounds to nearest even."""
    if dtype == "BF16":
        return _as_bfloat16(values).view(np.uint8)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint8)
    return np.ascontiguousarray(values).view(np.uint8)


def _as_bfloat16(values: _Floats) -> npt.NDArray[np.uint16]:
    """Rounds to nearest even; NaN stays NaN."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    return np.where(nan, np.uint16(0x7FC0), rounded) if nan.any() else rounded


def affine_quantise(block: Block, bits: int, group_size: int, dtype: Float = "BF16") -> tuple[Block, Block, Block]:
    """Words, scales and biases of rows of floats, bit for bit as ``mx.quantize`` makes them of bfloat16 on a CPU.

    numpy needs four fifths of the time, because MLX's loop takes one value at a time there.

    Args:
        block: shape [rows, bytes].
        bits: 4 or 8.
        group_size: values that share a scale and a bias; divides the width.
        dtype: of the values; scales and biases are bfloat16.
    """
    values = _as_float32(block, dtype).reshape(-1, group_size)
    if dtype == "F32":
        values = values.copy()  # a view of what was read
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


def _affine_grid(groups: _Floats, bits: int) -> tuple[_Floats, _Floats]:
    """Scale and bias of each group, such that zero and the end farther from zero are represented exactly."""
    high, low = groups.max(axis=1), groups.min(axis=1)
    from_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / np.float32(2**bits - 1), np.float32(1e-7))
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    steps = np.rint(edge / scale)
    zero = steps == 0
    return np.where(zero, scale, edge / np.where(zero, 1, steps)), np.where(zero, 0, edge)


def _three(parts: Iterable[_Part]) -> tuple[_Part, _Part, _Part]:
    words, scales, biases = parts
    return words, scales, biases


def _dequantise(parts: Sequence[Block], form: Quantization, scale_dtype: Float) -> _Floats:
    """The values of rows, computed in float32."""
    words, scales, *biases = parts
    options: dict[str, Any] = {**dataclasses.asdict(form), "dtype": mx.float32}
    steps = mx.array(_as_float32(scales, scale_dtype) if form.mode == "affine" else scales)
    if biases:
        options["biases"] = mx.array(_as_float32(biases[0], scale_dtype))
    return np.asarray(mx.dequantize(mx.array(words.view(np.uint32)), steps, **options))


class _AsFloats:
    """Values of another form as floats."""

    step = 1

    def __init__(self, values: Values, dtype: Float) -> None:
        self._values, self._dtype = values, dtype
        self.rows = values.parts[0].rows
        self.step = math.lcm(*(part.step for part in values.parts))
        width = math.prod(values.shape) // max(1, row_count(values.shape))
        self.row_bytes = width * DTYPE_BYTES[dtype]
        self.cost = sum(part.cost for part in values.parts) + 2 * 4 * width

    def read(self, begin: int, end: int) -> Block:
        blocks = [part.read(begin, end) for part in self._values.parts]
        form = self._values.form
        if isinstance(form, Quantization):
            return _from_float32(_dequantise(blocks, form, self._values.scale_dtype), self._dtype)
        return _from_float32(_as_float32(blocks[0], form), self._dtype)


def as_floats(values: Values, dtype: Float) -> Values:
    """The values as floats of a dtype, rounded to nearest even where it does not hold them."""
    if values.form == dtype:
        return values
    return dataclasses.replace(values, form=dtype, parts=(_AsFloats(values, dtype),))


def float32_blocks(values: Values, begin: int, end: int) -> _Floats:
    """The values of some rows."""
    return as_floats(values, "F32").parts[0].read(begin, end).view(np.float32)


def is_exact(form: Form, dtype: Float) -> bool:
    """Whether floats of a dtype hold every value of a form. The modes without biases have at most six
    significant bits, and exponents that bfloat16 has too."""
    if isinstance(form, Quantization):
        return dtype == "F32" or (dtype == "BF16" and form.mode != "affine")
    return form == dtype or dtype == "F32"


def in_one_form(tensors: Sequence[Values]) -> list[Values]:
    """The tensors in one form that holds the values of each, for joining them: see :func:`joined_form`."""
    forms = [tensor.form for tensor in tensors]
    joined = joined_form([tensor.quantization for tensor in tensors])
    if joined is not None and joined.mode == "affine":
        scale_dtypes = {tensor.scale_dtype for tensor in tensors}
        dtype: Float = scale_dtypes.pop() if len(scale_dtypes) == 1 else "F32"
        return [_widened(tensor, joined, dtype) for tensor in tensors]
    if len(set(forms)) == 1:
        return list(tensors)
    common: Float = next(dtype for dtype in ("BF16", "F16", "F32") if all(is_exact(form, dtype) for form in forms))
    return [as_floats(tensor, common) for tensor in tensors]


def _widened(values: Values, form: Quantization, scale_dtype: Float) -> Values:
    """The same affine values with more bits, or in smaller groups."""
    own = values.quantization
    assert own is not None
    bits, repeats = own.bits, own.group_size // form.group_size
    words, *scales = values.parts
    if bits != form.bits:
        width = values.shape[-1] * form.bits // 8
        words = _Mapped(words, lambda block: pack(unpack(block, bits), form.bits), width)
    if repeats > 1 or scale_dtype != values.scale_dtype:
        width = values.shape[-1] // form.group_size * DTYPE_BYTES[scale_dtype]
        scales = [
            _Mapped(part, lambda block: _repeated(block, values.scale_dtype, repeats, scale_dtype), width)
            for part in scales
        ]
    return dataclasses.replace(values, form=form, parts=(words, *scales), scale_dtype=scale_dtype)


def _repeated(block: Block, dtype: Float, repeats: int, to: Float) -> Block:
    return _from_float32(np.repeat(_as_float32(block, dtype), repeats, axis=1), to)


class _Mapped:
    """Rows that are computed each from the same row of another tensor."""

    def __init__(self, whole: Reader, function: Callable[[Block], Block], row_bytes: int) -> None:
        self._whole, self._function = whole, function
        self.rows, self.step, self.row_bytes = whole.rows, whole.step, row_bytes
        self.cost = whole.cost + 10 * row_bytes  # a byte for each bit

    def read(self, begin: int, end: int) -> Block:
        return self._function(self._whole.read(begin, end))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationError:
    """The error of quantising floats."""

    largest: float
    """The largest absolute error of a weight."""
    relative: float
    """Root mean square of the errors, divided by that of the weights."""


class ErrorSums:
    """Adds up the errors of rows."""

    def __init__(self) -> None:
        self.largest = self.squares = self.error_squares = 0.0

    def add(self, exact: _Floats, restored: _Floats) -> None:
        """Counts rows, exact and as they were stored."""
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are reported as NaN
            error = np.abs(restored - exact)
            self.largest = float(np.maximum(self.largest, error.max(initial=0)))
            self.squares += float(np.vdot(exact, exact))
            self.error_squares += float(np.vdot(error, error))

    @classmethod
    def total(cls, sums: Iterable[ErrorSums]) -> QuantizationError:
        """The error of several tensors together."""
        together = cls()
        for one in sums:
            together.largest = float(np.maximum(together.largest, one.largest))
            together.squares += one.squares
            together.error_squares += one.error_squares
        squares, errors = together.squares, together.error_squares
        return QuantizationError(
            largest=together.largest, relative=math.sqrt(errors / squares) if squares else 0.0
        )


def as_form(values: Values, form: Form, errors: ErrorSums | None = None) -> Values:
    """The values in another form: those that are stored where nothing changes.

    Args:
        values: in any form.
        form: floats, MXFP4, or affine in 4 or 8 bits; or a wider form of those that ``values`` have.
        errors: counts the error of quantising.
    """
    if values.form == form:
        return values
    if not isinstance(form, Quantization):
        return as_floats(values, form)
    own = values.quantization
    if own is not None and own.widens_to(form):
        return _widened(values, form, values.scale_dtype)
    floats = as_floats(values, "F32") if own is not None else values
    return _quantised(floats, form, errors)


def _quantised(values: Values, form: Quantization, errors: ErrorSums | None) -> Values:
    assert not isinstance(values.form, Quantization)
    (reader,), dtype = values.parts, values.form

    def quantise(begin: int, end: int) -> Sequence[Block]:
        block = reader.read(begin, end)
        if form.mode == "affine":
            parts: Sequence[Block] = affine_quantise(block, form.bits, form.group_size, dtype)
        else:
            options: dict[str, Any] = dataclasses.asdict(form)
            parts = [_to_block(part) for part in mx.quantize(_to_mlx(block, dtype), **options)]
        if errors is not None:
            errors.add(_as_float32(block, dtype), _dequantise(parts, form, "BF16"))
        return parts

    width = values.shape[-1]
    groups = width // form.group_size
    scales = (2 * groups, 2 * groups) if form.mode == "affine" else (groups,)
    made = MadeTogether(quantise, reader, (width * form.bits // 8, *scales))
    return dataclasses.replace(values, form=form, parts=made.parts, scale_dtype="BF16")


def _to_mlx(block: Block, dtype: Float) -> mx.array:
    """A block of floats as an array; bfloat16 is passed as words, because numpy has no such type."""
    array = mx.array(block.view({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[dtype]))
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def _to_block(array: mx.array) -> Block:
    """The bytes of a 2-D array of whole numbers."""
    mx.eval(array)
    return np.ascontiguousarray(np.asarray(array)).view(np.uint8)


def measured_error(values: Values, form: Quantization) -> QuantizationError:
    """The error of quantising the first rows of floats, 64 MB of them."""
    errors = ErrorSums()
    words = as_form(values, form, errors).parts[0]
    size = read_size(words)
    for begin in range(0, min(words.rows, _MEASURED_BYTES // max(1, words.cost)), size):
        words.read(begin, min(begin + size, words.rows))
    return ErrorSums.total([errors])


def on_mxfp4_grid(values: Values) -> bool:
    """Whether MXFP4 holds every value of floats. They are read up to the first value that it does not hold.

    With a shared exponent e a group has multiples of 2^e: 0, 0.5, 1, 1.5, 2, 3, 4 and 6. So their exponents span
    four powers of two, one bit of mantissa may be set, and none in the lowest of the four.
    """
    reader = as_floats(values, "F32").parts[0]
    for begin in range(0, reader.rows, read_size(reader)):
        bits = reader.read(begin, min(begin + read_size(reader), reader.rows)).view(np.uint32)
        if (bits & 0x3FFFFF).any():
            return False
        groups = (bits & 0x7FFFFFFF).reshape(-1, MXFP4.group_size)
        exponents = groups >> 23
        lowest = exponents.max(axis=1, keepdims=True).astype(np.int32) - 3
        others = (groups != 0) & ((exponents < lowest) | ((exponents == lowest) & ((groups & 0x400000) != 0)))
        # E8M0 holds exponents from 0 to 254; the shared exponent is two below the largest.
        if (
            others.any()
            or exponents.max() > 254
            or ((lowest < 0) & (groups != 0).any(axis=1, keepdims=True)).any()
        ):
            return False
    return True
