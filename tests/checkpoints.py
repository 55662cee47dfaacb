"""Random checkpoints in the real layouts, small enough for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from gptoss_mlx.checkpoint.layouts import EXPERTS, HUGGING_FACE, expand, shape_of, sizes
from gptoss_mlx.checkpoint.tensors import packed_parts
from gptoss_mlx.config import ModelConfig

__all__ = [
    "FULL",
    "SHAPES",
    "SLIDING",
    "hugging_face_tensors",
    "load_shape",
    "random_config",
    "random_tokens",
    "write_random_checkpoint",
]

SLIDING, FULL = "sliding_attention", "full_attention"

# Five shapes that differ in what implementations get wrong: windows, contexts, head counts, layer orders.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"num_hidden_layers": 2},
    "odd_layers": {"num_hidden_layers": 3, "num_local_experts": 32, "sliding_window": 128},
    "full_first": {
        "num_hidden_layers": 4,
        "layer_types": [FULL, SLIDING, FULL, SLIDING],
        "hidden_size": 96,
        "intermediate_size": 64,
        "sliding_window": 8,
    },
    "short_context": {"num_hidden_layers": 5, "original_context": 64, "num_attention_heads": 16, "head_dim": 32},
    "many_heads": {
        "num_hidden_layers": 6,
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_local_experts": 8,
        "original_context": 1024,
        "sliding_window": 64,
    },
}


def random_config(
    *,
    num_hidden_layers: int = 2,
    layer_types: list[str] | None = None,
    original_context: int = 4096,
    **fields: Any,
) -> dict[str, Any]:
    """A Hugging Face config.json of a small gpt-oss; ``fields`` override its values."""
    config: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "experts_per_token": 4,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initial_context_length": original_context,
        "intermediate_size": 64,
        "layer_types": layer_types or [(SLIDING, FULL)[n % 2] for n in range(num_hidden_layers)],
        "max_position_embeddings": original_context * 32,
        "num_attention_heads": 4,
        "num_experts_per_tok": 4,
        "num_hidden_layers": num_hidden_layers,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": original_context,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 16,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": 320,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
        },
    }
    return config | fields


def write_random_checkpoint(directory: Path, seed: int = 0, **fields: Any) -> Path:
    """Writes config.json and model.safetensors (float32 and MXFP4) in the Hugging Face layout.

    The magnitudes are such that every part matters: attention is not uniform, gates reach their clamp, sinks
    take a visible share.
    """
    directory.mkdir(parents=True, exist_ok=True)
    values = random_config(**fields)
    (directory / "config.json").write_text(json.dumps(values, indent=2))
    config = ModelConfig.from_dict(values)
    rng = np.random.default_rng(seed)
    tensors = {name: _random_tensor(rng, name, shape) for name, shape in hugging_face_tensors(config)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def hugging_face_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of every tensor of a Hugging Face checkpoint with packed experts."""
    letters = sizes(config)
    for row in HUGGING_FACE:
        sources = [
            (source.name, shape_of(source, letters)) for row in expand((row,), config) for source in row.sources
        ]
        if row.target in EXPERTS:
            blocks, scales = zip(*(packed_parts(*source) for source in sources), strict=True)
            sources = [*blocks, *scales]
        yield from sources


def _random_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if name.endswith("_blocks"):
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if name.endswith("_scales"):
        return rng.integers(122, 126, shape, dtype=np.uint8)  # 2^-5 to 2^-2
    normal: np.ndarray[Any, Any] = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        return 1 + normal / 10
    if name.endswith(("sinks", "bias")):
        return normal
    if "embed_tokens" in name:
        return normal
    return normal * np.float32(1.5 * shape[-1] ** -0.5)


def load_shape(directory: Path, name: str) -> Path:
    """Writes the random checkpoint of one of the five shapes; always the same one."""
    return write_random_checkpoint(directory, seed=list(SHAPES).index(name), **SHAPES[name])


def random_tokens(name: str, length: int = 300, vocab_size: int = 320) -> list[int]:
    """A prompt for one of the five shapes; always the same one."""
    rng = np.random.default_rng(1000 + list(SHAPES).index(name))
    return [int(token) for token in rng.integers(0, vocab_size, length)]
