"""The demo model in torch: transformers' GptOssForCausalLM with experts trained as MXFP4.

Two parts are replaced through transformers' registries, for speed on a CPU and with the same results: attention
(several conversations share a system message) and experts (tokens are sorted by expert; weights are rounded to
MXFP4 in the forward pass, and gradients ignore the rounding).
Needs torch and transformers (the `parity` extra).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["GROUP", "Layout", "attention_mask", "build_model", "mxfp4_scale", "round_mxfp4"]

GROUP = 32
# Fused attention prefers head dimensions that are a multiple of 8; the sink needs one more dimension.
_PADDING = 8


def mxfp4_scale(groups: Tensor) -> Tensor:
    """The exponent of each group's scale: the smallest whose range, 6 times 2 to its power, holds the group.

    Args:
        groups: (..., 32).

    Returns:
        float, (...), between -127 and 127.
    """
    largest = groups.abs().amax(-1).clamp(min=2.0**-120)
    return torch.ceil(torch.log2(largest / 6)).clamp(-127, 127)


def round_mxfp4(weight: Tensor) -> Tensor:
    """Rounds (E, in, out) to what MXFP4 can hold, in groups of 32 along the input dimension."""
    experts, inputs, outputs = weight.shape
    groups = weight.reshape(experts, inputs // GROUP, GROUP, outputs).transpose(2, 3)  # (E, G, out, 32)
    scale = torch.exp2(mxfp4_scale(groups)).unsqueeze(-1)
    scaled = groups / scale
    size = scaled.abs()
    step = 0.5 * (1 + (size >= 2).float() + 2 * (size >= 4).float())
    rounded = torch.round(scaled / step) * step * scale
    return rounded.transpose(2, 3).reshape(experts, inputs, outputs)


def _permuted(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    permuted: Tensor = _Permute.apply(rows, order, inverse)  # type: ignore[no-untyped-call]
    return permuted


def _straight_through(weight: Tensor) -> Tensor:
    with torch.no_grad():
        correction = round_mxfp4(weight) - weight
    return weight + correction


class _Permute(torch.autograd.Function):
    """Rows in another order; the gradient is the inverse permutation, much cheaper than a scatter."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradients[0].index_select(0, inverse), None, None


def sorted_experts(experts: Any, states: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """The experts on tokens sorted by expert, weights rounded to MXFP4.

    Args:
        states: (N, H).
        indices: (N, K) the experts of each token.
        weights: (N, K).
    """
    tokens, active = indices.shape
    order = indices.reshape(-1).argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    counts = torch.bincount(indices.reshape(-1), minlength=experts.num_experts).tolist()
    repeated = states.unsqueeze(1).expand(-1, active, -1).reshape(tokens * active, -1)
    inputs = torch.split(_permuted(repeated, order, inverse), counts)
    gate_up, bias = _straight_through(experts.gate_up_proj), experts.gate_up_proj_bias
    gate_up = torch.cat((gate_up[..., ::2], gate_up[..., 1::2]), -1)
    bias = torch.cat((bias[:, ::2], bias[:, 1::2]), -1)
    down = _straight_through(experts.down_proj)
    hidden = torch.cat([torch.addmm(*each) for each in zip(bias, inputs, gate_up, strict=True)])
    gate, up = hidden.chunk(2, -1)
    gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
    activated = ((up + 1) * F.silu(experts.alpha * gate) / experts.alpha).split(counts)
    out = torch.cat([torch.addmm(*each) for each in zip(experts.down_proj_bias, activated, down, strict=True)])
    out = _permuted(out, inverse, order).view(tokens, active, -1)
    mixed: Tensor = (weights.unsqueeze(1) @ out).squeeze(1)
    return mixed


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which tokens attend to which, for one kind of layer; passed to attention in place of its mask."""

    groups: Sequence[tuple[slice, Sequence[slice]]]
    """System messages, each with its conversations, which do not attend to each other."""
    mask: Tensor
    """Additive, (position, 1 + position): the sink, which every position attends to, and then the keys."""


def attention_mask(length: int, window: int | None = None) -> Tensor:
    """The mask of a `Layout`."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = (distance >= 0) & (distance < (window or length))
    return F.pad(torch.where(seen, 0.0, torch.finfo(torch.float32).min), (1, 0))


def conversation_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Layout,
    scaling: float,
    s_aux: Tensor,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Attention of each conversation to its system message and itself, through torch's fused kernel.

    The sink is one more key, with value 0. Its logit is in an additional dimension, in which queries are 1.
    """
    _, heads, length, size = query.shape
    repeats = heads // key.shape[1]
    one = torch.tensor([1 / scaling] + [0.0] * (_PADDING - 1))
    query = torch.cat((query, one.expand(1, heads, length, _PADDING)), -1)
    sink = torch.cat((torch.zeros(heads, size), s_aux[:, None], torch.zeros(heads, _PADDING - 1)), -1)
    sink = sink[None, :, None]  # (1, heads, 1, size + padding)
    nothing = torch.zeros_like(sink)
    key = F.pad(key.repeat_interleave(repeats, 1), (0, _PADDING))
    value = F.pad(value.repeat_interleave(repeats, 1), (0, _PADDING))
    # Split at once, because the gradient of every slice is as large as the whole.
    ranges = [part for system, conversations in attention_mask.groups for part in (system, *conversations)]
    sizes = [part.stop - part.start for part in ranges]
    pieces = zip(*(torch.split(states, sizes, 2) for states in (query, key, value)), strict=True)
    parts = []
    for _, conversations in attention_mask.groups:
        asked, keys, values = next(pieces)
        shared = (torch.cat((sink, keys), 2), torch.cat((nothing, values), 2))
        first = asked.shape[2]
        mask = attention_mask.mask[:first, : first + 1]
        parts.append(F.scaled_dot_product_attention(asked, *shared, attn_mask=mask, scale=scaling))
        for _ in conversations:
            asked, keys, values = next(pieces)
            last = first + asked.shape[2]
            both = (torch.cat((shared[0], keys), 2), torch.cat((shared[1], values), 2))
            mask = attention_mask.mask[first:last, : last + 1]
            parts.append(F.scaled_dot_product_attention(asked, *both, attn_mask=mask, scale=scaling))
    return torch.cat(parts, 2)[..., :size].transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("conversations", conversation_attention)
ALL_EXPERTS_FUNCTIONS.register("sorted_mxfp4", sorted_experts)


def _look_back(model: GptOssForCausalLM, rope_theta: float) -> None:
    """Sets biases such that the first layer's first heads begin by attending to one and two tokens back.

    Copying needs such a head below the one that finds the place to copy from; neither is useful without the
    other, so that from random weights both are learnt late. Scores are the sum of cos(w (distance - 1)) over
    the fastest rotations.
    """
    attention, size = model.model.layers[0].self_attn, model.config.head_dim
    fast = 8
    rotations = torch.pow(rope_theta, -torch.arange(fast) * 2 / size)
    strength = 4.0
    with torch.no_grad():
        attention.k_proj.bias[:fast] = strength
        repeats = model.config.num_attention_heads // model.config.num_key_value_heads
        for head in range(repeats):
            angle = -(head + 1) * rotations
            attention.q_proj.bias[head * size :][:fast] = strength * torch.cos(angle)
            attention.q_proj.bias[head * size + size // 2 :][:fast] = strength * torch.sin(angle)


def build_model(config: dict[str, Any]) -> GptOssForCausalLM:
    """A new model with random weights, scaled to this width instead of the 2880 of the 20b."""
    model: GptOssForCausalLM = GptOssForCausalLM(GptOssConfig(**config))
    model.set_attn_implementation("conversations")
    # Not through set_experts_implementation, which accepts only transformers' own.
    model.config._experts_implementation_internal = "sorted_mxfp4"
    width = model.config.hidden_size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or name.endswith("_bias"):
                continue
            deviation = 0.5 * width**-0.5
            if name.endswith(("o_proj.weight", "down_proj")):
                deviation /= (2 * model.config.num_hidden_layers) ** 0.5
            parameter.normal_(0, deviation)
    _look_back(model, config["rope_theta"])
    # One matrix in training, two tensors in the checkpoint: copying is then the same for every word, however rare,
    # and is learnt many times sooner.
    model.lm_head.weight = model.model.embed_tokens.weight
    model.train()
    return model
