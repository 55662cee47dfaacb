"""Keys and values in 8 bits.

B batch, K key-value heads, S positions, D head dim, G = D / group size.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

__all__ = ["KV_BITS", "QuantizedStates", "group_size_of", "quantized_bytes"]

KV_BITS = 8


@dataclass(frozen=True, slots=True)
class QuantizedStates:
    """Keys or values of S positions, affine-quantised along D: code · scale + bias.

    Scales and biases are float32: rounded to bfloat16 they would cost as much precision as the codes do.
    """

    codes: mx.array
    """uint32 [B, K, S, D / 4]."""
    scales: mx.array
    """[B, K, S, G]."""
    biases: mx.array
    """[B, K, S, G]."""

    @classmethod
    def of(cls, states: mx.array) -> QuantizedStates:
        """Quantises [B, K, S, D]."""
        group_size = group_size_of(states.shape[-1])
        assert group_size is not None
        return cls(*mx.quantize(states.astype(mx.float32), group_size=group_size, bits=KV_BITS))

    @property
    def parts(self) -> tuple[mx.array, mx.array, mx.array]:
        """Its arrays."""
        return self.codes, self.scales, self.biases

    @property
    def group_size(self) -> int:
        """Values that share a scale."""
        return self.codes.shape[-1] * (32 // KV_BITS) // self.scales.shape[-1]

    def dequantized(self, dtype: mx.Dtype) -> mx.array:
        """[B, K, S, D]."""
        return mx.dequantize(*self.parts, group_size=self.group_size, bits=KV_BITS).astype(dtype)


def group_size_of(head_dim: int) -> int | None:
    """Values that share a scale: 64 if it divides the head, else 32; None if neither does."""
    return next((size for size in (64, 32) if head_dim % size == 0), None)


def quantized_bytes(values: int, head_dim: int) -> int:
    """Bytes of that many values: their codes, and for each group a scale and a bias of four bytes."""
    return values + 8 * values // (group_size_of(head_dim) or head_dim)
