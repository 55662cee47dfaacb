"""LoRA adapters of PEFT and mlx-lm, merged and applied: the logits of the programs that wrote them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from gptoss_mlx.checkpoint.adapter import read_adapter
from gptoss_mlx.cli.app import app
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert_checkpoint, plan_conversion
from gptoss_mlx.engine.engine import Engine
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.model.rope import yarn_wavelengths
from gptoss_mlx.model.transformer import load_transformer
from tests import DEMO
from tests.convert.sources import write_layout

TOKENS = np.random.default_rng(5).integers(0, 320, (1, 40))
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SHAPE: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_local_experts": 4,
}

CASES: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ATTENTION},
    "some modules": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "a scale of its own": {
        "target_modules": ATTENTION,
        "alpha_pattern": {"v_proj": 3},
        "rank_pattern": {"q_proj": 2},
    },
    "experts": {
        "target_modules": ATTENTION,
        "target_parameters": ["0.mlp.experts.gate_up_proj", "0.mlp.experts.down_proj", "2.mlp.experts.down_proj"],
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with packed experts and bfloat16 dense layers."""
    return write_layout("hf", tmp_path_factory.mktemp("adapter") / "base", **SHAPE)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Adapters of PEFT, and the logits of transformers with each."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("peft")
    found = {}
    for name, fields in CASES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = transformers.GptOssForCausalLM.from_pretrained(
                base,
                dtype=torch.float32,
                quantization_config=transformers.Mxfp4Config(dequantize=True),
                attn_implementation="eager",
            )
            torch.manual_seed(1)
            config = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **fields)
            wrapped = peft.get_peft_model(model, config)
            wrapped.save_pretrained(root / name)
            with torch.no_grad():
                logits = wrapped(torch.tensor(TOKENS)).logits.numpy()
        found[name] = (root / name, logits)
    return found


def _distance(directory: Path, expected: Any, **options: Any) -> float:
    logits = load_transformer(directory, mx.float32, **options)(mx.array(TOKENS))
    return float(np.abs(np.asarray(logits) - expected).max())


@pytest.mark.parametrize("name", CASES)
def test_merged_logits_equal_pefts(
    name: str, base: Path, adapters: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    adapter, expected = adapters[name]
    plan = plan_conversion(base, tmp_path / "out", dense="bf16", adapter=adapter)
    assert plan.losses == (("experts are quantised to 8 bits",) if name == "experts" else ())
    convert_checkpoint(base, tmp_path / "out", dense="bf16", experts="bf16", adapter=adapter)
    assert _distance(tmp_path / "out", expected) <= 2e-4


def test_merged_experts_are_exact_before_they_are_stored(
    base: Path, adapters: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gptoss_mlx.convert.compare import load_source
    from gptoss_mlx.convert.source import open_source

    adapter, expected = adapters["experts"]
    with open_source(base, adapter) as source:
        logits = load_source(source, mx.float32)(mx.array(TOKENS))
    assert float(np.abs(np.asarray(logits) - expected).max()) <= 2e-4


@pytest.mark.parametrize("name", ["attention", "some modules", "a scale of its own"])
@pytest.mark.parametrize("converted", [False, True])
def test_applied_logits_equal_pefts(
    name: str, converted: bool, base: Path, adapters: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    adapter, expected = adapters[name]
    directory = convert_checkpoint(base, tmp_path / "out", dense="bf16").destination if converted else base
    assert _distance(directory, expected, adapter=adapter) <= 2e-4
    assert _distance(directory, expected) > 0.1


def _obeyed(error: pytest.ExceptionInfo[CheckpointError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs the command that a message ends in; returns the directory of its result."""
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "data"))
    words = shlex.split(str(error.value).partition("merge it: gptoss ")[2])
    done = CliRunner().invoke(app, [*words, "--dense", "bf16"])
    assert done.exit_code == 0, done.output
    (result,) = (path for path in (tmp_path / "data").iterdir() if not path.name.startswith("."))
    return result


def test_an_adapter_of_experts_is_merged_by_the_command_that_is_named(
    base: Path, adapters: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, expected = adapters["experts"]
    with pytest.raises(CheckpointError, match="changes experts, so it cannot be applied") as caught:
        load_transformer(base, adapter=adapter)
    result = _obeyed(caught, tmp_path, monkeypatch)
    assert result.name == "base-experts"  # another name than that of the model without it
    assert _distance(result, expected) < 0.1 * _distance(base, expected)


def test_an_adapter_beside_the_weights_is_merged_as_the_message_says(
    base: Path, adapters: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, expected = adapters["attention"]
    both = shutil.copytree(base, tmp_path / "both")
    for path in adapter.iterdir():
        shutil.copy(path, both)
    with pytest.raises(CheckpointError, match="beside the weights is an adapter") as caught:
        load_transformer(both)
    moved = re.search(r"; move it and adapter_config.json to (.*), and merge it", str(caught.value))
    assert moved is not None
    Path(moved[1]).mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (both / name).rename(Path(moved[1]) / name)
    assert _distance(_obeyed(caught, tmp_path, monkeypatch), expected) <= 2e-4


def _write_mlx_lm(base: Path, root: Path, keys: list[str]) -> tuple[Path, Any]:
    """An adapter of mlx-lm, and the logits of its model with it."""
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    source = convert_checkpoint(base, root / "mlx-lm", dense="bf16", to="mlx-lm").destination
    model: Any = load_model(source)[0]
    model.set_dtype(mx.float32)
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, 2, dict(parameters))
    mx.random.seed(3)
    changed = {
        name: mx.random.normal(array.shape) * 0.2
        for name, array in dict(tree_flatten(model.trainable_parameters())).items()
        if name.endswith(("lora_a", "lora_b"))
    }
    model.load_weights(list(changed.items()), strict=False)
    (root / "adapter").mkdir()
    mx.save_safetensors(str(root / "adapter/adapters.safetensors"), changed)
    settings = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (root / "adapter/adapter_config.json").write_text(json.dumps(settings))
    config = ModelConfig.from_directory(base)
    for layer in model.model.layers:
        layer.self_attn.rope._freqs = yarn_wavelengths(config.head_dim, config.rope)
    return root / "adapter", np.asarray(model(mx.array(TOKENS)))


@pytest.mark.parametrize(
    "keys",
    [["self_attn.q_proj", "self_attn.v_proj", "mlp.router"], ["mlp.experts.gate_proj", "mlp.experts.down_proj"]],
    ids=["attention and router", "experts"],
)
def test_adapters_of_mlx_lm_give_its_logits(keys: list[str], base: Path, tmp_path: Path) -> None:
    adapter, expected = _write_mlx_lm(base, tmp_path, keys)
    if "mlp.router" in keys:
        assert _distance(base, expected, adapter=adapter) <= 2e-4
        convert_checkpoint(base, tmp_path / "out", dense="bf16", adapter=adapter)
        assert _distance(tmp_path / "out", expected) <= 2e-4
    else:
        from gptoss_mlx.convert.compare import load_source
        from gptoss_mlx.convert.source import open_source

        with open_source(base, adapter) as source:
            logits = load_source(source, mx.float32)(mx.array(TOKENS))
        assert float(np.abs(np.asarray(logits) - expected).max()) <= 2e-4


def _write_peft(directory: Path, config: dict[str, Any], **tensors: Any) -> Path:
    """An adapter for the first layer's output projection."""
    directory.mkdir()
    name = "base_model.model.model.layers.0.self_attn.o_proj.lora_{}.weight"
    shapes = ModelConfig.from_directory(DEMO)
    arrays = {
        name.format("A"): np.full((2, shapes.query_size), 0.01, np.float32),
        name.format("B"): np.full((shapes.hidden_size, 2), 0.01, np.float32),
    } | tensors
    save_file(
        {key: value for key, value in arrays.items() if value is not None}, directory / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"} | config
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def test_the_command_that_a_plan_prints_finds_no_difference_from_base_and_adapter(tmp_path: Path) -> None:
    adapter = _write_peft(tmp_path / "adapter", {})
    arguments = ["convert", "demo", str(tmp_path / "out"), "--adapter", str(adapter), "--dense", "bf16"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    command = re.search(r"'gptoss (verify .*?)' reports 0", done.stdout)
    assert command is not None
    assert "nothing was lost" in CliRunner().invoke(app, shlex.split(command[1])).stdout
    without = CliRunner().invoke(app, shlex.split(command[1].partition(" --adapter")[0]))
    assert "nothing was lost" not in without.stdout
    assert json.loads((tmp_path / "out/manifest.json").read_text())["options"]["adapter"] == "adapter"


def test_the_library_applies_an_adapter(tmp_path: Path) -> None:
    adapter = _write_peft(tmp_path / "adapter", {"lora_alpha": 400})
    with Engine(DEMO, adapter=adapter) as changed, Engine(DEMO) as plain:
        prompt = mx.array([plain.tokenizer.encode("What is 2+3?")])
        assert not mx.array_equal(changed.transformer(prompt), plain.transformer(prompt))
        # A prompt cache of one is none of the other's.
        assert changed._fingerprint != plain._fingerprint


_O = "base_model.model.model.layers.0.self_attn.o_proj"
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, {}, "use_dora is True, which is not read; merge the adapter with PEFT"),
    "biases": ({"bias": "all"}, {}, "bias is 'all'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, {}, r"modules_to_save is \['lm_head'\]"),
    "another method": ({"peft_type": "IA3"}, {}, "peft_type is 'IA3'; only LORA is read"),
    "a scale that is none": ({"lora_alpha": "4"}, {}, "lora_alpha is '4'; a number is needed"),
    "a huge scale": ({"lora_alpha": 1e300}, {}, "lora_alpha is 1e"),
    "a pattern": ({"alpha_pattern": {"(a+)+$": 2}}, {}, "alpha_pattern is .*; an object with names is needed"),
    "another tensor": (
        {},
        {"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)},
        "is none that is read",
    ),
    "one factor": ({}, {f"{_O}.lora_B.weight": None}, "one of the two factors of .* is missing"),
    "another shape": ({}, {f"{_O}.lora_A.weight": np.zeros((2, 7), np.float32)}, "it is for another model"),
    "no numbers": ({}, {f"{_O}.lora_A.weight": np.full((2, 256), np.nan, np.float32)}, "no numbers|another model"),
    "a layer too many": (
        {},
        {f"{_O.replace('.0.', '.99.')}.lora_{side}.weight": np.zeros((2, 2), np.float32) for side in "AB"},
        "it is for another model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_adapter_changes_besides_is_refused(name: str, tmp_path: Path) -> None:
    config, tensors, match = REFUSED[name]
    adapter = _write_peft(tmp_path / "adapter", config, **tensors)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_adapter(adapter, ModelConfig.from_directory(DEMO))
    assert "\n" not in str(caught.value)


def test_a_directory_without_adapter_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json; name the directory"):
        read_adapter(tmp_path, ModelConfig.from_directory(DEMO))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="has no adapter_model"):
        read_adapter(tmp_path, ModelConfig.from_directory(DEMO))
