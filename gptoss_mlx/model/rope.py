"""Rotary positions with YaRN frequencies, exactly as gpt-oss was trained with them.

Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023, arXiv:2309.00071,
section 3.2: fast-turning dimensions keep their frequency, slow ones are divided by the factor, and a linear
ramp lies between. gpt-oss does not round the ramp's ends (``truncate: false``).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import mlx.core as mx

from ..config import ModelConfig, RopeConfig

__all__ = ["Angles", "Rotary", "yarn_concentration", "yarn_wavelengths"]

Angles: TypeAlias = tuple[mx.array, ...]
"""Where the new positions of a step are, as :class:`Rotary` takes it."""


class Rotary:
    """Rotates queries and keys by their positions (Su et al., "RoFormer", 2021, arXiv:2104.09864).

    ``mx.fast.rope`` is one kernel on a GPU and 27 operations on a CPU. Where nothing is compiled, the angles are
    computed once for all layers, and 8 operations of each layer are left.

    Args:
        config: has the head dim D and the YaRN parameters.
        compiled: whether MLX compiles.
    """

    def __init__(self, config: ModelConfig, compiled: bool) -> None:
        self._head_dim = config.head_dim
        self._wavelengths = yarn_wavelengths(config.head_dim, config.rope)
        self._frequencies = 1 / self._wavelengths
        self._compiled = compiled
        mx.eval(self._wavelengths, self._frequencies)

    def angles(self, offset: mx.array, length: int) -> Angles:
        """The angles of L new positions.

        Args:
            offset: the first of them: [], or [B] where rows have positions of their own.
            length: L.

        Returns:
            The offset where MLX compiles, else cosines and signed sines, [L, D] or [B, 1, L, D] in float32.
        """
        if self._compiled:
            return (offset,)
        positions = offset[..., None] + mx.arange(length)
        angles = positions[..., None].astype(mx.float32) * self._frequencies
        cos, sin = mx.cos(angles), mx.sin(angles)
        both = mx.concatenate([cos, cos], axis=-1), mx.concatenate([-sin, sin], axis=-1)
        return both if offset.ndim == 0 else tuple(part[:, None] for part in both)

    def __call__(self, heads: mx.array, angles: Angles) -> mx.array:
        """Rotates pairs of values that are D / 2 apart.

        Args:
            heads: [B, heads, L, D].
            angles: from :meth:`angles`, for the same L.

        Returns:
            The same shape and dtype.
        """
        if self._compiled:
            return mx.fast.rope(
                heads,
                self._head_dim,
                traditional=False,
                base=None,
                scale=1.0,
                offset=angles[0],
                freqs=self._wavelengths,
            )
        cos, sin = angles
        half = self._head_dim // 2
        swapped = mx.concatenate([heads[..., half:], heads[..., :half]], axis=-1)
        return (heads * cos + swapped * sin).astype(heads.dtype)


def yarn_wavelengths(head_dim: int, rope: RopeConfig) -> mx.array:
    """The argument of ``mx.fast.rope(freqs=)``: the reciprocal of each pair's angle per position.

    Args:
        head_dim: D, even.
        rope: the YaRN parameters.

    Returns:
        float32, shape [D / 2].
    """
    low, high = _correction_range(head_dim, rope)
    wavelengths = []
    for pair in range(head_dim // 2):
        frequency = rope.theta ** (-2 * pair / head_dim)
        ramp = min(max((pair - low) / (high - low), 0.0), 1.0)
        frequency = frequency * (1 - ramp) + frequency / rope.factor * ramp
        wavelengths.append(1 / frequency)
    return mx.array(wavelengths, dtype=mx.float32)


def yarn_concentration(rope: RopeConfig) -> float:
    """The factor on queries and keys that keeps attention sharp over a longer context (section 3.4)."""
    return 0.1 * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0


def _correction_range(head_dim: int, rope: RopeConfig) -> tuple[float, float]:
    """The pairs that make ``beta_fast`` and ``beta_slow`` turns over the original context."""

    def pair_with(turns: float) -> float:
        wavelength = rope.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high
