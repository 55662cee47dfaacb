"""The layers with a weight: dense, embedding, norm, and the MXFP4 weights of all experts.

Parameters have the names of a checkpoint in the MLX layout. They are placeholders that are never evaluated:
``load_weights`` replaces them.
"""

from __future__ import annotations

import mlx.core as mx
from mlx.nn.layers.base import Module

from ..config import MXFP4_GROUP_SIZE, ModelConfig, Quantization

__all__ = ["Dense", "Embedding", "MXFP4Weight", "RMSNorm"]


class Dense(Module):
    """A linear layer, in floating point or affine-quantised.

    Args:
        height, width: of the weight.
        bias: whether it has one.
        quantization: of the weight; None for floating point.
    """

    def __init__(self, height: int, width: int, *, bias: bool, quantization: Quantization | None) -> None:
        super().__init__()
        self._quantization = quantization
        if quantization is None:
            self.weight = mx.zeros((height, width))
        else:
            bits, group_size = quantization.bits, quantization.group_size
            self.weight = mx.zeros((height, width * bits // 32), dtype=mx.uint32)
            self.scales = mx.zeros((height, width // group_size))
            self.biases = mx.zeros((height, width // group_size))
        if bias:
            self.bias = mx.zeros((height,))

    def product(self, x: mx.array) -> mx.array:
        """x @ weight.T, without the bias: [..., width] -> [..., height]."""
        quantization = self._quantization
        if quantization is None:
            return x @ self.weight.T
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases, group_size=quantization.group_size, bits=quantization.bits
        )

    def __call__(self, x: mx.array, addend: mx.array | None = None) -> mx.array:
        """x @ weight.T + addend, which is the bias unless the caller has already added it to something."""
        addend = self.bias if addend is None else addend
        if self._quantization is None:
            return mx.addmm(addend, x, self.weight.T)
        return self.product(x) + addend


class Embedding(Dense):
    """Maps a token id to a row of the weight, which has all of the vocabulary or ``height`` rows of it."""

    def __init__(self, config: ModelConfig, height: int) -> None:
        super().__init__(height, config.hidden_size, bias=False, quantization=config.quantization)

    def rows(self, tokens: mx.array) -> mx.array:
        """[...] -> [..., H]."""
        quantization = self._quantization
        if quantization is None:
            return self.weight[tokens]
        return mx.dequantize(
            self.weight[tokens],
            self.scales[tokens],
            self.biases[tokens],
            group_size=quantization.group_size,
            bits=quantization.bits,
        )


class RMSNorm(Module):
    """Root mean square norm, in float32 inside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = mx.ones((config.hidden_size,))
        self._eps = config.rms_norm_eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self._eps)


class MXFP4Weight(Module):
    """The weight of one product of all experts: 4-bit values, one shared exponent for 32 of them."""

    def __init__(self, experts: int, height: int, width: int) -> None:
        super().__init__()
        self.weight = mx.zeros((experts, height, width // 8), dtype=mx.uint32)
        self.scales = mx.zeros((experts, height, width // MXFP4_GROUP_SIZE), dtype=mx.uint8)

    def __call__(self, x: mx.array, experts: mx.array, rows: mx.array | None = None) -> mx.array:
        """Multiplies rows of x with the transposed weight of their expert.

        Args:
            x: [N, 1, width].
            experts: [...], the expert of each result; sorted if ``rows`` is not given.
            rows: [...], the row of x for each result; by default row n for result n.

        Returns:
            [..., 1, height].
        """
        return mx.gather_qmm(
            x,
            self.weight,
            self.scales,
            lhs_indices=rows,
            rhs_indices=experts,
            group_size=MXFP4_GROUP_SIZE,
            bits=4,
            mode="mxfp4",
            sorted_indices=rows is None,
        )
