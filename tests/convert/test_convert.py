"""Conversions between all layouts: equal values, equal logits, and equal bits where that is promised."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.config import PRECISIONS, ModelConfig, Precision
from gptoss_mlx.convert import carry_out, compare_weights, convert_checkpoint, plan_conversion, verify_checkpoint
from gptoss_mlx.convert.manifest import Manifest
from gptoss_mlx.convert.quantize import affine_quantise
from gptoss_mlx.convert.writer import plan_shards
from gptoss_mlx.errors import (
    CheckpointError,
    ConversionError,
    FileWriteError,
    GptOssError,
    InvalidRequest,
    ModelNotFound,
    NotEnoughDisk,
)
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import token_bytes
from gptoss_mlx.memory.sizes import weight_bytes
from gptoss_mlx.model.transformer import load_transformer
from tests.convert.sources import load_tensors, tensor_bytes, write_layout

LOSSLESS = ["hf", "original", "mlx-lm", "fine-tune"]
TOKENS = np.random.default_rng(5).integers(0, 320, (2, 60))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every layout."""
    root = tmp_path_factory.mktemp("sources")
    return {name: write_layout(name, root / name) for name in [*LOSSLESS, "mlx-lm-q4"]}


def _logits(directory: Path) -> mx.array:
    return load_transformer(directory, dtype=mx.float32)(mx.array(TOKENS))


def _difference(left: mx.array, right: mx.array) -> float:
    return float(np.max(np.abs(np.asarray(left) - np.asarray(right))))


@pytest.mark.parametrize("layout", LOSSLESS)
def test_every_layout_gives_the_same_parameters(layout: str, sources: dict[str, Path], tmp_path: Path) -> None:
    report = convert_checkpoint(sources[layout], tmp_path / "out", dense="bf16")
    reference = convert_checkpoint(sources["hf"], tmp_path / "reference", dense="bf16")
    assert (
        tensor_bytes(load_tensors(tmp_path / "out")).keys()
        == tensor_bytes(load_tensors(tmp_path / "reference")).keys()
    )
    assert report.tensors == reference.tensors
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "out", sources["hf"]))


@pytest.mark.parametrize("layout", LOSSLESS)
def test_bf16_logits_equal_transformers(layout: str, sources: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(sources[layout], tmp_path / "out", dense="bf16")
    assert _difference(_logits(tmp_path / "out"), mx.array(_oracle(sources["hf"]))) <= 2e-4


def _oracle(directory: Path) -> np.ndarray[Any, Any]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.GptOssForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
        attn_implementation="eager",
    )
    with torch.no_grad():
        return np.asarray(model(torch.tensor(TOKENS)).logits.float())


@pytest.mark.parametrize("dense", ["q8", "q4"])
def test_quantised_logits_equal_those_of_the_dequantised_weights(
    dense: Precision, sources: dict[str, Path], tmp_path: Path
) -> None:
    convert_checkpoint(sources["hf"], tmp_path / "quantised", dense=dense)
    _dequantise(tmp_path / "quantised", tmp_path / "dequantised")
    assert _difference(_logits(tmp_path / "quantised"), _logits(tmp_path / "dequantised")) <= 2e-4
    config = ModelConfig.from_directory(tmp_path / "quantised")
    assert config.quantization is not None
    assert config.quantization.bits == int(dense[1])


def _dequantise(quantised: Path, directory: Path) -> None:
    """The same model with its dense layers dequantised to float32."""
    directory.mkdir()
    values = json.loads((quantised / "config.json").read_text())
    form = values.pop("quantization")
    (directory / "config.json").write_text(json.dumps(values))
    tensors = load_tensors(quantised)
    for name in [name for name in tensors if name.endswith(".biases")]:
        module = name.removesuffix(".biases")
        scales, biases = (tensors.pop(f"{module}.{side}").astype(mx.float32) for side in ("scales", "biases"))
        words = tensors[f"{module}.weight"]
        tensors[f"{module}.weight"] = mx.dequantize(
            words, scales, biases, group_size=form["group_size"], bits=form["bits"], dtype=mx.float32
        )
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)


def test_experts_keep_every_bit_at_every_precision(sources: dict[str, Path], tmp_path: Path) -> None:
    source = load_tensors(sources["hf"])
    for dense in PRECISIONS:
        convert_checkpoint(sources["hf"], tmp_path / dense, dense=dense)
        tensors = load_tensors(tmp_path / dense)
        for module in ("gate_up_proj", "down_proj"):
            for part, suffix in (("weight", "blocks"), ("scales", "scales")):
                ours = tensors[f"layers.1.mlp.experts.{module}.{part}"]
                theirs = source[f"model.layers.1.mlp.experts.{module}_{suffix}"]
                assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_sizes_are_those_that_fit_computes(sources: dict[str, Path], tmp_path: Path) -> None:
    for dense in PRECISIONS:
        plan = plan_conversion(sources["hf"], tmp_path / dense, dense=dense)
        assert plan.nbytes == weight_bytes(plan.source.config, dense)


def test_quantising_what_was_dequantised_keeps_every_expert_value(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    report = convert_checkpoint(sources["fine-tune"], tmp_path / "out", dense="bf16")
    assert report.experts_error is not None
    assert report.experts_error.largest == 0
    assert report.experts_error.relative == 0
    kinds = {entry.kind: entry.largest for entry in compare_weights(tmp_path / "out", sources["hf"])}
    assert kinds["mlp.experts.gate_up_proj.weight"] == kinds["mlp.experts.down_proj.weight"] == 0


def test_a_real_fine_tune_reports_what_quantising_lost(sources: dict[str, Path], tmp_path: Path) -> None:
    source = write_layout("fine-tune", tmp_path / "source")
    tensors = load_tensors(source)
    rng = np.random.default_rng(3)
    for name, array in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = mx.array(rng.normal(0, 0.1, array.shape).astype(np.float32)).astype(mx.bfloat16)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    report = convert_checkpoint(source, tmp_path / "out", dense="bf16")
    assert report.experts_error is not None
    assert 0.05 < report.experts_error.relative < 0.15  # four bits
    largest = max(entry.largest for entry in compare_weights(tmp_path / "out", source) if "_proj" in entry.kind)
    # The source is compared after its quantisation, so the difference is zero; the report has the loss.
    assert largest == 0
    assert 0 < report.experts_error.largest < 0.2


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


def test_a_quantised_source_is_taken_as_it_is(sources: dict[str, Path], tmp_path: Path) -> None:
    report = convert_checkpoint(sources["mlx-lm-q4"], tmp_path / "out")
    assert report.dense == "q4"
    source, ours = load_tensors(sources["mlx-lm-q4"]), load_tensors(tmp_path / "out")
    parts = [source[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert np.array_equal(ours["layers.0.self_attn.qkv_proj.weight"], mx.concatenate(parts))
    assert np.array_equal(ours["lm_head.scales"].view(mx.uint16), source["lm_head.scales"].view(mx.uint16))
    assert ours["layers.0.mlp.router.weight"].dtype == mx.bfloat16
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "out", sources["mlx-lm-q4"]))


def test_exporting_a_bf16_conversion_restores_the_source(sources: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(sources["hf"], tmp_path / "ours", dense="bf16")
    convert_checkpoint(tmp_path / "ours", tmp_path / "back", to="hf")
    assert tensor_bytes(load_tensors(tmp_path / "back")) == tensor_bytes(load_tensors(sources["hf"]))
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads(
        (sources["hf"] / "config.json").read_text()
    )


def test_exports_to_hugging_face_from_q8_keep_the_experts(sources: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(sources["hf"], tmp_path / "ours", dense="q8")
    convert_checkpoint(tmp_path / "ours", tmp_path / "back", to="hf")
    back, source = tensor_bytes(load_tensors(tmp_path / "back")), tensor_bytes(load_tensors(sources["hf"]))
    assert back.keys() == source.keys()
    assert all(back[name] == source[name] for name in source if ".experts." in name)


@pytest.mark.parametrize("dense", ["bf16", "q8", "q4"])
def test_mlx_lm_loads_the_export(dense: Precision, sources: dict[str, Path], tmp_path: Path) -> None:
    from mlx_lm.utils import load_model

    convert_checkpoint(sources["hf"], tmp_path / "ours", dense=dense)
    report = convert_checkpoint(tmp_path / "ours", tmp_path / "theirs", to="mlx-lm")
    assert report.dense == dense
    model, _ = load_model(tmp_path / "theirs")
    model.set_dtype(mx.float32)
    theirs = model(mx.array(TOKENS))
    ours = _logits(tmp_path / "ours")
    # mlx-lm rounds YaRN's range, so the logits are only similar.
    correlation = np.corrcoef(np.asarray(ours).ravel(), np.asarray(theirs).ravel())[0, 1]
    assert correlation > 0.9
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "theirs", tmp_path / "ours"))


def test_mlx_lm_gets_rope_under_the_names_it_knows(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    values = json.loads((source / "config.json").read_text())
    scaling, theta = values.pop("rope_scaling"), values.pop("rope_theta")
    values["rope_parameters"] = scaling | {"rope_theta": theta}  # as transformers 5 writes it
    (source / "config.json").write_text(json.dumps(values))
    convert_checkpoint(source, tmp_path / "out", to="mlx-lm")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert (written["rope_scaling"], written["rope_theta"]) == (scaling, theta)


def test_mlx_lm_exports_equal_its_own_conversion(sources: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(sources["hf"], tmp_path / "out", to="mlx-lm")
    assert tensor_bytes(load_tensors(tmp_path / "out")) == tensor_bytes(load_tensors(sources["mlx-lm"]))


def test_a_rerun_is_byte_identical(sources: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        convert_checkpoint(sources["hf"], tmp_path / name, dense="q8")
    assert _contents(tmp_path / "first") == _contents(tmp_path / "second")


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_shards_split_at_the_limit_and_load(sources: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_conversion(sources["hf"], tmp_path / "out", dense="bf16")
    shards = plan_shards(plan.tensors, limit=100_000)
    assert len(shards) > 2
    assert all(sum(tensor.nbytes for tensor in shard.tensors) <= 100_000 for shard in shards)
    import dataclasses

    report = carry_out(dataclasses.replace(plan, shards=tuple(shards)))
    assert report.tensors == len(plan.tensors)
    assert verify_checkpoint(tmp_path / "out").ok
    assert _difference(_logits(tmp_path / "out"), _logits(sources["hf"])) == 0


def test_blocks_smaller_than_a_tensor_give_the_same_bytes(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for layout in sources:
        convert_checkpoint(sources[layout], tmp_path / f"{layout}-whole", dense="q8")
        with monkeypatch.context() as patch:
            patch.setattr("gptoss_mlx.convert.readers.BLOCK_BYTES", 1000)
            patch.setattr("gptoss_mlx.convert.quantize.BLOCK_BYTES", 1000)
            convert_checkpoint(sources[layout], tmp_path / f"{layout}-rows", dense="q8")
            exported = convert_checkpoint(sources[layout], tmp_path / f"{layout}-lm", to="mlx-lm", dense="bf16")
        assert _contents(tmp_path / f"{layout}-whole") == _contents(tmp_path / f"{layout}-rows")
        assert exported.tensors == len(load_tensors(tmp_path / f"{layout}-lm"))


def test_the_manifest_names_source_options_and_every_tensor(sources: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(sources["hf"], tmp_path / "out", dense="q8")
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.source == {"name": "hf", "revision": None, "layout": "Hugging Face"}
    assert manifest.options == {"to": "mlx", "dense": "q8"}
    assert manifest.tensors.keys() == load_tensors(tmp_path / "out").keys()
    assert set(manifest.files) | {"manifest.json"} == {path.name for path in (tmp_path / "out").iterdir()}


def test_progress_ends_at_the_total(sources: dict[str, Path], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    plan = plan_conversion(sources["hf"], tmp_path / "out", dense="q8")
    carry_out(plan, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("convert", plan.nbytes, plan.nbytes)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_conversion_is_lossless_where_that_fits_the_machine(sources: dict[str, Path], tmp_path: Path) -> None:
    small = DeviceInfo(name="small", memory_bytes=2**20, gpu_bytes=2**18)
    plan = plan_conversion(sources["hf"], tmp_path / "out", device=small)
    assert (plan.dense, plan.losses) == ("q4", ("attention, embedding and head are rounded to 4 bits",))
    large = DeviceInfo(name="large", memory_bytes=2**34, gpu_bytes=2**33)
    plan = plan_conversion(sources["hf"], tmp_path / "out", device=large)
    assert (plan.dense, plan.losses) == ("bf16", ())
    assert "with 8,192 tokens" in plan.reason
    report = carry_out(plan)
    assert report.bytes_per_token == token_bytes(plan.source.config)
    assert report.as_dict()["losses"] == []
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "out", sources["hf"]))


@pytest.mark.parametrize("layout", [*LOSSLESS, "mlx-lm-q4"])
@pytest.mark.parametrize("dense", PRECISIONS)
def test_a_plan_without_losses_changes_no_value_and_one_with_them_does(
    layout: str, dense: Precision, sources: dict[str, Path], tmp_path: Path
) -> None:
    plan = plan_conversion(sources[layout], tmp_path / "out", dense=dense)
    carry_out(plan)
    differs = any(entry.largest > 0 for entry in compare_weights(tmp_path / "out", sources[layout]))
    assert differs == any("bits" in loss for loss in plan.losses)
    assert ("experts are quantised to MXFP4" in plan.losses) == (plan.source.experts_error is not None)


def test_floats_that_bfloat16_does_not_hold_are_a_loss(sources: dict[str, Path], tmp_path: Path) -> None:
    for path in sources["hf"].iterdir():
        shutil.copy(path, tmp_path)
    (shard,) = tmp_path.glob("*.safetensors")
    tensors = load_tensors(tmp_path)
    mx.save_safetensors(str(shard), {name: _widened(tensor) for name, tensor in tensors.items()})
    plan = plan_conversion(tmp_path, tmp_path.parent / "wide", dense="bf16")
    assert plan.losses == ("float32 values are rounded to bfloat16",)


def _widened(tensor: mx.array) -> mx.array:
    return tensor.astype(mx.float32) if tensor.dtype == mx.bfloat16 else tensor


# Refusals and their messages.


def _refused(source: Path | str, target: Path, error: type[GptOssError], match: str, **options: Any) -> None:
    """Expects an error of one line, no target and no remains."""
    before = {path.name for path in target.parent.iterdir()} if target.parent.is_dir() else set()
    with pytest.raises(error, match=match) as caught:
        convert_checkpoint(source, target, **({"dense": "bf16"} | options))
    assert "\n" not in str(caught.value)
    if target.parent.is_dir():
        assert {path.name for path in target.parent.iterdir()} == before


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
    _refused(source, tmp_path / "out", CheckpointError, "model.layers.0.lora_A is unknown")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    source = _changed(tmp_path, {"model.layers.2.self_attn.sinks": None})
    _refused(source, tmp_path / "out", CheckpointError, r"model.layers.2.self_attn.sinks is missing")


def test_nan_scales_are_named(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.experts.down_proj_scales"
    scales = np.full((5, 96, 2), 120, np.uint8)
    scales[3, 7, 1] = 0xFF
    source = _changed(tmp_path, {name: mx.array(scales)})
    _refused(source, tmp_path / "out", CheckpointError, f"{name} holds NaN scales")


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    source = _changed(tmp_path, {"lm_head.weight": mx.zeros((320, 64), mx.bfloat16)})
    _refused(source, tmp_path / "out", CheckpointError, r"lm_head.weight has shape \[320, 64\]")


def test_another_model_type_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | {"model_type": "llama"}))
    _refused(source, tmp_path / "out", CheckpointError, "config.json: model_type is 'llama'")


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    shard = source / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    _refused(source, tmp_path / "out", CheckpointError, "model.safetensors: is truncated")


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
    _refused(source, tmp_path / "out", CheckpointError, "only pytorch_model.bin; pickles are never read")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    _refused(source, tmp_path / "out", CheckpointError, "model-00001-of-00002.safetensors: missing")


def test_an_index_outside_the_directory_is_refused(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    _refused(source, tmp_path / "out", CheckpointError, "outside the directory")


def test_a_source_without_tokenizer_is_refused(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source")
    (source / "tokenizer.json").unlink()
    _refused(source, tmp_path / "out", CheckpointError, "tokenizer.json: missing")


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


def test_an_existing_destination_is_not_touched(sources: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    _refused(sources["hf"], target, ConversionError, "exists; --force replaces it")
    _refused(sources["hf"], target, ConversionError, "is not a checkpoint, so it is not replaced", force=True)
    assert (target / "mine.txt").read_text() == "mine"


def test_force_replaces_a_checkpoint(sources: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(sources["hf"], tmp_path / "out", dense="bf16")
    report = convert_checkpoint(sources["hf"], tmp_path / "out", dense="q4", force=True)
    assert report.dense == "q4"
    assert verify_checkpoint(tmp_path / "out").ok
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_destination_in_the_source_is_refused_and_the_reverse(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "outer" / "source")
    _refused(source, source / "out", ConversionError, "is inside the source")
    _refused(source, source, ConversionError, "exists|is inside the source")
    (tmp_path / "outer" / "config.json").write_text("{}")
    _refused(source, tmp_path / "outer", ConversionError, "contains the source", force=True)


def test_a_second_name_of_the_source_is_no_place_for_its_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second name, as mounts and case-insensitive filesystems give; resolving the path does not reveal it."""
    source = write_layout("hf", tmp_path / "real" / "source")
    (tmp_path / "second").symlink_to(tmp_path / "real")
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: path.absolute())
    second = tmp_path / "second" / "source"
    _refused(source, second, ConversionError, "is inside the source", force=True)
    _refused(source, second / "out", ConversionError, "is inside the source")
    assert (source / "config.json").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "x/.."])
def test_a_destination_needs_a_name(
    name: str, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _refused(sources["hf"], Path(name), ConversionError, "by its own name", force=True)


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a\0b", "x" * 300])
def test_what_no_path_can_be_is_refused(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    for source, destination in ((sources["hf"], name), (name, tmp_path / "out")):
        with pytest.raises(InvalidRequest, match=r"no such user|NUL|name is too long"):
            convert_checkpoint(source, destination)


def test_remains_that_cannot_be_removed_are_named(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".out.partial").mkdir()

    def refuse(path: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    _refused(sources["hf"], tmp_path / "out", FileWriteError, "no permission to write there")


def test_a_destination_without_parent_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    _refused(sources["hf"], tmp_path / "no" / "out", ConversionError, "does not exist; create it first")


def test_a_full_disk_is_noticed_first(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_mlx.hub.downloads.free_space", lambda place: 1000)
    _refused(sources["hf"], tmp_path / "out", NotEnoughDisk, "MB are needed and 1.00 kB are free")


def test_what_is_not_here_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    _refused(str(tmp_path / "nothing"), tmp_path / "out", ModelNotFound, "no such directory")


def test_options_out_of_range_are_named(sources: dict[str, Path], tmp_path: Path) -> None:
    _refused(sources["hf"], tmp_path / "out", ConversionError, "dense is 'q5'", dense="q5")
    _refused(sources["hf"], tmp_path / "out", ConversionError, "target is 'gguf'", to="gguf")
    _refused(sources["hf"], tmp_path / "out", ConversionError, "leave it out", to="hf", dense="q8")
