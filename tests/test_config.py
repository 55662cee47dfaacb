"""config.json: every value checked, every error names its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.config import GPT_OSS_20B, ModelConfig, precision_of, quantization_for, with_precision
from gptoss_mlx.errors import CheckpointError, ConfigError, InvalidRequest
from gptoss_mlx.quantization import Quantization
from tests.checkpoints import SHAPES, random_config

NUMBERS = [
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "rms_norm_eps",
    "rope_theta",
    "sliding_window",
    "swiglu_limit",
    "vocab_size",
]
ROPE_NUMBERS = ["beta_fast", "beta_slow", "factor", "original_max_position_embeddings"]
NEVER_RIGHT = [-1, 2**63, 1e308, float("nan"), float("inf"), "64", [64], {}, True]


@pytest.mark.parametrize("name", SHAPES)
def test_good_configs_are_read(name: str) -> None:
    values = random_config(**SHAPES[name])
    config = ModelConfig.from_dict(values)
    assert config.num_hidden_layers == len(config.layer_types) == values["num_hidden_layers"]
    assert config.ignored == ()


@pytest.mark.parametrize("value", [*NEVER_RIGHT, 0, 2**31])
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_out_of_range_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        ModelConfig.from_dict(random_config() | {field: value})


@pytest.mark.parametrize("value", [*NEVER_RIGHT, 0])
@pytest.mark.parametrize("field", ROPE_NUMBERS)
def test_a_rope_number_out_of_range_names_its_field(field: str, value: Any) -> None:
    values = random_config()
    values["rope_scaling"][field] = value
    with pytest.raises(ConfigError, match=field):
        ModelConfig.from_dict(values)


# swiglu_limit has a default, as in transformers.
REQUIRED = [*(name for name in NUMBERS if name != "swiglu_limit"), "model_type", "layer_types", "rope_scaling"]


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_named(field: str) -> None:
    values = random_config()
    del values[field]
    with pytest.raises(ConfigError, match=f"{field} is missing"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": False}, "attention_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"hidden_size": 80}, "hidden_size is 80; MXFP4 needs a multiple of 32"),
        ({"num_key_value_heads": 3}, "not a multiple of"),
        ({"num_local_experts": 2}, "num_experts_per_tok 4 is more than"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"layer_types": ["sliding_attention"]}, "one a layer"),
        ({"layer_types": ["sliding_attention", "linear"]}, r"layer_types\[1\] is 'linear'"),
        ({"experts_per_token": 2}, "experts_per_token"),
        ({"initial_context_length": 17}, "initial_context_length"),
    ],
)
def test_what_is_unknown_or_inconsistent_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(random_config() | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_type": "linear"}, "rope_type is 'linear'"),
        ({"mscale": 2.0}, "mscale is unknown"),
        ({"truncate": 1}, "truncate"),
    ],
)
def test_rope_that_is_not_gpt_oss_is_named(changes: dict[str, Any], message: str) -> None:
    values = random_config()
    values["rope_scaling"] |= changes
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_rope_of_transformers_5_reads_like_that_of_4() -> None:
    old, new = random_config(), random_config()
    new["rope_parameters"] = new.pop("rope_scaling") | {"rope_theta": new.pop("rope_theta")}
    assert ModelConfig.from_dict(old) == ModelConfig.from_dict(new)


def test_keys_that_are_not_known_are_reported() -> None:
    assert ModelConfig.from_dict(random_config() | {"unsloth_fixed": True}).ignored == ("unsloth_fixed",)


def test_a_file_that_is_no_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint directory"):
        ModelConfig.from_directory(tmp_path)
    path = tmp_path / "config.json"
    for text in ("", "{", "[]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=str(path)):
            ModelConfig.from_directory(tmp_path)
    path.write_text(json.dumps(random_config(hidden_act="relu")))
    with pytest.raises(ConfigError, match=f"{path}: hidden_act"):
        ModelConfig.from_directory(tmp_path)


# The released models, and precisions.


def test_groups_are_32_where_a_width_has_no_factor_64() -> None:
    config = ModelConfig.from_dict(random_config(hidden_size=96))
    assert quantization_for(config, "q4") == Quantization(bits=4, group_size=32)
    assert quantization_for(GPT_OSS_20B, "q8") == Quantization(bits=8, group_size=64)
    assert precision_of(with_precision(config, "q4")) == "q4"
    assert precision_of(config) == "bf16"


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


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(InvalidRequest, match="dense is 'q5'; one of bf16, q8, q4 is needed"):
        quantization_for(GPT_OSS_20B, "q5")  # type: ignore[arg-type]
