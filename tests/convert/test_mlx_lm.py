"""Everything that mlx-lm's converter writes for gpt-oss loads, converts without a loss, and gives its logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.convert import QUANT_RECIPES, mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from gptoss_mlx.checkpoint.tensors import open_model
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import compare_weights, convert_checkpoint
from gptoss_mlx.distributed.split import divide
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.memory.sizes import weight_bytes
from gptoss_mlx.model.rope import yarn_wavelengths
from gptoss_mlx.model.transformer import load_transformer
from gptoss_mlx.model.weights import load_weights
from gptoss_mlx.share import Split
from tests.convert.sources import load_tensors, tensor_bytes, write_layout

WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32, "num_hidden_layers": 4}
TOKENS = np.random.default_rng(5).integers(0, 320, (1, 40))
FORMS = [
    *((bits, size, "affine") for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)),
    *((None, None, mode) for mode in ("affine", "mxfp4", "mxfp8", "nvfp4")),
]


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of mlx-lm's whose weights are all floats."""
    root = tmp_path_factory.mktemp("mlx-lm")
    source = write_layout("fine-tune", root / "source", **WIDE)
    rng = np.random.default_rng(3)
    tensors = load_tensors(source)
    for name, array in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = mx.array(rng.normal(0, 0.1, array.shape).astype(np.float32)).astype(mx.bfloat16)
    mx.eval(tensors)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    return convert_checkpoint(source, root / "floats", dense="bf16", experts="bf16", to="mlx-lm").destination


def write_mlx_lm(source: Path, directory: Path, change: Callable[[Any, dict[str, Any]], tuple[Any, Any]]) -> Path:
    """Writes what ``mlx_lm.convert`` writes, after a change of model and config."""
    model, config = load_model(source, lazy=True)
    model, config = change(model, config)
    save_model(directory, model)
    save_config(config, directory / "config.json")
    (directory / "tokenizer.json").write_text("{}")
    return directory


def loads_alike(directory: Path, converted: Path) -> None:
    """Expects the same parameters of mlx-lm's directory and of its conversion, and the logits of mlx-lm's model,
    its YaRN not rounded, in float32."""
    stored = [open_model(place) for place in (directory, converted)]
    config = stored[0].config
    assert config == stored[1].config
    loaded = [tensor_bytes(load_weights(model, mx.bfloat16)) for model in stored]
    assert loaded[0] == loaded[1]
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    for layer in model.model.layers:
        layer.self_attn.rope._freqs = yarn_wavelengths(config.head_dim, config.rope)
    theirs, ours = model(mx.array(TOKENS)), load_transformer(directory, mx.float32)(mx.array(TOKENS))
    assert float(mx.abs(ours - theirs).max()) <= 2e-4


@pytest.mark.parametrize(("bits", "group_size", "mode"), FORMS)
def test_every_form_is_kept(
    bits: int | None, group_size: int | None, mode: str, floats: Path, tmp_path: Path
) -> None:
    theirs = write_mlx_lm(
        floats,
        tmp_path / "theirs",
        lambda model, config: quantize_model(
            model, config, group_size, bits, mode=mode, quant_predicate=model.quant_predicate
        ),
    )
    report = convert_checkpoint(theirs, tmp_path / "ours")
    assert report.losses == ()
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "ours", theirs))
    loads_alike(theirs, tmp_path / "ours")
    tensors = load_tensors(tmp_path / "ours")
    assert sum(array.nbytes for array in tensors.values()) == weight_bytes(
        ModelConfig.from_directory(tmp_path / "ours")
    )


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("recipe", QUANT_RECIPES)
def test_mixed_quantisations_are_kept(recipe: str, group_size: int | None, floats: Path, tmp_path: Path) -> None:
    def mixed(model: Any, config: dict[str, Any]) -> tuple[Any, Any]:
        predicate: Any = mixed_quant_predicate_builder(recipe, model, group_size)  # type: ignore[arg-type]
        return quantize_model(model, config, group_size, None, quant_predicate=predicate)

    theirs = write_mlx_lm(floats, tmp_path / "theirs", mixed)
    written = json.loads((theirs / "config.json").read_text())["quantization"]
    assert written["lm_head"]["group_size"] == group_size
    convert_checkpoint(theirs, tmp_path / "ours")
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "ours", theirs))
    loads_alike(theirs, tmp_path / "ours")


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8"])
def test_scales_that_are_no_numbers_are_refused(mode: str, floats: Path, tmp_path: Path) -> None:
    theirs = write_mlx_lm(
        floats, tmp_path / "theirs", lambda model, config: quantize_model(model, config, None, None, mode=mode)
    )
    tensors = load_tensors(theirs)
    name = "model.layers.1.mlp.experts.up_proj.scales"
    tensors[name][1, 2, 0] = 0xFF
    mx.eval(tensors)
    mx.save_safetensors(str(theirs / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError, match=f"tensor {name} holds NaN scales"):
        load_transformer(theirs, mx.float32)


def test_machines_load_their_shares(floats: Path, tmp_path: Path) -> None:
    def change(model: Any, config: dict[str, Any]) -> tuple[Any, Any]:
        predicate: Any = mixed_quant_predicate_builder("mixed_3_6", model, 32)
        return quantize_model(model, config, 32, None, quant_predicate=predicate)

    theirs = write_mlx_lm(floats, tmp_path / "theirs", change)
    convert_checkpoint(theirs, tmp_path / "ours")
    models = [open_model(theirs), open_model(tmp_path / "ours")]
    for split in get_args(Split):
        for share in divide(models[0].config, split, [1, 1]):
            one, other = (tensor_bytes(load_weights(model, mx.float32, share=share)) for model in models)
            assert one == other


def test_modules_of_all_kinds_side_by_side_are_kept(floats: Path, tmp_path: Path) -> None:
    kinds: list[bool | dict[str, Any]] = [
        {"bits": 3, "group_size": 64},
        {"bits": 8, "group_size": 32, "mode": "mxfp8"},
        {"bits": 4, "group_size": 16, "mode": "nvfp4"},
        {"bits": 6, "group_size": 128, "mode": "affine"},
        False,
    ]
    seen: list[str] = []

    def predicate(path: str, module: Any) -> bool | dict[str, Any]:
        seen.append(path)
        return kinds[int(path.split(".")[2]) if "experts" in path else len(seen) % 5]

    def change(model: Any, config: dict[str, Any]) -> tuple[Any, Any]:
        return quantize_model(model, config, 64, 4, quant_predicate=predicate)

    theirs = write_mlx_lm(floats, tmp_path / "theirs", change)
    report = convert_checkpoint(theirs, tmp_path / "ours")
    assert report.losses == ()
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "ours", theirs))
    loads_alike(theirs, tmp_path / "ours")


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_scales_and_floats_of_other_dtypes_are_kept(dtype: mx.Dtype, floats: Path, tmp_path: Path) -> None:
    def change(model: Any, config: dict[str, Any]) -> tuple[Any, Any]:
        model.set_dtype(dtype)
        return quantize_model(model, config, 64, 4)

    theirs = write_mlx_lm(floats, tmp_path / "theirs", change)
    convert_checkpoint(theirs, tmp_path / "ours")
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "ours", theirs))
    loads_alike(theirs, tmp_path / "ours")


def test_the_rest_of_an_mxfp4_model_is_quantised(tmp_path: Path) -> None:
    source = write_layout("mlx-lm", tmp_path / "source", **WIDE)
    theirs = write_mlx_lm(source, tmp_path / "theirs", lambda model, config: quantize_model(model, config, 64, 4))
    report = convert_checkpoint(theirs, tmp_path / "ours")
    assert (report.experts, report.dense) == ("mxfp4", "q4")
    loads_alike(theirs, tmp_path / "ours")
