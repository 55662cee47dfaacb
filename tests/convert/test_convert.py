"""Conversions between all layouts: equal values, equal logits, and equal bits where that is promised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.config import PRECISIONS, ModelConfig, Precision, with_packed_experts
from gptoss_mlx.convert import carry_out, compare_weights, convert_checkpoint, plan_conversion, verify_checkpoint
from gptoss_mlx.convert.manifest import Manifest
from gptoss_mlx.convert.precision import ExpertsPrecision
from gptoss_mlx.convert.writer import plan_shards
from gptoss_mlx.files.units import format_bytes
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import token_bytes
from gptoss_mlx.memory.sizes import weight_bytes
from gptoss_mlx.model.transformer import load_transformer
from gptoss_mlx.quantization import MXFP4, Quantization
from tests.convert.sources import LOSSLESS, load_tensors, tensor_bytes, write_layout

TOKENS = np.random.default_rng(5).integers(0, 320, (2, 60))


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
    packed = "quantization_config" in json.loads((directory / "config.json").read_text())
    model = transformers.GptOssForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        quantization_config=transformers.Mxfp4Config(dequantize=True) if packed else None,
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


@pytest.fixture(scope="module")
def float_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune whose experts are floats that MXFP4 does not hold, but for one layer's."""
    source = write_layout("fine-tune", tmp_path_factory.mktemp("float") / "source")
    tensors = load_tensors(source)
    rng = np.random.default_rng(3)
    for name, array in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")) and ".1." not in name:
            tensors[name] = mx.array(rng.normal(0, 0.1, array.shape).astype(np.float32)).astype(mx.bfloat16)
    mx.eval(tensors)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    return source


@pytest.mark.parametrize(
    ("experts", "low", "high"), [("mxfp4", 0.03, 0.15), (None, 0.001, 0.01), ("q8", 0.001, 0.01)]
)
def test_the_loss_of_float_experts_is_reported_as_verify_measures_it(
    experts: ExpertsPrecision | None, low: float, high: float, float_experts: Path, tmp_path: Path
) -> None:
    report = convert_checkpoint(float_experts, tmp_path / "out", dense="bf16", experts=experts)
    assert report.experts_error is not None
    assert low < report.experts_error.relative < high
    measured = {entry.kind: entry for entry in compare_weights(tmp_path / "out", float_experts)}
    both = [measured[f"mlp.experts.{name}_proj.weight"] for name in ("gate_up", "down")]
    assert max(entry.largest for entry in both) == report.experts_error.largest
    assert all(low < entry.relative < high for entry in both)


def test_a_plan_says_why_experts_take_8_bits_and_whether_that_fits(float_experts: Path, tmp_path: Path) -> None:
    def reason(memory: int, **options: Any) -> str:
        device = DeviceInfo(name="a machine", memory_bytes=memory, gpu_bytes=memory)
        return plan_conversion(float_experts, tmp_path / "out", device=device, **options).reason

    config = plan_conversion(float_experts, tmp_path / "out").config
    needs = Budget(config=config, device=DeviceInfo.current(), context=8192).needed_bytes()
    said = "; experts take 8 bits because MXFP4 does not hold all their values: "
    said += f"{format_bytes(needs)} are needed, which "
    assert reason(2**34).endswith(f"{said}fits")
    packed = Budget(config=with_packed_experts(config), device=DeviceInfo.current(), context=8192).needed_bytes()
    remedy = f"--experts mxfp4 needs {format_bytes(packed)}, at a larger loss"
    assert reason(needs - 1, dense="bf16") == f"as asked for{said}does not fit; {remedy}"
    assert "experts" not in reason(2**34, experts="q8")


def test_layers_on_the_grid_of_mxfp4_stay_on_it(float_experts: Path, tmp_path: Path) -> None:
    report = convert_checkpoint(float_experts, tmp_path / "out", dense="bf16")
    config = ModelConfig.from_directory(tmp_path / "out")
    assert config.form("layers.1.mlp.experts.gate_up_proj") == MXFP4
    assert config.form("layers.2.mlp.experts.gate_up_proj") == Quantization(bits=8, group_size=32)
    assert (report.experts, report.losses) == ("q8, mxfp4 (2 of 6)", ("experts are quantised to 8 bits",))
    tensors = load_tensors(tmp_path / "out")
    assert sum(tensor.nbytes for tensor in tensors.values()) == weight_bytes(config)


def test_floats_can_stay_floats(float_experts: Path, tmp_path: Path) -> None:
    plan = plan_conversion(float_experts, tmp_path / "out", dense="bf16", experts="bf16")
    carry_out(plan)
    assert (plan.experts, plan.losses) == ("bf16", ())
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "out", float_experts))
    assert _difference(_logits(tmp_path / "out"), mx.array(_oracle(float_experts))) <= 2e-4
    assert plan.nbytes == weight_bytes(plan.config)


def test_a_quantised_source_is_taken_as_it_is(sources: dict[str, Path], tmp_path: Path) -> None:
    report = convert_checkpoint(sources["mlx-lm-q4"], tmp_path / "out")
    assert report.dense == "q4"
    source, ours = load_tensors(sources["mlx-lm-q4"]), load_tensors(tmp_path / "out")
    parts = [source[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert np.array_equal(ours["layers.0.self_attn.qkv_proj.weight"], mx.concatenate(parts))
    assert np.array_equal(ours["lm_head.scales"].view(mx.uint16), source["lm_head.scales"].view(mx.uint16))
    assert np.array_equal(ours["layers.0.mlp.router.weight"], source["model.layers.0.mlp.router.weight"])
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
    assert differs == bool(plan.losses)


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
