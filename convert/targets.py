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
    EXPERTS,
    HUGGING_FACE,
    MATRICES,
    MLX,
    MLX_LM,
    Transform,
    expand,
    generic,
    shape_of,
    sizes,
)
from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES
from gptoss_mlx.checkpoint.tensors import packed_parts
from gptoss_mlx.config import ModelConfig, RopeConfig
from gptoss_mlx.quantization import MXFP4, Quantization

from .layouts import FINE_TUNE
from .readers import Reader, row_count
from .source import SourceModel
from .values import Values, alternate_rows, columns, row_slice, transposed

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


def target_tensors(
    config: ModelConfig, parameters: Mapping[str, Values], target: TargetFormat
) -> list[TargetTensor]:
    """All tensors of the target, layer by layer, with the tensors of a quantised layer next to each other.

    Args:
        config: the model's.
        parameters: in the forms to write.
        target: the layout.
    """
    packed = target == "hf" and _are_packed(parameters)
    rows = {"mlx": MLX, "mlx-lm": MLX_LM, "hf": HUGGING_FACE if packed else FINE_TUNE}[target]
    tensors: list[TargetTensor] = []
    letters = sizes(config)
    for row in expand(rows, config):
        shapes = [shape_of(source, letters) for source in row.sources]
        cut = _cut(row.transform, parameters[row.target], shapes)
        for source, values in zip(row.sources, cut, strict=True):
            tensors += _stored(source.name, values, packed=packed)
    return sorted(tensors, key=lambda tensor: _layer(tensor.name, config.num_hidden_layers))


def _are_packed(parameters: Mapping[str, Values]) -> bool:
    """Whether all experts are in MXFP4."""
    return all(values.form == MXFP4 for target, values in parameters.items() if generic(target) in EXPERTS)


def _layer(name: str, layers: int) -> int:
    """Sorting key of a tensor: the embedding first, then layer by layer, then norm and head."""
    _, found, after = name.partition("layers.")
    if found:
        return int(after.partition(".")[0])
    return -1 if "embed_tokens" in name else layers


def _stored(name: str, values: Values, *, packed: bool) -> Iterator[TargetTensor]:
    """The tensors of some values.

    Args:
        name: of the values.
        values: in the form to write.
        packed: whether MXFP4 is written as Hugging Face does.
    """
    if packed and values.form == MXFP4:
        for (part, shape), reader in zip(packed_parts(name, values.shape), values.parts, strict=True):
            yield TargetTensor(name=part, dtype="U8", shape=shape, reader=reader)
        return
    module = name.removesuffix(".weight")
    for stored in values.stored:
        part = name if stored.name == "weight" else f"{module}.{stored.name}"
        yield TargetTensor(name=part, dtype=stored.dtype, shape=stored.shape, reader=stored.reader)


def _cut(transform: Transform, whole: Values, shapes: Sequence[tuple[int, ...]]) -> list[Values]:
    """Cuts a parameter into the tensors that a table makes it from: the transform backwards."""
    match transform:
        case Transform.ROWS:
            first, found = 0, list[Values]()
            for shape in shapes:
                found.append(row_slice(whole, first, shape))
                first += row_count(shape)
            return found
        case Transform.COLUMNS:
            gate_up = shapes[0][-1]
            cuts = (slice(0, gate_up), slice(gate_up, None))
            return [columns(whole, cut, shape) for cut, shape in zip(cuts, shapes, strict=True)]
        case Transform.INTERLEAVED:
            return [alternate_rows(whole, first, shape) for first, shape in enumerate(shapes)]
        case Transform.EXPERT_BIASES:
            gate_up = 2 * shapes[0][-1]
            thirds = (slice(0, gate_up, 2), slice(1, gate_up, 2), slice(gate_up, None))
            return [columns(whole, cut, shape) for cut, shape in zip(thirds, shapes, strict=True)]
        case Transform.TRANSPOSED:
            return [transposed(whole, shapes[0])]
        case _:
            return [whole]


def target_config(source: SourceModel, config: ModelConfig, target: TargetFormat) -> dict[str, Any]:
    """The target's config.json.

    Args:
        source: has the other values.
        config: of the target, with the forms of its weights.
        target: the layout.
    """
    values = {name: value for name, value in source.config_values.items() if name not in _LEFT_OUT}
    if target == "hf":
        kept = {"quant_method": "mxfp4", "modules_to_not_convert": list(_MODULES_KEPT)}
        return {"quantization_config": kept} | values if config.experts == MXFP4 else _without_packing(values)
    if target == "mlx":
        return (values if config.experts == MXFP4 else _without_packing(values)) | _own_block(config)
    # transformers 5 calls these rope_parameters; mlx-lm reads only the names of transformers 4.
    values |= {"rope_theta": config.rope.theta, "rope_scaling": _rope_scaling(config.rope)}
    table = _mlx_lm_block(config)
    return values | {"quantization": table, "quantization_config": table}


def _without_packing(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "quantization_config"}


def _rope_scaling(rope: RopeConfig) -> dict[str, Any]:
    values = dataclasses.asdict(rope)
    del values["theta"]
    return {"rope_type": "yarn"} | values


def _own_block(config: ModelConfig) -> dict[str, Any]:
    """The block ``quantization`` that ``ModelConfig`` reads; empty for the forms of the released models."""
    block: dict[str, Any] = {} if config.quantization is None else _entry(config.quantization)
    if config.experts != MXFP4:
        block["experts"] = config.experts is not None and _entry(config.experts)
    if config.exceptions:
        block["modules"] = {name: form is not None and _entry(form) for name, form in config.exceptions}
    return {"quantization": block} if block else {}


def _mlx_lm_block(config: ModelConfig) -> dict[str, Any]:
    """mlx-lm's settings: common ones, and an entry for each module that differs."""
    common = config.quantization or config.experts or Quantization(bits=4, group_size=64)
    block = _entry(common)
    for row in expand(MLX_LM, config):
        form = config.form(row.target.removesuffix(".weight"))
        if generic(row.target) in MATRICES and form not in (None, common):
            block |= {source.name.removesuffix(".weight"): _entry(form) for source in row.sources}
    return block


def _entry(form: Quantization) -> dict[str, Any]:
    return {"bits": form.bits, "group_size": form.group_size, "mode": form.mode}
