"""Sources: what is wrong with one is named, and OpenAI's own layout needs no index."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.convert import carry_out, compare_weights, convert_checkpoint, plan_conversion
from gptoss_mlx.errors import (
    CheckpointError,
)
from tests.convert.sources import expect_refusal, load_tensors, write_layout


def _changed(tmp_path: Path, change: dict[str, mx.array | None]) -> Path:
    """A Hugging Face checkpoint with some tensors replaced, added or dropped."""
    source = write_layout("hf", tmp_path / "source")
    tensors = load_tensors(source)
    for name, array in change.items():
        if array is None:
            del tensors[name]
        else:
            tensors[name] = array
    mx.eval(tensors)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    return source


def test_a_tensor_no_row_names_is_an_error(tmp_path: Path) -> None:
    source = _changed(tmp_path, {"model.layers.0.lora_A": mx.zeros((2, 2))})
    expect_refusal(source, tmp_path / "out", CheckpointError, "model.layers.0.lora_A is unknown")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    source = _changed(tmp_path, {"model.layers.2.self_attn.sinks": None})
    expect_refusal(source, tmp_path / "out", CheckpointError, r"model.layers.2.self_attn.sinks is missing")


def test_nan_scales_are_named(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.experts.down_proj_scales"
    scales = np.full((5, 96, 2), 120, np.uint8)
    scales[3, 7, 1] = 0xFF
    source = _changed(tmp_path, {name: mx.array(scales)})
    expect_refusal(source, tmp_path / "out", CheckpointError, f"{name} holds NaN scales")


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    source = _changed(tmp_path, {"lm_head.weight": mx.zeros((320, 64), mx.bfloat16)})
    expect_refusal(source, tmp_path / "out", CheckpointError, r"lm_head.weight has shape \[320, 64\]")


def test_another_model_type_isexpect_refusal(sources: dict[str, Path], tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | {"model_type": "llama"}))
    expect_refusal(source, tmp_path / "out", CheckpointError, "config.json: model_type is 'llama'")


def test_a_truncated_shard_isexpect_refusal(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    shard = source / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    expect_refusal(source, tmp_path / "out", CheckpointError, "model.safetensors: is truncated")


def test_a_shard_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    plan = plan_conversion(source, tmp_path / "out", dense="bf16")
    shard = source / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100_000])
    with pytest.raises(CheckpointError, match="became shorter"):
        carry_out(plan)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_pickles_are_not_read(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    expect_refusal(source, tmp_path / "out", CheckpointError, "only pytorch_model.bin; pickles are never read")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    expect_refusal(source, tmp_path / "out", CheckpointError, "model-00001-of-00002.safetensors: missing")


def test_an_index_outside_the_directory_isexpect_refusal(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    expect_refusal(source, tmp_path / "out", CheckpointError, "outside the directory")


def test_a_source_without_tokenizer_isexpect_refusal(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    (source / "tokenizer.json").unlink()
    expect_refusal(source, tmp_path / "out", CheckpointError, "tokenizer.json: missing")


def test_original_takes_the_tokenizer_of_the_directory_above(sources: dict[str, Path], tmp_path: Path) -> None:
    source = write_layout("original", tmp_path / "model" / "original")
    (source / "tokenizer.json").rename(tmp_path / "model" / "tokenizer.json")
    convert_checkpoint(source, tmp_path / "out", dense="bf16")
    assert (tmp_path / "out/tokenizer.json").read_text() == "{}"


def test_original_in_several_shards_needs_no_index(sources: dict[str, Path], tmp_path: Path) -> None:
    source = write_layout("original", tmp_path / "original")
    tensors = load_tensors(source)
    names = sorted(tensors)
    mx.eval(tensors)
    (source / "model.safetensors").unlink()
    for number, part in enumerate((names[:20], names[20:])):
        mx.save_safetensors(str(source / f"model--{number}.safetensors"), {name: tensors[name] for name in part})
    convert_checkpoint(source, tmp_path / "out", dense="bf16")
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "out", sources["hf"]))
