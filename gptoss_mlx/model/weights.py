"""Loading a checkpoint: its tensors become the model's parameters, each evaluated as soon as it is assembled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.layouts import MATRICES, Row, Source, Transform, expand, generic, kept, sizes
from ..checkpoint.safetensors import TensorRecord
from ..checkpoint.tensors import StoredModel, StoredTensor, pack, unpack
from ..config import ModelConfig
from ..errors import CheckpointError, ModelClosed
from ..files.read import open_regular
from ..quantization import Quantization
from ..share import Share, whole

__all__ = ["load_weights"]

_FACTORS = ("qkv_proj.weight", "o_proj.weight", "router.weight", "lm_head.weight")
_ROWS = 1024  # that are repacked at a time


def load_weights(
    model: StoredModel,
    dtype: mx.Dtype,
    cancelled: Callable[[], bool] = lambda: False,
    share: Share | None = None,
) -> dict[str, mx.array]:
    """The model's parameters by name, evaluated: no array of them depends on the calling thread.

    Args:
        model: a checkpoint that was opened.
        dtype: of everything that is not packed.
        cancelled: is asked before each parameter.
        share: the part to load; by default all of the model. No other tensor is read; rows that are cut out of one
            are read alone, and columns by reading one tensor at a time, so that the memory needed is at most that
            of the share and of one tensor.

    Raises:
        CheckpointError: a file became shorter, or holds NaN scales.
        ModelClosed: it was cancelled.
    """
    config = model.config
    arrays = _read_arrays(model.checkpoint.files)
    share = share or whole(config)
    weights: dict[str, mx.array] = {}
    for row in expand(model.layout.rows, config):
        if not share.has(row.target):
            continue
        if cancelled():
            raise ModelClosed("the model was closed while it was loaded")
        for target, parts in _parts(row, model, share, arrays):
            weight = _assemble(row.transform, list(parts), dtype)
            if target.endswith("experts.bias") and share.rank > 0 and share.split == "tensor":
                # The machines add their outputs, so that one of them alone has the bias of the sum.
                weight[:, -config.hidden_size :] = 0
            if target.endswith(_FACTORS) and mx.default_device() == mx.cpu:
                weight = _by_columns(weight)
            mx.eval(weight)
            del parts
            weights[_local_name(target, share)] = weight
    return weights


def _parts(
    row: Row, model: StoredModel, share: Share, arrays: dict[str, mx.array]
) -> Iterator[tuple[str, tuple[mx.array, ...]]]:
    """The name of each stored part of a parameter, and the arrays that are joined to it."""
    module = row.target.removesuffix(".weight")
    form = model.config.form(module) if generic(row.target) in MATRICES else None
    found: list[list[mx.array]] = []
    for source in row.sources:
        tensor = model.tensors[source.name]
        # Removing the tensors from the table lets MLX free each as soon as it is joined.
        parts = [arrays.pop(record.name) for record in tensor.records]
        if share.split == "tensor":
            cuts = [_cut_of(model.config, share, row.target, source, record) for record in tensor.records]
            parts = [_cut(*of, model.config) for of in zip(parts, tensor.records, cuts, strict=True)]
        _refuse_nan_scales(parts, tensor)
        found.append(_in_form(parts, tensor.form, form))
    names = (row.target, f"{module}.scales", f"{module}.biases")
    return zip(names, zip(*found, strict=True), strict=False)


def _in_form(parts: list[mx.array], own: Quantization | None, form: Quantization | None) -> list[mx.array]:
    """The same values in the form of the whole parameter, where tensors that are joined differ."""
    if own is None or own == form:
        return parts
    words, *scales = parts
    if form is None:
        floats = [part.astype(mx.float32) if own.mode == "affine" else part for part in scales]
        options: dict[str, Any] = dict(zip(("scales", "biases"), floats, strict=False))
        return [mx.dequantize(words, **options, **dataclasses.asdict(own), dtype=mx.float32)]
    return [
        _repacked(words, own.bits, form.bits),
        *(mx.repeat(part, own.group_size // form.group_size, axis=-1) for part in scales),
    ]


def _repacked(words: mx.array, bits: int, to: int) -> mx.array:
    """The same codes with more bits each."""
    if bits == to:
        return words
    rows = np.asarray(words.flatten(0, -2)).view(np.uint8)
    blocks = np.split(rows, range(_ROWS, len(rows), _ROWS))
    packed = np.concatenate([pack(unpack(block, bits), to) for block in blocks])
    return mx.array(packed.view(np.uint32)).reshape(*words.shape[:-1], -1)


def _local_name(target: str, share: Share) -> str:
    """A parameter's name in the share's own transformer, whose layers count from 0."""
    if not target.startswith("layers."):
        return target
    _, number, rest = target.split(".", 2)
    return f"layers.{int(number) - share.layers.start}.{rest}"


def _read_arrays(files: tuple[Path, ...]) -> dict[str, mx.array]:
    """All tensors; MLX reads each when it is evaluated."""
    arrays: dict[str, mx.array] = {}
    for file in files:
        found = mx.load(str(file), format="safetensors")
        assert isinstance(found, dict)
        arrays |= found
    return arrays


_Cut = tuple[int, tuple[range, ...]]
"""An axis, and the parts of it that a share has, in order."""


def _cut_of(config: ModelConfig, share: Share, target: str, source: Source, record: TensorRecord) -> _Cut | None:
    """How a record of a parameter is cut; None if it is not. No tensor is cut along more than one axis."""
    letters, cuts = sizes(config), kept(config, share, target)
    axes = [(axis, letter) for axis, letter in enumerate(source.shape.split()) if letter in cuts]
    if not axes:
        return None
    ((axis, letter),) = axes
    # Along a row there are fewer words or groups than values.
    values, stored = letters[letter], record.shape[axis]
    return axis, tuple(range(part.start * stored // values, part.stop * stored // values) for part in cuts[letter])


def _cut(tensor: mx.array, record: TensorRecord, cut: _Cut | None, config: ModelConfig) -> mx.array:
    """The parts of one tensor that a share has."""
    if cut is None:
        return tensor
    axis, parts = cut
    if math.prod(record.shape[:axis]) <= config.num_local_experts:
        return _read_rows(record, axis, parts)
    before = (slice(None),) * axis
    # Copied, because a slice keeps the whole tensor alive.
    return mx.contiguous(
        mx.concatenate([tensor[(*before, slice(part.start, part.stop))] for part in parts], axis=axis)
    )


_NUMPY = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "U8": "u1", "U32": "<u4"}


def _read_rows(record: TensorRecord, axis: int, parts: tuple[range, ...]) -> mx.array:
    """Reads a few rows of a tensor and nothing else of it.

    Args:
        record: where the tensor is.
        axis: that of the rows.
        parts: the rows, in order.
    """
    row = math.prod(record.shape[axis + 1 :])
    kind = np.dtype(_NUMPY[record.dtype])
    blocks = math.prod(record.shape[:axis])
    read = np.empty((blocks, sum(map(len, parts)) * row), kind)
    file, _ = open_regular(record.file)
    with file:
        for block, rows in enumerate(read):
            begin = 0
            for part in parts:
                end = begin + len(part) * row
                file.seek(record.begin + (block * record.shape[axis] + part.start) * row * kind.itemsize)
                content = np.frombuffer(file.read((end - begin) * kind.itemsize), kind)
                if content.size != end - begin:
                    raise CheckpointError(f"{record.file}: changed while it was read; load it again")
                rows[begin:end] = content
                begin = end
    array = mx.array(read.reshape(*record.shape[:axis], -1, *record.shape[axis + 1 :]))
    return array.view(mx.bfloat16) if record.dtype == "BF16" else array


def _assemble(transform: Transform, parts: list[mx.array], dtype: mx.Dtype) -> mx.array:
    match transform:
        case Transform.ROWS:
            joined = mx.concatenate(parts, axis=0)
        case Transform.COLUMNS:
            joined = mx.concatenate(parts, axis=-1)
        case Transform.INTERLEAVED:
            joined = mx.stack(parts, axis=2).flatten(1, 2)
        case Transform.EXPERT_BIASES:
            gate, up, down = parts
            joined = mx.concatenate([mx.stack([gate, up], axis=-1).flatten(-2), down], axis=-1)
        case _:
            (joined,) = parts
    if joined.dtype == mx.uint8 and joined.ndim == 4:  # MXFP4 blocks: the words that MLX multiplies
        return joined.view(mx.uint32).flatten(-2)
    return joined.astype(dtype) if mx.issubdtype(joined.dtype, mx.floating) else joined


def _by_columns(weight: mx.array) -> mx.array:
    """The same weight with contiguous columns: the BLAS of MLX's Linux wheels is 1.6 times as fast with it."""
    return mx.contiguous(weight.T).T if mx.issubdtype(weight.dtype, mx.floating) else weight


def _refuse_nan_scales(parts: list[mx.array], tensor: StoredTensor) -> None:
    """E8M0 has one NaN, 0xFF: one such scale would turn every answer into noise."""
    if tensor.form is None or tensor.form.mode not in ("mxfp4", "mxfp8"):
        return
    if mx.any(parts[1] == 0xFF).item():
        record = tensor.records[1]
        raise CheckpointError(f"{record.file}: tensor {record.name} holds NaN scales; download it again")
