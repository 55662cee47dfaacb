"""Sizes and limits, against the published figures of the two models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptoss_mlx.config import (
    GPT_OSS_20B,
    GPT_OSS_120B,
    RELEASED,
    ModelConfig,
    Quantization,
    precision_of,
    quantization_for,
    with_precision,
)
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.sizes import (
    bytes_per_token,
    cache_bytes,
    choose_precision,
    fit,
    parameter_count,
    tokens_per_second_limit,
    weight_bytes,
)
from tests.checkpoints import random_config


def _mac(gigabytes: int, share: float) -> DeviceInfo:
    memory = gigabytes * 2**30
    return DeviceInfo(name="Mac", memory_bytes=memory, gpu_bytes=int(memory * share), is_mac=True)


SMALL_MAC, LARGE_MAC = _mac(16, 2 / 3), _mac(64, 3 / 4)


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


def test_a_large_mac_takes_q8() -> None:
    choice = choose_precision(GPT_OSS_20B, LARGE_MAC)
    assert choice.precision == "q8"
    assert choice.fit.fits
    assert choice.fit.remedy is None


def test_a_small_mac_takes_q4_and_is_told_what_would_lift_it() -> None:
    choice = choose_precision(GPT_OSS_20B, SMALL_MAC)
    assert choice.precision == "q4"
    assert choice.fit.fits
    assert "sudo sysctl iogpu.wired_limit_mb=11776" in choice.reason
    assert "\n" not in choice.reason


def test_what_can_never_fit_has_no_remedy() -> None:
    result = fit(GPT_OSS_120B, SMALL_MAC)
    assert not result.fits
    assert result.remedy is None
    assert "does not fit either" in choose_precision(GPT_OSS_120B, SMALL_MAC).reason


def test_the_remedy_is_enough_and_only_for_macs() -> None:
    result = fit(GPT_OSS_20B, SMALL_MAC, precision="q8")
    assert result.remedy is not None
    megabytes = int(result.remedy.rpartition("=")[2])
    assert result.needed_bytes <= megabytes * 2**20 < SMALL_MAC.memory_bytes
    linux = DeviceInfo(name="PC", memory_bytes=SMALL_MAC.memory_bytes, gpu_bytes=SMALL_MAC.gpu_bytes)
    assert fit(GPT_OSS_20B, linux, precision="q8").remedy is None


def test_groups_are_32_where_a_width_has_no_factor_64() -> None:
    config = ModelConfig.from_dict(random_config(hidden_size=96))
    assert quantization_for(config, "q4") == Quantization(bits=4, group_size=32)
    assert quantization_for(GPT_OSS_20B, "q8") == Quantization(bits=8, group_size=64)
    assert precision_of(with_precision(config, "q4")) == "q4"
    assert precision_of(config) == "bf16"


def test_arguments_out_of_range_are_named() -> None:
    with pytest.raises(InvalidRequest, match="context is 0"):
        fit(GPT_OSS_20B, LARGE_MAC, context=0)
    with pytest.raises(InvalidRequest, match="dense is 'q5'"):
        fit(GPT_OSS_20B, LARGE_MAC, precision="q5")  # type: ignore[arg-type]


def test_the_current_device_is_described() -> None:
    device = DeviceInfo.current()
    assert 0 < device.gpu_bytes <= device.memory_bytes
    assert device.name


def test_known_configs_equal_the_released_files(tmp_path: Path) -> None:
    released = {
        "head_dim": 64,
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "intermediate_size": 2880,
        "num_attention_heads": 64,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "sliding_window": 128,
        "vocab_size": 201088,
    }
    (tmp_path / "config.json").write_text(json.dumps(random_config(num_hidden_layers=24) | released))
    assert ModelConfig.from_directory(tmp_path) == GPT_OSS_20B
