"""A GGUF file as a source: its blocks as MLX's words and scales, its metadata as config.json and tokenizer.json.

llama.cpp's types of tensors are affine in groups of 32 or MXFP4, with a block's scale beside its values, so that
re-packing them changes no value; types with smaller groups become floats. Names and metadata are llama.cpp's, or
those of Ollama's own converter.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from gptoss_mlx.checkpoint.gguf import BLOCKS, GgufFile, read_gguf
from gptoss_mlx.checkpoint.layouts import Row
from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES, TensorRecord
from gptoss_mlx.checkpoint.tensors import StoredTensor, pack
from gptoss_mlx.config import MAX_LAYERS
from gptoss_mlx.errors import CheckpointError, ConfigError
from gptoss_mlx.files.read import short_repr
from gptoss_mlx.quantization import MXFP4, Quantization
from gptoss_mlx.tokenizer import CONTROL_TOKENS, O200K_PATTERN

from .layouts import gguf_rows
from .readers import Block, CheckedScales, MadeTogether, SourceFiles, Stored
from .values import Float, Form, Values

__all__ = ["GgufSource", "gguf_stored", "gguf_values", "open_gguf"]

_ARCHITECTURES = ("gpt-oss", "gptoss")
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf")
_MAX_SPLIT = 1000
_ALIASES = (("attn_out", "attn_output"), ("ffn_norm", "post_attention_norm"))
"""Names of modules in Ollama's files, and llama.cpp's."""
_Floats = npt.NDArray[np.float32]


_Decoded = Sequence[npt.NDArray[Any]]
"""Of blocks: codes [N, values], scales and biases [N, groups]; or words and scales; or floats [N, values]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Type:
    """How blocks of one type are read."""

    form: Form
    decode: Callable[[Block], _Decoded]
    scale_dtype: Float = "F16"
    """Of an affine form: holds the scales and biases exactly."""


def _halves(block: Block, begin: int, count: int = 1) -> _Floats:
    """float16 values in each block: [N, count]."""
    part: npt.NDArray[Any] = np.ascontiguousarray(block[:, begin : begin + 2 * count]).view(np.float16)
    return part.astype(np.float32)


def _nibbles(part: Block) -> Block:
    """Each byte's lower half in order, then the upper halves."""
    return np.concatenate([part & np.uint8(15), part >> np.uint8(4)], axis=1)


def _mxfp4(block: Block) -> _Decoded:
    """The first 16 values are the lower halves of the bytes; in MLX's words neighbours share a byte."""
    return pack(_nibbles(block[:, 1:]), 4), block[:, :1]


def _mxfp4_ollama(block: Block) -> _Decoded:
    """In the order of OpenAI's own checkpoints."""
    return block[:, 1:], block[:, :1]


def _fifth_bits(part: Block) -> Block:
    """32 bits, the lowest first, as the fifth bit of 32 codes."""
    return np.unpackbits(part, axis=1, bitorder="little") << np.uint8(4)


def _q8_0(block: Block) -> _Decoded:
    scales = _halves(block, 0)
    return block[:, 2:] ^ np.uint8(0x80), scales, -128 * scales


def _q4_0(block: Block) -> _Decoded:
    scales = _halves(block, 0)
    return _nibbles(block[:, 2:]), scales, -8 * scales


def _q4_1(block: Block) -> _Decoded:
    return _nibbles(block[:, 4:]), _halves(block, 0), _halves(block, 2)


def _q5_0(block: Block) -> _Decoded:
    scales = _halves(block, 0)
    return _nibbles(block[:, 6:]) | _fifth_bits(block[:, 2:6]), scales, -16 * scales


def _q5_1(block: Block) -> _Decoded:
    return _nibbles(block[:, 8:]) | _fifth_bits(block[:, 4:8]), _halves(block, 0), _halves(block, 2)


def _six_bit_scales(part: Block) -> tuple[Block, Block]:
    """Eight scales and eight minima of six bits in twelve bytes."""
    low, middle, high = part[:, :4], part[:, 4:8], part[:, 8:]
    scales = [low & np.uint8(63), (high & np.uint8(15)) | (low >> np.uint8(6) << np.uint8(4))]
    minima = [middle & np.uint8(63), (high >> np.uint8(4)) | (middle >> np.uint8(6) << np.uint8(4))]
    return np.concatenate(scales, axis=1), np.concatenate(minima, axis=1)


def _pairs_of_groups(part: Block) -> Block:
    """32 bytes hold two groups of 32 values: [N, 128] to [N, 256]."""
    pairs = part.reshape(len(part), 4, 1, 32)
    return np.concatenate([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=2).reshape(len(part), 256)


def _q4_k(block: Block) -> _Decoded:
    scales, minima = _six_bit_scales(block[:, 4:16])
    return _pairs_of_groups(block[:, 16:]), _halves(block, 0) * scales, -_halves(block, 2) * minima


def _q5_k(block: Block) -> _Decoded:
    scales, minima = _six_bit_scales(block[:, 4:16])
    fifth = (block[:, 16:48, None] >> np.arange(8, dtype=np.uint8)) & np.uint8(1)  # [N, 32, 8 groups]
    codes = _pairs_of_groups(block[:, 48:]) | (fifth.swapaxes(1, 2).reshape(len(block), 256) << np.uint8(4))
    return codes, _halves(block, 0) * scales, -_halves(block, 2) * minima


def _q6_k(block: Block) -> _Decoded:
    """Groups of 16, which MLX does not multiply."""
    low = block[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    high = block[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    codes = (low & np.uint8(15)).reshape(-1, 256) | ((high & np.uint8(3)).reshape(-1, 256) << np.uint8(4))
    steps = block[:, 192:208].view(np.int8).astype(np.float32) * _halves(block, 208)
    values = (codes.astype(np.float32) - 32).reshape(-1, 16, 16) * steps[:, :, None]
    return (values.reshape(-1, 256),)


def _affine(bits: int, decode: Callable[[Block], _Decoded], scale_dtype: Float = "F16") -> _Type:
    return _Type(form=Quantization(bits=bits, group_size=32), decode=decode, scale_dtype=scale_dtype)


_TYPES: Mapping[str, _Type] = {
    "MXFP4": _Type(form=MXFP4, decode=_mxfp4),
    "MXFP4_OLLAMA": _Type(form=MXFP4, decode=_mxfp4_ollama),
    "Q8_0": _affine(8, _q8_0),
    "Q4_0": _affine(4, _q4_0),
    "Q4_1": _affine(4, _q4_1),
    "Q5_0": _affine(5, _q5_0),
    "Q5_1": _affine(5, _q5_1),
    "Q4_K": _affine(4, _q4_k, "F32"),
    "Q5_K": _affine(5, _q5_k, "F32"),
    "Q6_K": _Type(form="F32", decode=_q6_k),
}
_BLOCK_SIZES = {name: (values, nbytes) for name, values, nbytes in BLOCKS.values()}


def gguf_values(record: TensorRecord, files: SourceFiles) -> Values:
    """The values of a tensor in the form that MLX has for its type."""
    place = f"{record.file}: tensor {record.name}"
    stored = Stored(record, files)
    if record.dtype not in _TYPES:
        return Values(place=place, shape=record.shape, form=_float(record.dtype), parts=(stored,))
    kind, (_, nbytes) = _TYPES[record.dtype], _BLOCK_SIZES[record.dtype]
    form, width = kind.form, record.shape[-1]

    def make(begin: int, end: int) -> Sequence[Block]:
        first, *others = kind.decode(stored.read(begin, end).reshape(-1, nbytes))
        if isinstance(form, Quantization) and form.mode == "affine":
            first = pack(first.reshape(end - begin, -1), form.bits)
            others = [_scales(part, kind.scale_dtype, place) for part in others]
        return [np.ascontiguousarray(part).view(np.uint8).reshape(end - begin, -1) for part in (first, *others)]

    if not isinstance(form, Quantization):
        widths = [4 * width]
    else:
        groups = width // form.group_size
        widths = [width * form.bits // 8]
        widths += [groups] if form == MXFP4 else 2 * [DTYPE_BYTES[kind.scale_dtype] * groups]
    parts = list(MadeTogether(make, stored, widths, cost=12 * width).parts)
    if form == MXFP4:
        parts[1] = CheckedScales(parts[1], record)
    return Values(place=place, shape=record.shape, form=form, parts=tuple(parts), scale_dtype=kind.scale_dtype)


def gguf_stored(record: TensorRecord) -> StoredTensor:
    """A tensor as tables are checked against it."""
    form = _TYPES[record.dtype].form if record.dtype in _TYPES else record.dtype
    if isinstance(form, Quantization):
        return StoredTensor(name=record.name, shape=record.shape, form=form, records=(record,))
    return StoredTensor(
        name=record.name, shape=record.shape, form=None, records=(dataclasses.replace(record, dtype=form),)
    )


def _float(dtype: str) -> Float:
    return next(name for name in get_args(Float) if name == dtype)


def _scales(values: _Floats, dtype: Float, place: str) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            found = values.astype(np.float16)
    if not np.isfinite(found).all():
        raise CheckpointError(f"{place} has scales that are infinite or NaN; download it again")
    return found


def open_gguf(path: Path) -> GgufSource:
    """Opens a GGUF file, with all parts of one that was split.

    Raises:
        CheckpointError: it is damaged, incomplete, or of another architecture.
        ConfigError: its metadata does not describe a gpt-oss.
    """
    parts = [read_gguf(part) for part in _split_parts(path)]
    tensors: dict[str, TensorRecord] = {}
    for part in parts:
        for name, record in part.tensors.items():
            own = _own_name(name)
            if own in tensors:
                raise CheckpointError(f"{record.file}: tensor {name} is also in {tensors[own].file.name}")
            tensors[own] = record
    fields = _Metadata(parts[0])
    return GgufSource(
        path=path,
        rows=gguf_rows(joined_qkv="blk.0.attn_qkv.weight" in tensors, joined_gate_up=_GATE_UP in tensors),
        tensors=tensors,
        config=_config(fields, tensors),
        tokenizer=_tokenizer(fields),
    )


_GATE_UP = "blk.0.ffn_gate_up_exps.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufSource:
    """A GGUF file as a checkpoint."""

    path: Path
    rows: tuple[Row, ...]
    """The table that describes its tensors."""
    tensors: Mapping[str, TensorRecord]
    config: Mapping[str, Any]
    """As config.json has it."""
    tokenizer: bytes
    """tokenizer.json."""


def _split_parts(path: Path) -> list[Path]:
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    total = int(match["total"])
    if not 1 <= int(match["number"]) <= total <= _MAX_SPLIT:
        raise CheckpointError(f"{path}: is no part of {total}; name the first part of a split file")
    return [path.with_name(f"{match['stem']}-{number:05}-of-{total:05}.gguf") for number in range(1, total + 1)]


def _own_name(name: str) -> str:
    """The name with llama.cpp's names for Ollama's."""
    if name.endswith(".attn_sinks.weight"):
        return name.removesuffix(".weight")
    for theirs, ours in _ALIASES:
        name = name.replace(f".{theirs}.", f".{ours}.")
    return name


class _Metadata:
    """The metadata of a file, by names without its architecture's."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.architecture = file.metadata.get("general.architecture")
        if self.architecture not in _ARCHITECTURES:
            raise CheckpointError(
                f"{file.path}: general.architecture is {short_repr(self.architecture)}; gpt-oss is needed"
            )

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """A value, checked to be of a type; names that begin with a dot are the architecture's own."""
        key = f"{self.architecture}{name}" if name.startswith(".") else name
        value = self._file.metadata.get(key, default)
        if type(value) is not kind:
            raise ConfigError(f"{self._file.path}: {key} is {short_repr(value)}; {kind.__name__} is needed")
        # The shortest decimal number that is the same in 32 bits.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def error(self, what: str) -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self._file.path}: {what}")

    def has(self, name: str) -> bool:
        """Whether there is a value."""
        return (f"{self.architecture}{name}" if name.startswith(".") else name) in self._file.metadata


def _config(fields: _Metadata, tensors: Mapping[str, TensorRecord]) -> dict[str, Any]:
    embedding = tensors.get("token_embd.weight")
    layers = fields.get(".block_count", int)
    if embedding is None or not 1 <= layers <= MAX_LAYERS:
        raise fields.error(f"token_embd.weight is missing, or block_count is {layers}; this is no gpt-oss")
    context = fields.get(".rope.scaling.original_context_length", int)
    experts = fields.get(".expert_used_count", int)
    feed_forward = ".expert_feed_forward_length"
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "eos_token_id": 200002,
        "pad_token_id": 199999,
        "head_dim": fields.get(".attention.key_length", int),
        "hidden_act": "silu",
        "hidden_size": fields.get(".embedding_length", int),
        "initial_context_length": context,
        "intermediate_size": fields.get(feed_forward if fields.has(feed_forward) else ".feed_forward_length", int),
        "layer_types": _layer_types(fields, layers),
        "max_position_embeddings": fields.get(".context_length", int),
        "num_attention_heads": fields.get(".attention.head_count", int),
        "experts_per_token": experts,
        "num_experts_per_tok": experts,
        "num_hidden_layers": layers,
        "num_key_value_heads": fields.get(".attention.head_count_kv", int),
        "num_local_experts": fields.get(".expert_count", int),
        "rms_norm_eps": fields.get(".attention.layer_norm_rms_epsilon", float),
        "rope_theta": fields.get(".rope.freq_base", float),
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": fields.get(".rope.scaling.factor", float),
            "beta_fast": fields.get(".rope.scaling.yarn_beta_fast", float, 32.0),
            "beta_slow": fields.get(".rope.scaling.yarn_beta_slow", float, 1.0),
            "original_max_position_embeddings": context,
            "truncate": False,
        },
        "sliding_window": fields.get(".attention.sliding_window", int),
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": embedding.shape[0],
    }


def _layer_types(fields: _Metadata, layers: int) -> list[str]:
    """Every other layer slides, as in the released models, unless the file says which."""
    pattern = ".attention.sliding_window_pattern"
    slides = [n % 2 == 0 for n in range(layers)]
    if fields.has(pattern):
        slides = fields.get(pattern, list)
    return ["sliding_attention" if sliding is True else "full_attention" for sliding in slides]


# Of tokenizer.ggml.token_type.
_CONTROL, _USER_DEFINED = 3, 4


def _tokenizer(fields: _Metadata) -> bytes:
    """tokenizer.json, as the released models have it."""
    tokens, types = fields.get("tokenizer.ggml.tokens", list), fields.get("tokenizer.ggml.token_type", list)
    merges = fields.get("tokenizer.ggml.merges", list, [])
    if fields.get("tokenizer.ggml.model", str) != "gpt2" or len(types) != len(tokens):
        raise fields.error("its tokenizer is no byte-level BPE with a type for each token; this is no gpt-oss")
    if not all(isinstance(text, str) for text in (*tokens, *merges)):
        raise fields.error("tokenizer.ggml.tokens and merges must be texts; the file is damaged")
    special = {_CONTROL: True, _USER_DEFINED: False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": token, "content": text, **flags, "special": special[kind] or text in CONTROL_TOKENS}
        for token, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in special
    ]
    names = {entry["content"] for entry in added}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": O200K_PATTERN}, "behavior": "Removed", "invert": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: token for token, text in enumerate(tokens) if text not in names},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()
