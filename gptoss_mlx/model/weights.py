"""Loading a checkpoint: its tensors become the model's parameters, each evaluated as soon as it is assembled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..checkpoint.layouts import (
    MATRICES,
    Row,
    Transform,
    check_tensors,
    expand,
    generic,
    kept,
    layout_of,
    sizes,
)
from ..checkpoint.safetensors import Checkpoint, TensorRecord
from ..checkpoint.tensors import StoredTensor, own_forms, stored_tensors
from ..config import MXFP4, ModelConfig
from ..errors import CheckpointError, ModelClosed
from ..files.read import open_regular
from ..share import Share, whole

__all__ = ["load_weights"]

_FACTORS = ("qkv_proj.weight", "o_proj.weight", "router.weight", "lm_head.weight")


def load_weights(
    directory: str | Path,
    config: ModelConfig,
    dtype: mx.Dtype,
    cancelled: Callable[[], bool] = lambda: False,
    share: Share | None = None,
) -> dict[str, mx.array]:
    """The model's parameters by name, evaluated: no array of them depends on the calling thread.

    Args:
        directory: a checkpoint in the Hugging Face or the MLX layout.
        config: its config.
        dtype: of everything that is not packed.
        cancelled: is asked before each parameter.
        share: the part to load; by default all of the model. No other tensor is read; rows that are cut out of one
            are read alone, and columns by reading one tensor at a time, so that the memory needed is at most that
            of the share and of one tensor.

    Raises:
        CheckpointError: the checkpoint is damaged, incomplete, of another shape, or holds NaN scales.
        ModelClosed: it was cancelled.
    """
    checkpoint = Checkpoint.open(directory)
    rows = layout_of(checkpoint)
    stored = stored_tensors(checkpoint, own_forms(config.form, directory))
    check_tensors(stored, rows, config, directory)
    arrays = _read_arrays(checkpoint)
    share = share or whole(config)
    weights: dict[str, mx.array] = {}
    for row in expand(rows, config):
        if not share.has(row.target):
            continue
        if cancelled():
            raise ModelClosed("the model was closed while it was loaded")
        for target, records in _parts(row, [stored[source.name] for source in row.sources], config):
            # Removing the sources from the table lets MLX free each as soon as it is joined.
            parts = [arrays.pop(record.name) for record in records]
            if share.split == "tensor":
                cuts = _cuts(config, share, row, records)
                parts = [_cut(*of, config) for of in zip(parts, records, cuts, strict=True)]
            weight = _assemble(row.transform, parts, dtype)
            if target.endswith("experts.bias") and share.rank > 0 and share.split == "tensor":
                # The machines add their outputs, so that one of them alone has the bias of the sum.
                weight[:, -config.hidden_size :] = 0
            if target.endswith(_FACTORS) and mx.default_device() == mx.cpu:
                weight = _by_columns(weight)
            mx.eval(weight)
            del parts
            if target.endswith(".scales") and config.form(target.removesuffix(".scales")) == MXFP4:
                _refuse_nan_scales(weight, records[0])
            weights[_local_name(target, share)] = weight
    return weights


def _parts(
    row: Row, tensors: list[StoredTensor], config: ModelConfig
) -> Iterator[tuple[str, tuple[TensorRecord, ...]]]:
    """The name of each stored part of a parameter, and the records that are joined to it.

    Raises:
        CheckpointError: a source has another form than config.json says.
    """
    module = row.target.removesuffix(".weight")
    for tensor in tensors:
        if generic(row.target) in MATRICES and tensor.form != config.form(module):
            raise CheckpointError(f"{tensor.place} is not quantised as config.json says; convert the source again")
    names = (row.target, f"{module}.scales", f"{module}.biases")
    return zip(names, zip(*(tensor.records for tensor in tensors), strict=True), strict=False)


def _local_name(target: str, share: Share) -> str:
    """A parameter's name in the share's own transformer, whose layers count from 0."""
    if not target.startswith("layers."):
        return target
    _, number, rest = target.split(".", 2)
    return f"layers.{int(number) - share.layers.start}.{rest}"


def _read_arrays(checkpoint: Checkpoint) -> dict[str, mx.array]:
    """All tensors; MLX reads each when it is evaluated."""
    arrays: dict[str, mx.array] = {}
    for file in checkpoint.files:
        found = mx.load(str(file), format="safetensors")
        assert isinstance(found, dict)
        arrays |= found
    return arrays


_Cut = tuple[int, tuple[range, ...]]
"""An axis, and the parts of it that a share has, in order."""


def _cuts(config: ModelConfig, share: Share, row: Row, records: tuple[TensorRecord, ...]) -> list[_Cut | None]:
    """How each record of a parameter is cut; None if it is not. No tensor is cut along more than one axis."""
    letters, cuts = sizes(config), kept(config, share, row.target)
    found: list[_Cut | None] = []
    for source, record in zip(row.sources, records, strict=True):
        axes = [(axis, letter) for axis, letter in enumerate(source.shape.split()) if letter in cuts]
        if not axes:
            found.append(None)
            continue
        ((axis, letter),) = axes
        # Along a row there are fewer words or groups than values.
        values, stored = letters[letter], record.shape[axis]
        parts = (range(part.start * stored // values, part.stop * stored // values) for part in cuts[letter])
        found.append((axis, tuple(parts)))
    return found


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
    joined = {
        Transform.COPY: lambda: parts[0],
        Transform.ROWS: lambda: mx.concatenate(parts, axis=0),
        Transform.COLUMNS: lambda: mx.concatenate(parts, axis=-1),
    }[transform]()
    if joined.dtype == mx.uint8 and joined.ndim == 4:  # MXFP4 blocks: the words that MLX multiplies
        return joined.view(mx.uint32).flatten(-2)
    return joined.astype(dtype) if mx.issubdtype(joined.dtype, mx.floating) else joined


def _by_columns(weight: mx.array) -> mx.array:
    """The same weight with contiguous columns: the BLAS of MLX's Linux wheels is 1.6 times as fast with it."""
    return mx.contiguous(weight.T).T if mx.issubdtype(weight.dtype, mx.floating) else weight


def _refuse_nan_scales(scales: mx.array, record: TensorRecord) -> None:
    """E8M0 has one NaN, 0xFF: one such scale would turn every answer into noise."""
    if mx.any(scales == 0xFF).item():
        raise CheckpointError(f"{record.file}: tensor {record.name} holds NaN scales; download it again")
