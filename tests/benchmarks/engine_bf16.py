"""How far bfloat16 moves the logits, beside OpenAI's own torch model.

    python -m tests.benchmarks.engine_bf16 CHECKOUT

CHECKOUT is one of https://github.com/openai/gpt-oss, of which ``gpt_oss/torch/model.py`` runs on the CPU. Fifteen
random checkpoints, with weights that bfloat16 holds exactly, as it does the released ones; 300 tokens each. The
distance is the median difference from this library's float32 logits, which are within 2e-4 of torch's.

For the first line both programs compute each expert product in float32 and round it once, as on a GPU. For the
second this library's are left to MLX's CPU backend, which rounds every partial sum to bfloat16. For the third
attention is in float32 inside too, as in MLX's kernel for a GPU.

2026-11-26, mlx 0.32.4, torch 2.13: distance over torch's, and how often the argmax is that of float32, which
torch's is in 91.2 %:

    products rounded once     median 0.86, 0.80 to 0.95    91.9 %
    products of MLX's CPU     median 1.21, 1.04 to 1.34    90.6 %
    fused as on a GPU         median 0.74, 0.65 to 0.80    92.9 %

The library computes here as it does where nothing is compiled, with rotation and norm in float32 inside. With
``mx.fast``'s norm, which a GPU has and which rounds before it multiplies with its weight, the last figure is 0.80.

The roundings that are left are MLX's own: on a CPU of the scores and weights of attention. Rounding the router's
scores and the SwiGLU's inputs changes it by 0.01. So does the one rounding of this library's own: the next output
bias is added to a block's rounded output, since one sum rounded twice is two kernels.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from gptoss_mlx.model.layers import ExpertsWeight
from gptoss_mlx.model.transformer import Transformer, load_transformer
from tests.checkpoints import SHAPES, random_tokens, write_random_checkpoint
from tests.model.oracle import products_rounded_once

# Those that OpenAI's model can have: sliding and full layers in turn, and a context of at least 1,024.
NAMES, SEEDS = ("small", "odd_layers", "many_heads"), range(5)

Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    """One checkpoint: our bfloat16 model, the tokens, and the logits of float32 and of torch."""

    transformer: Transformer
    tokens: list[int]
    exact: Array
    theirs: Array


def cases(peer: Any) -> Iterator[Case]:
    """The fifteen."""
    with tempfile.TemporaryDirectory() as place:
        for name in NAMES:
            for seed in SEEDS:
                directory = write_random_checkpoint(Path(place) / f"{name}-{seed}", seed, **SHAPES[name])
                file = directory / "model.safetensors"
                save_file({name: _exact_in_bfloat16(tensor) for name, tensor in load_file(file).items()}, file)
                tokens = random_tokens(name)
                transformer = load_transformer(directory, mx.float32)
                exact = logits(transformer, tokens)
                with torch.no_grad():
                    model = _peer_model(peer, transformer)
                    theirs = model(torch.tensor(tokens)).float().numpy()
                    difference = np.abs(model.float()(torch.tensor(tokens)).numpy() - exact).max()
                assert difference <= 2e-4, f"{name}-{seed}: {difference:.1e} from OpenAI's in float32"
                yield Case(load_transformer(directory, mx.bfloat16), tokens, exact, theirs)


def logits(transformer: Transformer, tokens: list[int]) -> Array:
    """[L, V], in float32."""
    return np.array(transformer(mx.array([tokens]))[0].astype(mx.float32))


def report(label: str, all_cases: list[Case]) -> None:
    """One line of the table."""
    ratios, ours, theirs = [], [], []
    for case in all_cases:
        computed = logits(case.transformer, case.tokens)
        distances = [np.median(np.abs(each - case.exact)) for each in (computed, case.theirs)]
        ratios.append(float(distances[0] / distances[1]))
        best = case.exact.argmax(-1)
        ours.append(np.mean(computed.argmax(-1) == best))
        theirs.append(np.mean(case.theirs.argmax(-1) == best))
    print(
        f"{label:<24}median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        f"    argmax {np.mean(ours):.1%} (torch {np.mean(theirs):.1%})",
        flush=True,
    )


def _exact_in_bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().float() if tensor.is_floating_point() else tensor


def _tensor(array: mx.array) -> torch.Tensor:
    return torch.from_numpy(np.array(array.astype(mx.float32)))


def _peer_model(peer: Any, transformer: Transformer) -> Any:
    """OpenAI's model with our weights: the parameters are the same but for their names."""
    config = transformer.config
    model = peer.Transformer(
        peer.ModelConfig(
            **{
                name: getattr(config, name)
                for name in ("num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "swiglu_limit")
            },
            **{name: getattr(config, name) for name in ("head_dim", "num_attention_heads", "num_key_value_heads")},
            sliding_window=config.sliding_window,
            num_experts=config.num_local_experts,
            experts_per_token=config.num_experts_per_tok,
            initial_context_length=config.rope.original_max_position_embeddings,
            rope_theta=config.rope.theta,
            rope_scaling_factor=config.rope.factor,
            rope_ntk_alpha=config.rope.beta_slow,
            rope_ntk_beta=config.rope.beta_fast,
        )
    )
    sources = {
        "embedding.weight": transformer.embed_tokens.weight,
        "norm.scale": transformer.norm.weight,
        "unembedding.weight": transformer.lm_head.weight,
    }
    for n, layer in enumerate(transformer.layers):
        attention, router, experts = layer.self_attn, layer.mlp.router, layer.mlp.experts
        inner = 2 * config.intermediate_size
        sources |= {
            f"block.{n}.attn.norm.scale": layer.input_layernorm.weight,
            f"block.{n}.attn.qkv.weight": attention.qkv_proj.weight,
            f"block.{n}.attn.qkv.bias": attention.qkv_proj.bias,
            f"block.{n}.attn.out.weight": attention.o_proj.weight,
            f"block.{n}.attn.out.bias": attention.o_proj.bias,
            f"block.{n}.attn.sinks": attention.sinks,
            f"block.{n}.mlp.norm.scale": layer.post_attention_layernorm.weight,
            f"block.{n}.mlp.gate.weight": router.weight,
            f"block.{n}.mlp.gate.bias": router.bias,
            f"block.{n}.mlp.mlp1_weight": _dequantized(experts.gate_up_proj),
            f"block.{n}.mlp.mlp1_bias": experts.bias[:, :inner],
            f"block.{n}.mlp.mlp2_weight": _dequantized(experts.down_proj),
            f"block.{n}.mlp.mlp2_bias": experts.bias[:, inner:],
        }
    model.load_state_dict({name: _tensor(array) for name, array in sources.items()})
    return model


def _dequantized(weight: ExpertsWeight) -> mx.array:
    return mx.dequantize(weight.weight, weight.scales, group_size=32, bits=4, mode="mxfp4")


class _Torch:
    """torch for OpenAI's module, with expert products in float32, rounded once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def einsum(equation: str, *tensors: torch.Tensor) -> torch.Tensor:
        if equation not in ("beck,bk->bec", "beck,bek->bec"):
            return torch.einsum(equation, *tensors)
        return torch.einsum(equation, *(tensor.float() for tensor in tensors)).to(tensors[0].dtype)


@contextmanager
def fused_as_on_a_gpu() -> Iterator[None]:
    """And attention in float32 inside."""
    attention = mx.fast.scaled_dot_product_attention

    def fused(x: mx.array, *states: mx.array, sinks: mx.array, **options: Any) -> mx.array:
        wide = [array.astype(mx.float32) for array in (x, *states, sinks)]
        computed: mx.array = attention(*wide[:-1], sinks=wide[-1], **options)
        return computed.astype(x.dtype)

    with products_rounded_once(), mock.patch.object(mx.fast, "scaled_dot_product_attention", fused):
        yield


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of github.com/openai/gpt-oss")
    mx.set_default_device(mx.cpu)
    sys.path.insert(0, str(parser.parse_args().checkout))
    peer: Any = importlib.import_module("gpt_oss.torch.model")
    peer.torch = _Torch()
    all_cases = list(cases(peer))
    with products_rounded_once():
        report("products rounded once", all_cases)
    report("products of MLX's CPU", all_cases)
    with fused_as_on_a_gpu():
        report("fused as on a GPU", all_cases)


if __name__ == "__main__":
    main()
