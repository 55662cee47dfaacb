"""The tensors and the config.json that a conversion writes.

Targets are the model's own layout, Hugging Face's and mlx-lm's. The last two are the tables of the sources, read
backwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gptoss_mlx.checkpoint.layouts import (
    FLOATS,
    HUGGING_FACE,
    QUANTISED,
    Row,
    Source,
    Transform,
    expand,
    mlx_layout,
    sizes,
)
from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES
from gptoss_mlx.config import (
    MXFP4_GROUP_SIZE,
    ModelConfig,
    Precision,
    Quantization,
    RopeConfig,
    quantization_for,
    with_precision,
)

from .layouts import MLX_LM
from .quantize import AffineTensors
from .readers import AlternateRows, ColumnSlice, Reader, RowSlice, row_count
from .source import SourceModel

__all__ = ["TARGETS", "TargetFormat", "TargetTensor", "target_config", "target_tensors"]

TargetFormat = Literal["mlx", "hf", "mlx-lm"]
TARGETS: tuple[TargetFormat, ...] = ("mlx", "hf", "mlx-lm")

# Not copied from the source's config.json: what is set here, and what makes other programs run the source's code.
_LEFT_OUT = ("quantization", "auto_map", "model_file")

_MODULES_KEPT = (
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTensor:
    """A tensor to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    reader: Reader

    def __post_init__(self) -> None:
        if self.reader.rows * self.reader.row_bytes != self.nbytes:
            raise AssertionError(f"{self.name}: {self.reader.rows} rows of {self.reader.row_bytes} bytes")

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def target_tensors(source: SourceModel, target: TargetFormat, dense: Precision) -> list[TargetTensor]:
    """All tensors of the target, layer by layer, with the tensors of a quantised layer next to each other."""
    config = with_precision(source.config, dense)
    if target == "mlx":
        tensors = list(_own(source, config))
    else:
        rows = HUGGING_FACE if target == "hf" else MLX_LM
        tensors = list(_exported(source, rows, config.quantization))
    return sorted(tensors, key=lambda tensor: _layer(tensor.name, config.num_hidden_layers))


def _layer(name: str, layers: int) -> int:
    """Sorting key of a tensor: the embedding first, then layer by layer, then norm and head."""
    _, found, after = name.partition("layers.")
    if found:
        return int(after.partition(".")[0])
    return -1 if "embed_tokens" in name else layers


def _own(source: SourceModel, config: ModelConfig) -> Iterator[TargetTensor]:
    letters = sizes(config)
    quantised: dict[str, Reader] = {}
    for row in expand(mlx_layout(config), config):
        (form,) = row.sources
        if row.target in quantised:
            reader = quantised.pop(row.target)
        elif config.quantization is not None and _is_quantised(row.target):
            module = row.target.removesuffix(".weight")
            reader, scales, biases = _affine(source.parameters[row.target], config.quantization)
            quantised |= {f"{module}.scales": scales, f"{module}.biases": biases}
        else:
            reader = source.parameters[row.target]
        shape = tuple(letters[letter] for letter in form.shape.split())
        yield TargetTensor(name=row.target, dtype=form.dtypes[0], shape=shape, reader=reader)


def _is_quantised(target: str) -> bool:
    """Whether ``--dense`` quantises a parameter of the model."""
    parts = target.split(".")
    return ".".join("{n}" if part.isdigit() else part for part in parts) in QUANTISED


def _affine(values: Reader, quantization: Quantization) -> tuple[Reader, Reader, Reader]:
    return AffineTensors.of(values, quantization.bits, quantization.group_size)


def _exported(
    source: SourceModel, rows: tuple[Row, ...], quantization: Quantization | None
) -> Iterator[TargetTensor]:
    letters = sizes(source.config)
    for row in expand(rows, source.config):
        shapes = [tuple(letters[letter] for letter in form.shape.split()) for form in row.sources]
        readers = _cut(row.transform, source.parameters[row.target], shapes)
        for form, shape, reader in zip(row.sources, shapes, readers, strict=True):
            if quantization is not None and rows is MLX_LM and _is_quantised(row.target):
                yield from _exported_affine(form, shape, reader, quantization)
            else:
                dtype = "BF16" if form.dtypes == FLOATS else form.dtypes[0]
                yield TargetTensor(name=form.name, dtype=dtype, shape=shape, reader=reader)


def _exported_affine(
    form: Source, shape: tuple[int, ...], values: Reader, quantization: Quantization
) -> Iterator[TargetTensor]:
    words, scales, biases = _affine(values, quantization)
    module = form.name.removesuffix(".weight")
    height, width = shape
    groups = (height, width // quantization.group_size)
    packed = (height, width * quantization.bits // 32)
    yield TargetTensor(name=form.name, dtype="U32", shape=packed, reader=words)
    yield TargetTensor(name=f"{module}.scales", dtype="BF16", shape=groups, reader=scales)
    yield TargetTensor(name=f"{module}.biases", dtype="BF16", shape=groups, reader=biases)


def _cut(transform: Transform, whole: Reader, shapes: Sequence[tuple[int, ...]]) -> list[Reader]:
    """Cuts a parameter into the tensors that a table makes it from: the transform backwards."""
    match transform:
        case Transform.ROWS:
            first, readers = 0, list[Reader]()
            for shape in shapes:
                readers.append(RowSlice(whole, first, row_count(shape)))
                first += row_count(shape)
            return readers
        case Transform.COLUMNS:
            gate_up = shapes[0][-1]
            return [ColumnSlice(whole, slice(0, gate_up)), ColumnSlice(whole, slice(gate_up, None))]
        case Transform.INTERLEAVED:
            return [AlternateRows(whole, 0), AlternateRows(whole, 1)]
        case Transform.EXPERT_BIASES:
            gate_up = 2 * shapes[0][-1]
            cuts = (slice(0, gate_up, 2), slice(1, gate_up, 2), slice(gate_up, None))
            return [ColumnSlice(whole, cut) for cut in cuts]
        case _:
            return [whole]


def target_config(source: SourceModel, target: TargetFormat, dense: Precision) -> dict[str, Any]:
    """The target's config.json."""
    values = {name: value for name, value in source.config_values.items() if name not in _LEFT_OUT}
    quantization = quantization_for(source.config, dense)
    packed: Mapping[str, Any] = {"group_size": MXFP4_GROUP_SIZE, "bits": 4, "mode": "mxfp4"}
    if target == "hf":
        kept = {"quant_method": "mxfp4", "modules_to_not_convert": list(_MODULES_KEPT)}
        return {"quantization_config": kept} | values
    if target == "mlx":
        own = {} if quantization is None else {"quantization": _block(quantization)}
        return values | own
    # transformers 5 calls these rope_parameters; mlx-lm reads only the names of transformers 4.
    values |= {"rope_theta": source.config.rope.theta, "rope_scaling": _rope_scaling(source.config.rope)}
    table: dict[str, Any] = dict(packed)
    if quantization is not None:
        experts = (f"model.layers.{n}.mlp.experts" for n in range(source.config.num_hidden_layers))
        modules = [f"{path}.{part}_proj" for path in experts for part in ("gate", "up", "down")]
        table = _block(quantization) | {module: dict(packed) for module in modules}
    return values | {"quantization": table, "quantization_config": table}


def _rope_scaling(rope: RopeConfig) -> dict[str, Any]:
    values = dataclasses.asdict(rope)
    del values["theta"]
    return {"rope_type": "yarn"} | values


def _block(quantization: Quantization) -> dict[str, Any]:
    return {"bits": quantization.bits, "group_size": quantization.group_size, "mode": "affine"}
