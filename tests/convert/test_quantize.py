"""The arithmetic of a conversion."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.convert.quantize import affine_quantise


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [0, 1e-30, 1e-9, 1e-3, 1, 1e30])
def test_quantising_makes_the_bytes_that_mlx_makes(bits: int, size: float) -> None:
    numbers = np.random.default_rng(6).standard_normal((300, 640)) * size
    numbers[0], numbers[1], numbers[2], numbers[3, 7] = 0, np.abs(numbers[1]), 1.5 * size, -9 * size
    values = mx.array(numbers.astype(np.float32)).astype(mx.bfloat16)
    block = np.asarray(values.view(mx.uint16)).view(np.uint8)
    expected = mx.quantize(values, group_size=64, bits=bits)
    for made, side in zip(affine_quantise(block, bits, 64), expected, strict=True):
        assert np.array_equal(made, np.asarray(side.view(mx.uint8)))
