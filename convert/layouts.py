"""The layouts that only a conversion reads and writes: each is a table of exact names.

Those that can be loaded directly are in ``gptoss_mlx.checkpoint.layouts``. A table says which tensors
make up a parameter of the model; read backwards it says into which tensors an export cuts the parameter. A tensor
that no row names is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptoss_mlx.checkpoint.layouts import (
    DIRECT,
    EXPERTS,
    HUGGING_FACE,
    Layout,
    Row,
    Source,
    Transform,
    make_row,
    renamed,
    separate,
)
from gptoss_mlx.config import MAX_LAYERS
from gptoss_mlx.errors import ConfigError

__all__ = ["FINE_TUNE", "LAYOUTS", "ORIGINAL", "gguf_rows", "hugging_face_config"]

_LAYER = "model.layers.{n}"
_EXPERTS = f"{_LAYER}.mlp.experts"
_QKV = "layers.{n}.self_attn.qkv_proj"
_GATE_UP, _DOWN = EXPERTS
_BIAS = "layers.{n}.mlp.experts.bias"

# OpenAI's own layout: q, k and v are already one tensor.
ORIGINAL = renamed(
    {
        "model.embed_tokens.weight": "embedding.weight",
        "lm_head.weight": "unembedding.weight",
        "model.norm.weight": "norm.scale",
        f"{_LAYER}.input_layernorm.weight": "block.{n}.attn.norm.scale",
        f"{_LAYER}.self_attn.sinks": "block.{n}.attn.sinks",
        f"{_LAYER}.self_attn.o_proj.weight": "block.{n}.attn.out.weight",
        f"{_LAYER}.self_attn.o_proj.bias": "block.{n}.attn.out.bias",
        f"{_LAYER}.post_attention_layernorm.weight": "block.{n}.mlp.norm.scale",
        f"{_LAYER}.mlp.router.weight": "block.{n}.mlp.gate.weight",
        f"{_LAYER}.mlp.router.bias": "block.{n}.mlp.gate.bias",
        f"{_EXPERTS}.gate_up_proj": "block.{n}.mlp.mlp1_weight",
        f"{_EXPERTS}.gate_up_proj_bias": "block.{n}.mlp.mlp1_bias",
        f"{_EXPERTS}.down_proj": "block.{n}.mlp.mlp2_weight",
        f"{_EXPERTS}.down_proj_bias": "block.{n}.mlp.mlp2_bias",
    },
    make_row(f"{_QKV}.weight", Transform.COPY, **{"block.{n}.attn.qkv.weight": "Q+2K H"})
    | make_row(f"{_QKV}.bias", Transform.COPY, **{"block.{n}.attn.qkv.bias": "Q+2K"}),
)

# Fine-tunes saved without packing: experts are floats with the input axis before the output axis.
FINE_TUNE = renamed(
    {},
    make_row(_GATE_UP, Transform.TRANSPOSED, **{f"{_EXPERTS}.gate_up_proj": "E H 2I"})
    | make_row(_DOWN, Transform.TRANSPOSED, **{f"{_EXPERTS}.down_proj": "E I H"}),
)

# A linear layer for each expert, as llm-compressor and others unpack them.
PER_EXPERT = renamed(
    {}, separate(f"{_EXPERTS}.{{e}}.gate_proj", f"{_EXPERTS}.{{e}}.up_proj", f"{_EXPERTS}.{{e}}.down_proj")
)

# The same as Unsloth does it: gate and up stay interleaved.
UNSLOTH = renamed(
    {},
    make_row(_GATE_UP, Transform.COPY, **{f"{_EXPERTS}.gate_up_projs.{{e}}.weight": "E 2I H"})
    | make_row(_DOWN, Transform.COPY, **{f"{_EXPERTS}.down_projs.{{e}}.weight": "E H I"})
    | make_row(
        _BIAS,
        Transform.COLUMNS,
        **{f"{_EXPERTS}.gate_up_projs.{{e}}.bias": "E 2I", f"{_EXPERTS}.down_projs.{{e}}.bias": "E H"},
    ),
)


def gguf_rows(*, joined_qkv: bool, joined_gate_up: bool) -> tuple[Row, ...]:
    """The table of llama.cpp's names.

    Args:
        joined_qkv: whether q, k and v are one tensor, as Ollama has them.
        joined_gate_up: whether gate and up are one tensor with interleaved rows, as Ollama has them.
    """
    block = "blk.{n}"
    modules = {
        f"{_LAYER}.self_attn.{theirs}": f"{block}.{ours}"
        for theirs, ours in {
            "q_proj": "attn_q",
            "k_proj": "attn_k",
            "v_proj": "attn_v",
            "o_proj": "attn_output",
        }.items()
    } | {f"{_LAYER}.mlp.router": f"{block}.ffn_gate_inp"}
    names = {
        f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in modules.items() for part in ("weight", "bias")
    }
    names |= {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        "model.norm.weight": "output_norm.weight",
        f"{_LAYER}.input_layernorm.weight": f"{block}.attn_norm.weight",
        f"{_LAYER}.self_attn.sinks": f"{block}.attn_sinks",
        f"{_LAYER}.post_attention_layernorm.weight": f"{block}.post_attention_norm.weight",
        f"{_EXPERTS}.gate_up_proj": f"{block}.ffn_gate_up_exps.weight",
        f"{_EXPERTS}.gate_up_proj_bias": f"{block}.ffn_gate_up_exps.bias",
        f"{_EXPERTS}.down_proj": f"{block}.ffn_down_exps.weight",
        f"{_EXPERTS}.down_proj_bias": f"{block}.ffn_down_exps.bias",
    }
    changed: dict[str, Row] = {}
    if joined_qkv:
        changed |= make_row(f"{_QKV}.weight", Transform.COPY, **{f"{block}.attn_qkv.weight": "Q+2K H"})
        changed |= make_row(f"{_QKV}.bias", Transform.COPY, **{f"{block}.attn_qkv.bias": "Q+2K"})
    if not joined_gate_up:
        changed |= separate(*(f"{block}.ffn_{part}_exps" for part in ("gate", "up", "down")))
    return renamed(names, changed)


_PEFT = "base_model.model."


def _prefixed(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The table with the names that PEFT gives the tensors of a model that it wraps."""
    return tuple(
        Row(row.target, row.transform, tuple(Source(f"{_PEFT}{s.name}", s.shape) for s in row.sources))
        for row in rows
    )


_FIRST = "model.layers.0.mlp.experts"
LAYOUTS = (
    *DIRECT,
    Layout(name="OpenAI original", signature="block.0.mlp.mlp1_weight.blocks", rows=ORIGINAL),
    Layout(name="unpacked fine-tune", signature=f"{_FIRST}.gate_up_proj", rows=FINE_TUNE),
    Layout(name="a layer for each expert", signature=f"{_FIRST}.0.gate_proj.weight", rows=PER_EXPERT),
    Layout(name="Unsloth's layer for each expert", signature=f"{_FIRST}.gate_up_projs.0.weight", rows=UNSLOTH),
    Layout(name="PEFT", signature=f"{_PEFT}{_FIRST}.gate_up_proj_blocks", rows=_prefixed(HUGGING_FACE)),
    Layout(name="PEFT, unpacked", signature=f"{_PEFT}{_FIRST}.gate_up_proj", rows=_prefixed(FINE_TUNE)),
)


def hugging_face_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """Makes Hugging Face's config.json from OpenAI's ``original/config.json``, which uses other names.

    Raises:
        ConfigError: a field is missing.
    """
    try:
        layers = int(original["num_hidden_layers"])
        if layers > MAX_LAYERS:
            raise ConfigError(f"num_hidden_layers is {layers}; at most {MAX_LAYERS} are supported")
        context = int(original["initial_context_length"])
        factor = float(original["rope_scaling_factor"])
        return {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "attention_bias": True,
            "eos_token_id": 200002,
            "pad_token_id": 199999,
            "head_dim": original["head_dim"],
            "hidden_act": "silu",
            "hidden_size": original["hidden_size"],
            "initial_context_length": context,
            "intermediate_size": original["intermediate_size"],
            # OpenAI's code uses the sliding window in every even layer; the file does not say so.
            "layer_types": ["full_attention" if n % 2 else "sliding_attention" for n in range(layers)],
            "max_position_embeddings": int(context * factor),
            "num_attention_heads": original["num_attention_heads"],
            "experts_per_token": original["experts_per_token"],
            "num_experts_per_tok": original["experts_per_token"],
            "num_hidden_layers": layers,
            "num_key_value_heads": original["num_key_value_heads"],
            "num_local_experts": original["num_experts"],
            "rms_norm_eps": 1e-05,
            "rope_theta": original["rope_theta"],
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": factor,
                "beta_fast": float(original["rope_ntk_beta"]),
                "beta_slow": float(original["rope_ntk_alpha"]),
                "original_max_position_embeddings": context,
                "truncate": False,
            },
            "sliding_window": original["sliding_window"],
            "swiglu_limit": original.get("swiglu_limit", 7.0),
            "tie_word_embeddings": False,
            "vocab_size": original["vocab_size"],
        }
    except KeyError as error:
        raise ConfigError(f"{error.args[0]} is missing; not a config.json of OpenAI's original/") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"a value cannot be used: {error}") from None
