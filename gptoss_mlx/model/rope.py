"""YaRN rotary frequencies, exactly as gpt-oss was trained with them.

Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023, arXiv:2309.00071,
section 3.2: fast-turning dimensions keep their frequency, slow ones are divided by the factor, and a linear
ramp lies between. gpt-oss does not round the ramp's ends (``truncate: false``).
"""

from __future__ import annotations

import math

import mlx.core as mx

from ..config import RopeConfig

__all__ = ["yarn_concentration", "yarn_wavelengths"]


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
