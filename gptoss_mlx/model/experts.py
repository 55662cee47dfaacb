"""The mixture of experts of a layer.

Shapes: N rows, H hidden, E experts, T active experts per token, I expert intermediate.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from ..config import ModelConfig
from .layers import Dense, ExpertsWeight
from .peers import Total

__all__ = ["MoE"]

# OpenAI's constant in gate · sigmoid(1.702 · gate), the sigmoid form of GELU.
_SWIGLU_ALPHA = 1.702


def _fused(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    """Elementwise operations as one kernel for all lengths, where they are compiled."""
    return mx.compile(function, shapeless=True) if compiled else function


def swiglu(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """gate · sigmoid(1.702 · gate) · (up + 1), up clamped below; both are clamped above already."""
    return gate * mx.sigmoid(_SWIGLU_ALPHA * gate) * (mx.maximum(up, -limit) + 1)


def biased_swiglu(gate: mx.array, gate_bias: mx.array, up: mx.array, up_bias: mx.array, limit: float) -> mx.array:
    """:func:`swiglu` of gate and up with their biases, clamped above; in float32 inside."""
    gate32 = mx.minimum(gate.astype(mx.float32) + gate_bias, limit)
    up32 = mx.minimum(up.astype(mx.float32) + up_bias, limit)
    return swiglu(gate32, up32, limit).astype(gate.dtype)


class Experts(Module):
    """All experts of a layer: two products over the rows that the router chose."""

    def __init__(self, config: ModelConfig, name: str, compiled: bool) -> None:
        super().__init__()
        E, H, I = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate_up_proj = ExpertsWeight((E, 2 * I, H), config.form(f"{name}.gate_up_proj"))
        self.down_proj = ExpertsWeight((E, H, I), config.form(f"{name}.down_proj"))
        self.bias = mx.zeros((E, 2 * I + H))
        self._intermediate_size = I
        self._limit = config.swiglu_limit
        self._swiglu = _fused(biased_swiglu, compiled)
        # For one token: its row serves T experts, whose T rows serve one each. Made once, not every step.
        self._one_row = mx.zeros((1, config.num_experts_per_tok), dtype=mx.uint32)
        self._own_rows = mx.arange(config.num_experts_per_tok, dtype=mx.uint32)[None]
        # Where the biases of T experts end, one after another: gate and up, down, gate and up, ...
        self._ends = list(accumulate((2 * I, H) * config.num_experts_per_tok))[:-1]
        mx.eval(self._one_row, self._own_rows)

    def __call__(self, x: mx.array, experts: mx.array) -> tuple[list[mx.array], list[mx.array]]:
        """The output of each token's experts, before the down bias.

        Args:
            x: [N, H].
            experts: [N, T], their numbers.

        Returns:
            T outputs and their T down biases, [N, H] each.
        """
        N, T = experts.shape
        products = self._sorted if sorting_pays(N * T, self.bias.shape[0]) else self._in_place
        down, bias = products(x, experts)
        # One operation makes the views of all experts; every second part of the biases is a down bias.
        outputs = mx.split(down.reshape(N, -1), T, axis=1)
        return list(outputs), list(mx.split(bias.reshape(N, -1), self._ends, axis=1))[1::2]

    def with_biases(self, x: mx.array, experts: mx.array) -> mx.array:
        """The outputs of each token's experts with their down biases: [N, T, H] in float32, for [N, H] and [N, T].

        The rows are in the order of the tokens.
        """
        N, T = experts.shape
        width = 2 * self._intermediate_size
        one, own = self._rows(N, T)
        bias = self.bias[experts]  # [N, T, 2I + H]
        hidden = self.gate_up_proj(x[:, None], experts, rows=one).reshape(N, T, width)
        hidden = mx.minimum(hidden.astype(mx.float32) + bias[..., :width], self._limit)
        activated = swiglu(hidden[..., ::2], hidden[..., 1::2], self._limit).astype(x.dtype)
        down = self.down_proj(activated.reshape(N * T, 1, -1), experts, rows=own)  # [N, T, 1, H]
        return down.reshape(N, T, -1).astype(mx.float32) + bias[..., width:]

    def _rows(self, tokens: int, active: int) -> tuple[mx.array, mx.array]:
        """For each of N · T products in the order of the tokens, the number of its token and its own: [N, T]."""
        if tokens == 1:
            return self._one_row, self._own_rows
        own = mx.arange(tokens * active, dtype=mx.uint32).reshape(tokens, active)
        return own // active, own

    def _in_place(self, x: mx.array, experts: mx.array) -> tuple[mx.array, mx.array]:
        """Both products, the rows in the order of the tokens.

        Returns:
            N · T rows of H, and N · T of both biases, 2I + H.
        """
        one, own = self._rows(*experts.shape)
        bias = self.bias[experts]
        hidden = self.gate_up_proj(x[:, None], experts, rows=one)  # [N, T, 1, 2I]
        down = self.down_proj(self._activate(hidden, bias), experts, rows=own)  # [N, T, 1, H]
        return down, bias

    def _sorted(self, x: mx.array, experts: mx.array) -> tuple[mx.array, mx.array]:
        """The same, computed with the rows of each expert next to each other."""
        T = experts.shape[1]
        experts = experts.flatten()
        order = mx.argsort(experts)
        chosen = experts[order]
        bias = self.bias[chosen]  # [N · T, 2I + H]
        # The new axis comes before the gather: after it, it would have a stride of one, which MLX's ``gather_mm``
        # on CUDA takes for the distance between two rows.
        hidden = self.gate_up_proj(x[:, None][order // T], chosen)  # [N · T, 1, 2I]
        down = self.down_proj(self._activate(hidden, bias), chosen)  # [N · T, 1, H]
        place = mx.argsort(order)
        return down[place], bias[place]

    def _activate(self, hidden: mx.array, bias: mx.array) -> mx.array:
        """[..., 1, 2I] -> [..., 1, I]; even rows are gate, odd rows up."""
        width = 2 * self._intermediate_size
        bias = bias[..., None, :]
        activated: mx.array = self._swiglu(
            hidden[..., ::2],
            bias[..., 0:width:2],
            hidden[..., 1::2],
            bias[..., 1:width:2],
            self._limit,
        )
        return activated


def sorting_pays(indices: int, experts: int) -> bool:
    """Whether rows are sorted by their expert before the products.

    Sorted rows that share an expert read its weights one after another; from 4 rows an expert on (16 at least)
    MLX multiplies them in tiles and reads the weights once (``GatherQMM::eval_gpu``: ``gather_qmm_rhs``). Sorting
    costs a few small kernels, so it must save reads: of n rows, n² / 2E are expected to share an expert with an
    earlier one. Two are enough: that is from 3 tokens on for 32 experts, from 6 on for 128. On a CPU MLX reads the
    weights again for each row, in any order.
    """
    return mx.default_device() != mx.cpu and indices**2 >= 4 * experts


def _weighted_sum(weights: list[mx.array], outputs: list[mx.array], biases: list[mx.array]) -> mx.array:
    # Unrolled over the experts, so that it compiles into one kernel; a sum over an axis would be another kernel.
    # Added in pairs, because the compiler fuses to a depth of 11.
    terms = [
        weight.astype(mx.float32) * (output.astype(mx.float32) + bias.astype(mx.float32))
        for weight, output, bias in zip(weights, outputs, biases, strict=True)
    ]
    while len(terms) > 1:
        terms = [sum(terms[n + 1 : n + 2], terms[n]) for n in range(0, len(terms), 2)]
    return terms[0]


def mix(weights: list[mx.array], outputs: list[mx.array], biases: list[mx.array]) -> mx.array:
    """Σ weight · (output + bias), in float32 inside."""
    return _weighted_sum(weights, outputs, biases).astype(outputs[0].dtype)


def combine(
    residual: mx.array, weights: list[mx.array], outputs: list[mx.array], biases: list[mx.array]
) -> mx.array:
    """residual + Σ weight · (output + bias), in float32 inside."""
    total = residual.astype(mx.float32) + _weighted_sum(weights, outputs, biases)
    return total.astype(residual.dtype)


def combine_twice(
    residual: mx.array,
    weights: list[mx.array],
    outputs: list[mx.array],
    biases: list[mx.array],
    next_bias: mx.array,
) -> tuple[mx.array, mx.array]:
    """:func:`combine`, and that plus the next layer's output bias."""
    # The bias is added to the rounded sum: were both rounded from one sum, they would be two kernels.
    total = combine(residual, weights, outputs, biases)
    return total, total + next_bias


class MoE(Module):
    """Mixture of experts: the router's best T, weighted by the softmax over those T."""

    def __init__(self, config: ModelConfig, name: str, compiled: bool, total: Total | None = None) -> None:
        super().__init__()
        router = config.form(f"{name}.router")
        self.router = Dense(config.num_local_experts, config.hidden_size, bias=True, quantization=router)
        self.experts = Experts(config, f"{name}.experts", compiled)
        self._active = config.num_experts_per_tok
        self._combine, self._combine_twice = _fused(combine, compiled), _fused(combine_twice, compiled)
        self._mix, self._total = _fused(mix, compiled), total
        self._compiled = compiled

    def __call__(self, x: mx.array, residual: mx.array, next_bias: mx.array | None) -> tuple[mx.array, mx.array]:
        """Adds the mixture to the residual.

        Args:
            x: [N, H], normed.
            residual: [N, H].
            next_bias: [H], the output bias of the next layer's attention; None after the last.

        Returns:
            The sum, and the sum with ``next_bias`` in it (without one, the same again): [N, H] each.
        """
        T = self._active
        scores = self.router(x)  # [N, E]
        experts = mx.argpartition(scores, kth=-T, axis=-1)[:, -T:]  # [N, T]
        weights = mx.softmax(mx.take_along_axis(scores, experts, axis=-1), axis=-1, precise=True)
        if not self._compiled and self._total is None and not sorting_pays(experts.size, scores.shape[1]):
            # Where nothing is compiled, one product costs less than the parts of a sum.
            outputs = self.experts.with_biases(x, experts)  # [N, T, H]
            mixed = mx.addmm(residual[:, None].astype(mx.float32), weights[:, None].astype(mx.float32), outputs)
            x = mixed[:, 0].astype(residual.dtype)
            return x, x if next_bias is None else x + next_bias
        parts = list(mx.split(weights, T, axis=1)), *self.experts(x, experts)
        if self._total is not None:
            x = residual + self._total(self._mix(*parts))
            return x, x if next_bias is None else x + next_bias
        if next_bias is None:
            total: mx.array = self._combine(residual, *parts)
            return total, total
        # Returned unchanged: if one of the two were reshaped here, MLX would not fuse them.
        both: tuple[mx.array, mx.array] = self._combine_twice(residual, *parts, next_bias)
        return both
