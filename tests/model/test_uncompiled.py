"""Where nothing is compiled, rotation and norm take fewer operations than ``mx.fast``'s, and compute the same."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.layers import RMSNorm
from gptoss_mlx.model.rope import Rotary
from tests.checkpoints import random_config

CONFIG = ModelConfig.from_dict(random_config())


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("offset", "length"), [(0, 1), (100_000, 1), (0, 300), (131_000, 50)])
def test_rotations_are_those_of_mlx(dtype: mx.Dtype, offset: int, length: int) -> None:
    heads = mx.random.normal((2, 3, length, CONFIG.head_dim), key=mx.random.key(3)).astype(dtype)

    def rotated(compiled: bool) -> mx.array:
        rotary = Rotary(CONFIG, compiled)
        return rotary(heads, rotary.angles(mx.array(offset), length))

    fused, composed = rotated(True), rotated(False)
    assert composed.dtype == dtype
    assert mx.allclose(composed, fused, rtol=0, atol=1e-6 if dtype == mx.float32 else 0.03)


def test_rows_are_rotated_by_positions_of_their_own() -> None:
    heads = mx.random.normal((3, 4, 1, CONFIG.head_dim), key=mx.random.key(3))
    rotary = Rotary(CONFIG, compiled=False)
    positions = [5, 70_000, 0]
    together = rotary(heads, rotary.angles(mx.array(positions), 1))
    for row, position in enumerate(positions):
        alone = rotary(heads[row : row + 1], rotary.angles(mx.array(position), 1))
        assert mx.array_equal(together[row : row + 1], alone)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("rows", [1, 7])
def test_norms_are_those_of_mlx(dtype: mx.Dtype, size: float, rows: int) -> None:
    keys = mx.random.split(mx.random.key(3))
    x = (size * mx.random.normal((rows, CONFIG.hidden_size), key=keys[0])).astype(dtype)
    weight = mx.random.normal((CONFIG.hidden_size,), key=keys[1]).astype(dtype)

    def normed(compiled: bool) -> mx.array:
        norm = RMSNorm(CONFIG, compiled)
        norm.weight = weight
        return norm(x)

    fused, composed = normed(True), normed(False)
    assert composed.dtype == dtype
    assert mx.allclose(composed, fused, rtol=1e-5 if dtype == mx.float32 else 0.01, atol=1e-6)


def test_they_take_few_operations(tmp_path: Path) -> None:
    def operations(result: mx.array) -> int:
        path = tmp_path / "graph.dot"
        mx.export_to_dot(str(path), result)
        return path.read_text().count("shape=rectangle")

    rotary, norm = Rotary(CONFIG, compiled=False), RMSNorm(CONFIG, compiled=False)
    heads, row = mx.ones((1, 4, 1, CONFIG.head_dim)), mx.ones((1, CONFIG.hidden_size))
    angles = rotary.angles(mx.array(5), 1)
    mx.eval(heads, row, angles, norm.weight)
    assert operations(rotary(heads, angles)) <= 8
    assert operations(norm(row)) <= 7
