"""Writes the trained demo model in the layout of ``openai/gpt-oss-20b`` on Hugging Face.

Dense tensors are bfloat16; experts are MXFP4 blocks and scales. Packing loses nothing, because training rounded
the experts to MXFP4 at every step. Needs torch (the `parity` extra).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptoss_mlx.tokenizer import Tokenizer

from .torch_model import GROUP, mxfp4_scale, round_mxfp4
from .vocabulary import demo_ranks, read_ranks, tokenizer_files

__all__ = ["export_checkpoint", "model_config", "pack_mxfp4", "read_checkpoint"]

_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json with every field of the 20b's; only sizes differ."""
    layers = 4
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": tokenizer.special["<|return|>"],
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 4,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "pad_token_id": tokenizer.special["<|endoftext|>"],
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": tokenizer.size,
    }


_QUANTIZATION = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
    "quant_method": "mxfp4",
}


def pack_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Packs (E, in, out), rounded to MXFP4, into blocks (E, out, in / 32, 16) and scales (E, out, in / 32)."""
    experts, inputs, outputs = weight.shape
    groups = weight.transpose(1, 2).reshape(experts, outputs, inputs // GROUP, GROUP).float()
    exponent = mxfp4_scale(groups)
    scaled = groups * torch.exp2(-exponent).unsqueeze(-1)
    codes = torch.searchsorted(_VALUES, scaled.abs().contiguous())
    if not torch.equal(_VALUES[codes.clamp(max=7)], scaled.abs()):
        raise ValueError("the weight is not rounded to MXFP4")
    codes = (codes + 8 * (scaled < 0)).to(torch.uint8)
    blocks = codes[..., ::2] | (codes[..., 1::2] << 4)  # the low nibble comes first
    return blocks.contiguous(), (exponent + 127).to(torch.uint8)


def _unpack_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """The inverse of `pack_mxfp4`."""
    codes = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()  # (E, out, in / 32, 32)
    values = torch.cat((_VALUES, -_VALUES))[codes] * torch.exp2(scales.float() - 127).unsqueeze(-1)
    return values.flatten(2).transpose(1, 2).contiguous()


def read_checkpoint(directory: Path) -> dict[str, Tensor]:
    """The weights of an exported checkpoint under the names of the model in torch, in float32."""
    tensors = load_file(directory / "model.safetensors")
    weights = {
        name.removesuffix("_blocks"): _unpack_mxfp4(tensor, tensors[name.replace("_blocks", "_scales")])
        for name, tensor in tensors.items()
        if name.endswith("_blocks")
    }
    dense = {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
    return weights | dense


def checkpoint_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the checkpoint by its name on Hugging Face."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = pack_mxfp4(round_mxfp4(parameter))
        else:
            tensors[name] = parameter.to(torch.bfloat16, copy=True).contiguous()
    return tensors


def export_checkpoint(model: nn.Module, tokenizer: Tokenizer, vocabulary: str | Path, directory: Path) -> None:
    """Writes all files of the checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / "model.safetensors"
    save_file(checkpoint_tensors(model), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # save_file lets only its owner read it
    config = model_config(tokenizer) | {"quantization_config": _QUANTIZATION}
    special = tokenizer.special
    generation = {
        "bos_token_id": special["<|startoftext|>"],
        "do_sample": True,
        "eos_token_id": [special[name] for name in ("<|return|>", "<|endoftext|>", "<|call|>")],
        "pad_token_id": special["<|endoftext|>"],
        "transformers_version": "4.55.0.dev0",
    }
    ranks = demo_ranks(read_ranks(vocabulary), tokenizer.size - len(special))
    files = tokenizer_files(ranks, dict(special))
    files["config.json"] = json.dumps(dict(sorted(config.items())), indent=2) + "\n"
    files["generation_config.json"] = json.dumps(generation, indent=2) + "\n"
    for name, content in files.items():
        (directory / name).write_text(content, encoding="utf-8")
