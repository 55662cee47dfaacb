"""Tables that map a checkpoint's tensors to the model's parameters, with shapes and transforms.

A layout is a table of rows: target parameter ← source tensors, each a tensor of values, whatever its form in the
file (see ``tensors``). Everything must be accounted for: a tensor that no row names, or that is missing, or of
another dtype or shape, is an error that names it. ``gptoss convert`` uses the same tables.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError
from ..quantization import MXFP4_GROUP_SIZE, Quantization
from ..share import Share
from .safetensors import Checkpoint

__all__ = [
    "DENSE",
    "DIRECT",
    "EXPERTS",
    "FLOATS",
    "HUGGING_FACE",
    "MATRICES",
    "MLX",
    "MLX_LM",
    "Layout",
    "Row",
    "Source",
    "Transform",
    "check_tensors",
    "config_of",
    "expand",
    "generic",
    "kept",
    "layout_of",
    "make_row",
    "named",
    "parts_of",
    "recognise",
    "renamed",
    "separate",
    "shape_of",
    "sizes",
]

FLOATS = ("BF16", "F32", "F16")


class Transform(Enum):
    """How the sources become the target. All of them move values and change none."""

    COPY = "copy"
    ROWS = "rows"
    """The sources joined along the first axis."""
    COLUMNS = "columns"
    """The sources joined along the last axis."""
    INTERLEAVED = "interleaved"
    """Gate and up rows interleaved."""
    EXPERT_BIASES = "expert_biases"
    """Gate and up elements interleaved, then down."""
    TRANSPOSED = "transposed"
    """One matrix per expert, transposed; only ``gptoss convert`` does this."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the checkpoint. ``{n}`` in the name is the layer, ``{e}`` the expert, whose tensors are stacked;
    the shape's letters are in ``sizes``."""

    name: str
    shape: str


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter of the model and the tensors it is made of."""

    target: str
    transform: Transform
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way to name and arrange the model's tensors."""

    name: str
    """Shown to the user."""
    signature: str
    """A tensor that only this layout has."""
    rows: tuple[Row, ...]


def _copy(target: str, source: str, shape: str) -> Row:
    return Row(target, Transform.COPY, (Source(source, shape),))


def _join(transform: Transform, target: str, sources: dict[str, str]) -> Row:
    return Row(target, transform, tuple(Source(name, shape) for name, shape in sources.items()))


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
    _copy("layers.{n}.mlp.experts.gate_up_proj.weight", f"{_EXPERTS}.gate_up_proj", "E 2I H"),
    _copy("layers.{n}.mlp.experts.down_proj.weight", f"{_EXPERTS}.down_proj", "E H I"),
    _join(
        Transform.COLUMNS,
        "layers.{n}.mlp.experts.bias",
        {f"{_EXPERTS}.gate_up_proj_bias": "E 2I", f"{_EXPERTS}.down_proj_bias": "E H"},
    ),
    _copy("norm.weight", "model.norm.weight", "H"),
    _copy("lm_head.weight", "lm_head.weight", "V H"),
)

DENSE = (
    "embed_tokens.weight",
    "layers.{n}.self_attn.qkv_proj.weight",
    "layers.{n}.self_attn.o_proj.weight",
    "lm_head.weight",
)
"""The weights whose precision ``--dense`` chooses. The router keeps its own: it decides which experts run."""
EXPERTS = ("layers.{n}.mlp.experts.gate_up_proj.weight", "layers.{n}.mlp.experts.down_proj.weight")
"""The weights whose precision ``--experts`` chooses."""
MATRICES = (*DENSE, "layers.{n}.mlp.router.weight", *EXPERTS)
"""The weights that may be quantised."""


def _joined_shape(row: Row) -> str:
    """The shape of a row's target."""
    return {
        "layers.{n}.self_attn.qkv_proj.weight": "Q+2K H",
        "layers.{n}.self_attn.qkv_proj.bias": "Q+2K",
        "layers.{n}.mlp.experts.bias": "E 2I+H",
    }.get(row.target, row.sources[0].shape)


# The layout that ``gptoss convert`` writes: the parameters themselves, so loading moves nothing.
MLX: tuple[Row, ...] = tuple(_copy(row.target, row.target, _joined_shape(row)) for row in HUGGING_FACE)


def renamed(names: Mapping[str, str], changed: Mapping[str, Row]) -> tuple[Row, ...]:
    """The Hugging Face table with other source names, and with other rows for some targets."""
    rows = []
    for row in HUGGING_FACE:
        if row.target in changed:
            rows.append(changed[row.target])
            continue
        sources = tuple(Source(names.get(s.name, s.name), s.shape) for s in row.sources)
        rows.append(Row(row.target, row.transform, sources))
    return tuple(rows)


def make_row(target: str, transform: Transform, **sources: str) -> dict[str, Row]:
    """A row by its target; the sources are names and shapes."""
    return {target: _join(transform, target, sources)}


def separate(gate: str, up: str, down: str) -> dict[str, Row]:
    """Rows for gate and up that are tensors of their own, by their names without ``weight`` and ``bias``."""
    gate_up, down_proj = EXPERTS
    biases = {f"{gate}.bias": "E I", f"{up}.bias": "E I", f"{down}.bias": "E H"}
    return (
        make_row(gate_up, Transform.INTERLEAVED, **{f"{gate}.weight": "E I H", f"{up}.weight": "E I H"})
        | make_row(down_proj, Transform.COPY, **{f"{down}.weight": "E H I"})
        | make_row("layers.{n}.mlp.experts.bias", Transform.EXPERT_BIASES, **biases)
    )


# mlx-lm, mlx-community and LM Studio: gate and up are separate.
MLX_LM = renamed({}, separate(f"{_EXPERTS}.gate_proj", f"{_EXPERTS}.up_proj", f"{_EXPERTS}.down_proj"))

_FIRST = "model.layers.0.mlp.experts"
DIRECT = (
    Layout(name="Hugging Face", signature=f"{_FIRST}.gate_up_proj_blocks", rows=HUGGING_FACE),
    Layout(name="gptoss-mlx", signature="layers.0.mlp.experts.gate_up_proj.weight", rows=MLX),
    Layout(name="mlx-lm", signature=f"{_FIRST}.gate_proj.weight", rows=MLX_LM),
)
"""The layouts that can be loaded without a conversion."""


def recognise(names: Iterable[str], layouts: tuple[Layout, ...] = DIRECT) -> Layout | None:
    """The layout of a checkpoint, recognised from the names of its tensors; None if it is none of these."""
    known = set(names)
    return next((layout for layout in layouts if layout.signature in known), None)


def layout_of(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint that can be loaded without a conversion.

    Raises:
        CheckpointError: it is of another.
    """
    layout = recognise(checkpoint.tensors)
    if layout is None:
        raise CheckpointError(
            f"{checkpoint.directory}: the experts are not in a layout that is read directly; "
            f"convert it first: {shlex.join(['gptoss', 'convert', str(checkpoint.directory)])}"
        )
    return layout


def generic(target: str) -> str:
    """The name of a parameter with ``{n}`` for the layer's number."""
    return ".".join("{n}" if part.isdigit() else part for part in target.split("."))


def sizes(config: ModelConfig) -> dict[str, int]:
    """The size of each letter in the tables' shapes."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    return {
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
    }


def shape_of(source: Source, letters: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a source's values; ``letters`` are :func:`sizes`."""
    return tuple(letters[letter] for letter in source.shape.split())


def named(source: Source, letters: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of each tensor of a source: one, or one for each expert."""
    shape = shape_of(source, letters)
    if "{e}" not in source.name:
        yield source.name, shape
        return
    for number in range(shape[0]):
        yield source.name.replace("{e}", str(number)), shape[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stored tensor of a matrix: its weight (values, or words of 32 bits), its scales or its biases."""

    name: str
    """``weight``, ``scales`` or ``biases``."""
    dtypes: tuple[str, ...]
    """The dtypes that it may have; a conversion writes the first unless its source has another of them."""
    shape: tuple[int, ...]


def parts_of(shape: tuple[int, ...], form: Quantization | None) -> tuple[Part, ...]:
    """The stored tensors of a matrix of that shape.

    Raises:
        ConfigError: its rows are not whole groups.
    """
    if form is None:
        return (Part(name="weight", dtypes=FLOATS, shape=shape),)
    *outer, width = shape
    if width % form.group_size:
        raise ConfigError(f"quantization in groups of {form.group_size} does not divide a width of {width}")
    groups = (*outer, width // form.group_size)
    words = Part(name="weight", dtypes=("U32",), shape=(*outer, width * form.bits // 32))
    if form.mode != "affine":
        return words, Part(name="scales", dtypes=("U8",), shape=groups)
    return words, *(Part(name=name, dtypes=FLOATS, shape=groups) for name in ("scales", "biases"))


def config_of(config: ModelConfig, forms: Mapping[str, Quantization | str | None]) -> ModelConfig:
    """The config of a model whose matrices have these forms: the most frequent ones, and the exceptions.

    Args:
        config: gives everything else.
        forms: by the parameter's name; all that are not a :class:`Quantization` stand for floats.
    """
    quantised = {name: form if isinstance(form, Quantization) else None for name, form in forms.items()}
    dense, experts = (
        Counter(form for name, form in quantised.items() if generic(name) in names).most_common(1)[0][0]
        for names in (DENSE, EXPERTS)
    )
    common = dataclasses.replace(config, quantization=dense, experts=experts, exceptions=())
    modules = ((name.removesuffix(".weight"), form) for name, form in sorted(quantised.items()))
    exceptions = tuple((module, form) for module, form in modules if form != common.form(module))
    return dataclasses.replace(common, exceptions=exceptions)


def kept(config: ModelConfig, share: Share, target: str) -> dict[str, tuple[range, ...]]:
    """The parts of each letter's axis that a share has of one parameter, counted in values. A letter that is
    missing is not cut.

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
    return {
        "A": (_scaled(share.heads, heads),),
        "Q": (queries,),
        "K": (keys,),
        "Q+2K": (queries, *(_moved(keys, config.query_size + n * config.key_value_size) for n in range(2))),
        "2I": (gate_up,),
        "2I+H": (gate_up, _moved(range(config.hidden_size), 2 * config.intermediate_size)),
        "I": (_scaled(groups, MXFP4_GROUP_SIZE),),
    }


def _scaled(part: range, factor: int) -> range:
    return range(part.start * factor, part.stop * factor)


def _moved(part: range, by: int) -> range:
    return range(part.start + by, part.stop + by)


def expand(rows: tuple[Row, ...], config: ModelConfig) -> Iterator[Row]:
    """The rows with every layer's number filled in."""
    for row in rows:
        for n in range(config.num_hidden_layers) if "{n}" in row.target else (0,):
            sources = tuple(Source(source.name.replace("{n}", str(n)), source.shape) for source in row.sources)
            yield Row(row.target.replace("{n}", str(n)), row.transform, sources)


class _Tensor(Protocol):
    """What is checked of a tensor."""

    @property
    def place(self) -> str:
        """The file and the tensor's name, for messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its values."""

    @property
    def dtype(self) -> str:
        """Of a float; of a quantised tensor a name that is none of a dtype."""

    @property
    def form(self) -> Quantization | None:
        """None if it is floats."""


def check_tensors(
    tensors: Mapping[str, _Tensor], rows: tuple[Row, ...], config: ModelConfig, directory: object
) -> None:
    """Checks every tensor of a checkpoint against the table.

    Raises:
        CheckpointError: a tensor is missing, not named by any row, or of another dtype or shape.
    """
    letters = sizes(config)
    expected = {
        name: (shape, generic(row.target) in MATRICES)
        for row in expand(rows, config)
        for source in row.sources
        for name, shape in named(source, letters)
    }
    for name, (shape, is_matrix) in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{directory}: tensor {name} is missing; download it again")
        _check_tensor(tensors[name], shape, is_matrix)
    for name, tensor in tensors.items():
        if name not in expected:
            raise CheckpointError(f"{tensor.place} is unknown; this is not a plain gpt-oss")


def _check_tensor(tensor: _Tensor, shape: tuple[int, ...], is_matrix: bool) -> None:
    if (tensor.form is None or not is_matrix) and tensor.dtype not in FLOATS:
        raise CheckpointError(f"{tensor.place} is {tensor.dtype}; {' or '.join(FLOATS)} is needed")
    if tensor.shape != shape:
        raise CheckpointError(f"{tensor.place} has shape {list(tensor.shape)}; config.json says {list(shape)}")
