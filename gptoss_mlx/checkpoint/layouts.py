"""Tables that map a checkpoint's tensors to the model's parameters, with shapes, dtypes and transforms.

A layout is a table of rows: target parameter ← source tensors. Everything must be accounted for: a tensor
that no row names, or that is missing, or of another dtype or shape, is an error that names it. ``gptoss
convert`` uses the same tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ..config import MXFP4_GROUP_SIZE, ModelConfig
from ..errors import CheckpointError
from ..share import Share
from .safetensors import Checkpoint, TensorRecord

__all__ = [
    "HUGGING_FACE",
    "MLX",
    "QUANTISED",
    "Row",
    "Source",
    "Transform",
    "check_tensors",
    "expand",
    "kept",
    "layout_of",
    "mlx_layout",
    "sizes",
]

FLOATS = ("BF16", "F32", "F16")


class Transform(Enum):
    """How the sources become the target. Loading does the first four, which only move bytes."""

    COPY = "copy"
    ROWS = "rows"
    """The sources joined along the first axis."""
    COLUMNS = "columns"
    """The sources joined along the last axis."""
    WORDS = "words"
    """MXFP4 blocks, uint8 [..., groups, 16], read as the uint32 [..., groups · 4] that MLX multiplies."""
    # Only ``gptoss convert`` does the following.
    INTERLEAVED = "interleaved"
    """Gate and up rows interleaved."""
    EXPERT_BIASES = "expert_biases"
    """Gate and up elements interleaved, then down."""
    MXFP4 = "mxfp4"
    """One transposed float matrix per expert, quantised to MXFP4 words: the only transform with arithmetic."""
    MXFP4_SCALES = "mxfp4_scales"
    """The scales that belong to those words."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the checkpoint. ``{n}`` in the name is the layer; the shape's letters are in ``sizes``."""

    name: str
    shape: str
    dtypes: tuple[str, ...] = FLOATS


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter of the model and the tensors it is made of."""

    target: str
    transform: Transform
    sources: tuple[Source, ...]


_BYTES = ("U8",)
_WORDS = ("U32",)


def _copy(target: str, source: str, shape: str, dtypes: tuple[str, ...] = FLOATS) -> Row:
    return Row(target, Transform.COPY, (Source(source, shape, dtypes),))


def _join(transform: Transform, target: str, sources: dict[str, str]) -> Row:
    return Row(target, transform, tuple(Source(name, shape) for name, shape in sources.items()))


def _words(target: str, source: str, shape: str) -> Row:
    return Row(target, Transform.WORDS, (Source(source, shape, _BYTES),))


_ATTENTION, _EXPERTS = "model.layers.{n}.self_attn", "model.layers.{n}.mlp.experts"

# openai/gpt-oss-* and its fine-tunes with packed experts. Gate and up rows stay interleaved; one gather
# fetches both biases of an expert.
HUGGING_FACE: tuple[Row, ...] = (
    _copy("embed_tokens.weight", "model.embed_tokens.weight", "V H"),
    _copy("layers.{n}.input_layernorm.weight", "model.layers.{n}.input_layernorm.weight", "H"),
    _join(
        Transform.ROWS,
        "layers.{n}.self_attn.qkv_proj.weight",
        {
            f"{_ATTENTION}.q_proj.weight": "Q H",
            f"{_ATTENTION}.k_proj.weight": "K H",
            f"{_ATTENTION}.v_proj.weight": "K H",
        },
    ),
    _join(
        Transform.ROWS,
        "layers.{n}.self_attn.qkv_proj.bias",
        {f"{_ATTENTION}.q_proj.bias": "Q", f"{_ATTENTION}.k_proj.bias": "K", f"{_ATTENTION}.v_proj.bias": "K"},
    ),
    _copy("layers.{n}.self_attn.sinks", f"{_ATTENTION}.sinks", "A"),
    _copy("layers.{n}.self_attn.o_proj.weight", f"{_ATTENTION}.o_proj.weight", "H Q"),
    _copy("layers.{n}.self_attn.o_proj.bias", f"{_ATTENTION}.o_proj.bias", "H"),
    _copy("layers.{n}.post_attention_layernorm.weight", "model.layers.{n}.post_attention_layernorm.weight", "H"),
    _copy("layers.{n}.mlp.router.weight", "model.layers.{n}.mlp.router.weight", "E H"),
    _copy("layers.{n}.mlp.router.bias", "model.layers.{n}.mlp.router.bias", "E"),
    _words("layers.{n}.mlp.experts.gate_up_proj.weight", f"{_EXPERTS}.gate_up_proj_blocks", "E 2I H/32 16"),
    _copy("layers.{n}.mlp.experts.gate_up_proj.scales", f"{_EXPERTS}.gate_up_proj_scales", "E 2I H/32", _BYTES),
    _words("layers.{n}.mlp.experts.down_proj.weight", f"{_EXPERTS}.down_proj_blocks", "E H I/32 16"),
    _copy("layers.{n}.mlp.experts.down_proj.scales", f"{_EXPERTS}.down_proj_scales", "E H I/32", _BYTES),
    _join(
        Transform.COLUMNS,
        "layers.{n}.mlp.experts.bias",
        {f"{_EXPERTS}.gate_up_proj_bias": "E 2I", f"{_EXPERTS}.down_proj_bias": "E H"},
    ),
    _copy("norm.weight", "model.norm.weight", "H"),
    _copy("lm_head.weight", "lm_head.weight", "V H"),
)

_MXFP4_SHAPES = {
    "layers.{n}.mlp.experts.gate_up_proj.weight": "E 2I H/8",
    "layers.{n}.mlp.experts.down_proj.weight": "E H I/8",
}
# The weights that --dense quantises. The router keeps its precision, as in OpenAI's: it decides which experts run.
QUANTISED = (
    "embed_tokens.weight",
    "layers.{n}.self_attn.qkv_proj.weight",
    "layers.{n}.self_attn.o_proj.weight",
    "lm_head.weight",
)


def _joined_shape(row: Row) -> str:
    """The shape of a row's target, for the rows that do not repack."""
    return {
        "layers.{n}.self_attn.qkv_proj.weight": "Q+2K H",
        "layers.{n}.self_attn.qkv_proj.bias": "Q+2K",
        "layers.{n}.mlp.experts.bias": "E 2I+H",
    }.get(row.target, row.sources[0].shape)


# The layout that ``gptoss convert`` writes with --dense bf16: the parameters themselves, so loading moves nothing.
MLX: tuple[Row, ...] = tuple(
    _copy(row.target, row.target, _MXFP4_SHAPES[row.target], _WORDS)
    if row.transform is Transform.WORDS
    else _copy(row.target, row.target, _joined_shape(row), row.sources[0].dtypes)
    for row in HUGGING_FACE
)


def _quantised(rows: tuple[Row, ...]) -> Iterator[Row]:
    """The MLX layout with affine-quantised dense layers, whose weights are words, scales and biases."""
    for row in rows:
        if row.target not in QUANTISED:
            yield row
            continue
        module = row.target.removesuffix(".weight")
        height, width = row.sources[0].shape.split()  # qkv's height is already the joined one
        yield _copy(row.target, row.target, f"{height} {width}/words", _WORDS)
        for part in ("scales", "biases"):
            yield _copy(f"{module}.{part}", f"{module}.{part}", f"{height} {width}/group")


def mlx_layout(config: ModelConfig) -> tuple[Row, ...]:
    """The layout that ``gptoss convert`` writes for a config, with or without a ``quantization`` block."""
    return MLX if config.quantization is None else tuple(_quantised(MLX))


def layout_of(checkpoint: Checkpoint, config: ModelConfig) -> tuple[Row, ...]:
    """The table that describes the checkpoint, recognised from its tensors.

    Raises:
        CheckpointError: the tensors are of no layout that is read directly.
    """
    if "model.layers.0.mlp.experts.gate_up_proj_blocks" in checkpoint.tensors:
        return HUGGING_FACE
    if "layers.0.mlp.experts.gate_up_proj.weight" in checkpoint.tensors:
        return mlx_layout(config)
    raise CheckpointError(
        f"{checkpoint.directory}: the experts are not in a layout that is read directly; "
        f"convert it first: gptoss convert {checkpoint.directory}"
    )


def sizes(config: ModelConfig) -> dict[str, int]:
    """The size of each letter in the tables' shapes."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    quantization = config.quantization
    letters = {
        "V": config.vocab_size,
        "H": hidden,
        "I": intermediate,
        "2I": 2 * intermediate,
        "E": config.num_local_experts,
        "A": config.num_attention_heads,
        "Q": config.query_size,
        "K": config.key_value_size,
        "Q+2K": config.query_size + 2 * config.key_value_size,
        "2I+H": 2 * intermediate + hidden,
        "16": 16,
    }
    letters |= {
        "H/8": hidden // 8,
        "I/8": intermediate // 8,
        "H/32": hidden // 32,
        "I/32": intermediate // 32,
    }
    if quantization is not None:
        for letter in ("H", "Q"):
            letters[f"{letter}/words"] = letters[letter] * quantization.bits // 32
            letters[f"{letter}/group"] = letters[letter] // quantization.group_size
    return letters


def kept(config: ModelConfig, share: Share, target: str) -> dict[str, tuple[range, ...]]:
    """The parts of each letter's axis that a share has of one parameter. A letter that is missing is not cut.

    Args:
        config: the whole model's.
        share: has some of the parameter.
        target: the parameter's name in the whole model.
    """
    if not target.startswith("layers."):
        return {"V": (share.embedding if target.startswith("embed_tokens.") else share.head,)}
    heads = config.num_attention_heads // config.num_key_value_heads
    keys = _scaled(share.heads, config.head_dim)
    queries = _scaled(share.heads, heads * config.head_dim)
    groups = share.groups[int(target.split(".")[1]) - share.layers.start]
    gate_up = _scaled(groups, 2 * MXFP4_GROUP_SIZE)
    parts: dict[str, tuple[range, ...]] = {
        "A": (_scaled(share.heads, heads),),
        "Q": (queries,),
        "K": (keys,),
        "Q+2K": (queries, *(_moved(keys, config.query_size + n * config.key_value_size) for n in range(2))),
        "2I": (gate_up,),
        "2I+H": (gate_up, _moved(range(config.hidden_size), 2 * config.intermediate_size)),
        "I/8": (_scaled(groups, MXFP4_GROUP_SIZE // 8),),
        "I/32": (groups,),
    }
    if config.quantization is not None:
        parts["Q/words"] = (_divided(queries, 32 // config.quantization.bits),)
        parts["Q/group"] = (_divided(queries, config.quantization.group_size),)
    return parts


def _scaled(part: range, factor: int) -> range:
    return range(part.start * factor, part.stop * factor)


def _moved(part: range, by: int) -> range:
    return range(part.start + by, part.stop + by)


def _divided(part: range, by: int) -> range:
    return range(part.start // by, part.stop // by)


def expand(rows: tuple[Row, ...], config: ModelConfig) -> Iterator[Row]:
    """The rows with every layer's number filled in."""
    for row in rows:
        for n in range(config.num_hidden_layers) if "{n}" in row.target else (0,):
            sources = tuple(Source(source.name.format(n=n), source.shape, source.dtypes) for source in row.sources)
            yield Row(row.target.format(n=n), row.transform, sources)


def check_tensors(checkpoint: Checkpoint, rows: tuple[Row, ...], config: ModelConfig) -> None:
    """Checks every tensor of the checkpoint against the table.

    Raises:
        CheckpointError: a tensor is missing, not named by any row, or of another dtype or shape.
    """
    letters = sizes(config)
    expected: dict[str, Source] = {source.name: source for row in expand(rows, config) for source in row.sources}
    for name, source in expected.items():
        record = checkpoint.tensors.get(name)
        if record is None:
            raise CheckpointError(f"{checkpoint.directory}: tensor {name} is missing; download it again")
        _check_tensor(record, source, tuple(letters[letter] for letter in source.shape.split()))
    for name, record in checkpoint.tensors.items():
        if name not in expected:
            raise CheckpointError(f"{record.file}: tensor {name} is unknown; this is not a plain gpt-oss")


def _check_tensor(record: TensorRecord, source: Source, shape: tuple[int, ...]) -> None:
    if record.dtype not in source.dtypes:
        wanted = " or ".join(source.dtypes)
        raise CheckpointError(f"{record.file}: tensor {record.name} is {record.dtype}; {wanted} is needed")
    if record.shape != shape:
        raise CheckpointError(
            f"{record.file}: tensor {record.name} has shape {list(record.shape)}; config.json says {list(shape)}"
        )
