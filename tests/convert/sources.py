"""The same random model as a checkpoint in every layout that ``gptoss convert`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.checkpoint.layouts import EXPERTS, MLX_LM
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.convert.layouts import ORIGINAL
from gptoss_mlx.errors import GptOssError
from tests.checkpoints import write_random_checkpoint

__all__ = ["LOSSLESS", "SMALL", "Tensors", "expect_refusal", "load_tensors", "tensor_bytes", "write_layout"]

Tensors = dict[str, mx.array]
LOSSLESS = ["hf", "original", "mlx-lm", "fine-tune"]
"""Layouts that keep the weights of the model."""

# Widths with and without a factor 64, an odd number of layers, more than one row block of experts.
SMALL: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_local_experts": 5,
}


def load_tensors(directory: Path) -> Tensors:
    """Loads every tensor of every shard."""
    tensors: Tensors = {}
    for shard in sorted(directory.glob("*.safetensors")):
        arrays = mx.load(str(shard))
        assert isinstance(arrays, dict)
        tensors |= arrays
    return tensors


def tensor_bytes(tensors: Mapping[str, mx.array]) -> dict[str, tuple[Any, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of each tensor, for comparisons of every bit."""
    return {
        name: (array.dtype, tuple(array.shape), np.asarray(array.reshape(-1).view(mx.uint8)).tobytes())
        for name, array in tensors.items()
    }


def write_layout(layout: str, directory: Path, seed: int = 0, **fields: Any) -> Path:
    """Writes a checkpoint with bfloat16 dense layers; the same seed and fields give the same model.

    Args:
        layout: ``hf``, ``original``, ``mlx-lm``, ``mlx-lm-q4`` or ``fine-tune``.
        directory: is created.
        seed: seed of the weights.
        fields: fields of config.json to change.
    """
    write_random_checkpoint(directory, seed, **(SMALL | fields))
    plain = load_tensors(directory)
    mx.eval(plain)
    tensors = {name: _bfloat16(array) for name, array in plain.items()}
    (directory / "model.safetensors").unlink()
    (directory / "tokenizer.json").write_text("{}")
    config = json.loads((directory / "config.json").read_text())
    if layout == "original":
        tensors, config = _original(tensors, config)
        (directory / "dtypes.json").write_text("{}")
    elif layout.startswith("mlx-lm"):
        tensors = _mlx_lm(tensors)
        config["quantization"] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
        if layout == "mlx-lm-q4":
            tensors = _quantised(tensors, config)
        config["quantization_config"] = config["quantization"]
    elif layout == "fine-tune":
        tensors = _fine_tune(tensors)
        del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    return directory


def _bfloat16(array: mx.array) -> mx.array:
    return array.astype(mx.bfloat16) if mx.issubdtype(array.dtype, mx.floating) else array


def _original(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    renamed: Tensors = {}
    for row in ORIGINAL:
        for n in range(config["num_hidden_layers"]) if "{n}" in row.target else (0,):
            (own, *more) = (source.name.format(n=n) for source in row.sources)
            theirs = [source.name.format(n=n) for source in _hugging_face_sources(row.target)]
            if "qkv" in own:
                renamed[own] = mx.concatenate([tensors[name] for name in theirs])
            elif row.target in EXPERTS:
                renamed |= {f"{own}.{part}": tensors[f"{theirs[0]}_{part}"] for part in ("blocks", "scales")}
            else:
                renamed |= {name: tensors[there] for name, there in zip([own, *more], theirs, strict=True)}
    rope = config["rope_scaling"]
    same: tuple[str, ...] = (
        "num_hidden_layers",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "swiglu_limit",
        "head_dim",
    )
    same += (
        "num_attention_heads",
        "num_key_value_heads",
        "sliding_window",
        "initial_context_length",
        "rope_theta",
    )
    return renamed, {name: config[name] for name in same} | {
        "num_experts": config["num_local_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "rope_scaling_factor": rope["factor"],
        "rope_ntk_alpha": rope["beta_slow"],
        "rope_ntk_beta": rope["beta_fast"],
    }


def _hugging_face_sources(target: str) -> tuple[Any, ...]:
    from gptoss_mlx.checkpoint.layouts import HUGGING_FACE

    return next(row.sources for row in HUGGING_FACE if row.target == target)


def _mlx_lm(tensors: Tensors) -> Tensors:
    """Converts as mlx-lm's own ``sanitize`` does."""
    from mlx_lm.models.gpt_oss import Model

    sanitized: Tensors = Model.sanitize(None, dict(tensors))  # type: ignore[arg-type, no-untyped-call]
    mx.eval(sanitized)
    names = {source.name.split("{n}")[-1] for row in MLX_LM for source in row.sources}
    names |= {name.replace(".weight", ".scales") for name in names if "experts" in name}
    assert all(any(name.endswith(end) for end in names) for name in sanitized)
    return sanitized


def _quantised(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """Quantises dense layers to 4 bits and the router to 8, with an entry for each module, as mlx-lm's convert."""
    packed: Tensors = {}
    dense = ("embed_tokens.weight", "lm_head.weight", "_proj.weight", "router.weight")
    for name, array in tensors.items():
        if not name.endswith(dense) or ".experts." in name:
            packed[name] = array
            continue
        module, bits = name.removesuffix(".weight"), 8 if "router" in name else 4
        words, scales, biases = mx.quantize(array, group_size=32, bits=bits)
        packed |= {name: words, f"{module}.scales": scales, f"{module}.biases": biases}
        config["quantization"][module] = {"group_size": 32, "bits": bits}
    return packed


def _fine_tune(tensors: Tensors) -> Tensors:
    """Experts as bfloat16, transposed."""
    unpacked: Tensors = {}
    for name, array in tensors.items():
        if name.endswith("_blocks"):
            scales = tensors[name.replace("_blocks", "_scales")]
            words = array.view(mx.uint32).flatten(-2)
            values = mx.dequantize(words, scales, group_size=32, bits=4, mode="mxfp4")
            unpacked[name.removesuffix("_blocks")] = mx.contiguous(values.swapaxes(1, 2)).astype(mx.bfloat16)
        elif not name.endswith("_scales"):
            unpacked[name] = array
    mx.eval(unpacked)
    return unpacked


def expect_refusal(source: Path | str, target: Path, error: type[GptOssError], match: str, **options: Any) -> None:
    """Expects an error of one line, no target and no remains."""
    before = {path.name for path in target.parent.iterdir()} if target.parent.is_dir() else set()
    with pytest.raises(error, match=match) as caught:
        convert_checkpoint(source, target, **({"dense": "bf16"} | options))
    assert "\n" not in str(caught.value)
    if target.parent.is_dir():
        assert {path.name for path in target.parent.iterdir()} == before
