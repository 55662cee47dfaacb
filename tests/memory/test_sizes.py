"""Sizes and limits, against the published figures of the two models."""

from __future__ import annotations

import pytest

from gptoss_mlx.config import GPT_OSS_20B, GPT_OSS_120B, RELEASED, ModelConfig
from gptoss_mlx.memory.sizes import (
    bytes_per_token,
    cache_bytes,
    parameter_count,
    tokens_per_second_limit,
    weight_bytes,
)


def test_parameter_counts_are_the_published_ones() -> None:
    assert parameter_count(GPT_OSS_20B) == 20_914_757_184
    assert parameter_count(GPT_OSS_120B) == 116_829_156_672


def test_bf16_bytes_are_those_of_the_released_checkpoints() -> None:
    assert weight_bytes(GPT_OSS_20B, "bf16") == 13_761_264_768
    assert weight_bytes(GPT_OSS_120B, "bf16") == 65_248_815_744


def test_quantised_sizes() -> None:
    assert weight_bytes(GPT_OSS_20B, "q8") == 12_078_192_768
    assert weight_bytes(GPT_OSS_20B, "q4") == 11_180_554_368


@pytest.mark.parametrize(
    ("name", "precision", "gigabytes"),
    [("20b", "bf16", 3.71), ("20b", "q8", 2.57), ("120b", "bf16", 5.00), ("120b", "q8", 3.56)],
)
def test_bytes_read_per_token(name: str, precision: str, gigabytes: float) -> None:
    assert round(bytes_per_token(RELEASED[name], precision) / 1e9, 2) == gigabytes  # type: ignore[arg-type]


@pytest.mark.parametrize(("config", "position"), [(GPT_OSS_20B, 24_576), (GPT_OSS_120B, 36_864)])
def test_only_full_layers_grow_beyond_the_window(config: ModelConfig, position: int) -> None:
    assert cache_bytes(config, 5001) - cache_bytes(config, 5000) == position
    assert cache_bytes(config, 101) - cache_bytes(config, 100) == 2 * position  # as many layers slide
    assert bytes_per_token(config, context=5001) - bytes_per_token(config, context=5000) == position


def test_bandwidth_limit_is_bandwidth_over_bytes() -> None:
    assert tokens_per_second_limit(GPT_OSS_20B, 400e9, "q8") == pytest.approx(155.8, abs=0.1)
