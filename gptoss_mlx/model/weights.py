"""Loading a checkpoint: its tensors become the model's parameters, each evaluated as soon as it is assembled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..checkpoint.layouts import Source, Transform, check_tensors, expand, kept, layout_of
from ..checkpoint.safetensors import Checkpoint, TensorRecord
from ..config import ModelConfig
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
    rows = layout_of(checkpoint, config)
    check_tensors(checkpoint, rows, config)
    tensors = _read_tensors(checkpoint)
    share = share or whole(config)
    weights: dict[str, mx.array] = {}
    for row in expand(rows, config):
        if not share.has(row.target):
            continue
        if cancelled():
            raise ModelClosed("the model was closed while it was loaded")
        # Removing the sources from the table lets MLX free each as soon as it is joined.
        parts = [tensors.pop(source.name) for source in row.sources]
        if share.split == "tensor":
            cuts = kept(config, share, row.target)
            records = [checkpoint.tensors[source.name] for source in row.sources]
            parts = [_cut(*of, cuts, config) for of in zip(parts, records, row.sources, strict=True)]
        weight = _assemble(row.transform, parts, dtype)
        if row.target.endswith("experts.bias") and share.rank > 0 and share.split == "tensor":
            # The machines add their outputs, so that one of them alone has the bias of the sum.
            weight[:, -config.hidden_size :] = 0
        if row.target.endswith(_FACTORS) and mx.default_device() == mx.cpu:
            weight = _by_columns(weight)
        mx.eval(weight)
        del parts
        if row.target.endswith("_proj.scales") and weight.dtype == mx.uint8:
            _refuse_nan_scales(weight, checkpoint.tensors[row.sources[0].name])
        weights[_local_name(row.target, share)] = weight
    return weights


def _local_name(target: str, share: Share) -> str:
    """A parameter's name in the share's own transformer, whose layers count from 0."""
    if not target.startswith("layers."):
        return target
    _, number, rest = target.split(".", 2)
    return f"layers.{int(number) - share.layers.start}.{rest}"


def _read_tensors(checkpoint: Checkpoint) -> dict[str, mx.array]:
    """All tensors; MLX reads each when it is evaluated."""
    tensors: dict[str, mx.array] = {}
    for file in checkpoint.files:
        arrays = mx.load(str(file), format="safetensors")
        assert isinstance(arrays, dict)
        tensors |= arrays
    return tensors


def _cut(
    tensor: mx.array,
    record: TensorRecord,
    source: Source,
    cuts: Mapping[str, tuple[range, ...]],
    config: ModelConfig,
) -> mx.array:
    """The parts of one tensor that a share has. No tensor is cut along more than one axis."""
    for axis, letter in enumerate(source.shape.split()):
        if letter in cuts:
            if math.prod(record.shape[:axis]) <= config.num_local_experts:
                return _read_rows(record, axis, cuts[letter])
            slices = [mx.take(tensor, mx.arange(part.start, part.stop), axis=axis) for part in cuts[letter]]
            return mx.concatenate(slices, axis=axis)
    return tensor


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
    if transform is Transform.WORDS:
        (blocks,) = parts
        return blocks.view(mx.uint32).flatten(-2)
    joined = {
        Transform.COPY: lambda: parts[0],
        Transform.ROWS: lambda: mx.concatenate(parts, axis=0),
        Transform.COLUMNS: lambda: mx.concatenate(parts, axis=-1),
    }[transform]()
    return joined.astype(dtype) if mx.issubdtype(joined.dtype, mx.floating) else joined


def _by_columns(weight: mx.array) -> mx.array:
    """The same weight with contiguous columns: the BLAS of MLX's Linux wheels is 1.6 times as fast with it."""
    return mx.contiguous(weight.T).T if mx.issubdtype(weight.dtype, mx.floating) else weight


def _refuse_nan_scales(scales: mx.array, record: TensorRecord) -> None:
    """E8M0 has one NaN, 0xFF: one such scale would turn every answer into noise."""
    if mx.any(scales == 0xFF).item():
        raise CheckpointError(f"{record.file}: tensor {record.name} holds NaN scales; download it again")
