"""``verify`` names everything that differs from the files that were written."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from gptoss_mlx.cli import convert, verify
from gptoss_mlx.config import PRECISIONS
from gptoss_mlx.convert import compare_logits, compare_weights, convert_checkpoint, verify_checkpoint
from gptoss_mlx.convert.manifest import Manifest
from gptoss_mlx.errors import CheckpointError, ConversionError
from tests import DEMO
from tests.checkpoints import load_shape
from tests.convert.gguf_files import write_gguf
from tests.convert.sources import LOSSLESS, load_tensors, write_layout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint."""
    return write_layout("hf", tmp_path_factory.mktemp("source") / "hf", num_hidden_layers=1, vocab_size=64)


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    """Its conversion."""
    convert_checkpoint(source, tmp_path / "out", dense="q8")
    return tmp_path / "out"


def _named(directory: Path) -> list[str]:
    """The problems that verify reports; a changed manifest is one of them."""
    try:
        return list(verify_checkpoint(directory).problems)
    except CheckpointError as error:
        return [str(error)]


def test_any_flipped_bit_is_named(converted: Path) -> None:
    """Flips 100 bits, in every file; the long run is ``tests/benchmarks/convert_flips.py``."""
    rng = np.random.default_rng(11)
    files = sorted(converted.iterdir())
    for number in range(100):
        path = files[number % len(files)]
        original = path.read_bytes()
        changed = bytearray(original)
        bit = int(rng.integers(len(original) * 8))
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert any(path.name in problem for problem in _named(converted)), (path.name, bit)
        path.write_bytes(original)
    assert verify_checkpoint(converted).ok


def _change_the_last_byte(converted: Path) -> Path:
    """Of its only shard, which it returns: the last tensor's."""
    (shard,) = converted.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return shard


def test_a_changed_tensor_is_named(converted: Path) -> None:
    shard = _change_the_last_byte(converted)
    (problem,) = verify_checkpoint(converted).problems
    assert problem == f"{shard}: tensor lm_head.biases differs"


@pytest.mark.parametrize("place", [3, 40, 2000])
def test_a_damaged_header_is_one_line(converted: Path, place: int) -> None:
    (shard,) = converted.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[place : place + 4] = b"}}}}"
    shard.write_bytes(data)
    (problem,) = verify_checkpoint(converted).problems
    assert problem.startswith(f"{shard}: ")
    assert "\n" not in problem


def test_many_changed_tensors_of_a_file_are_one_line(converted: Path) -> None:
    (shard,) = converted.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 :] = bytes(byte ^ 1 for byte in data[len(data) // 2 :])
    shard.write_bytes(data)
    (problem,) = verify_checkpoint(converted).problems
    assert len(problem) < 400
    assert problem.endswith("others")


def test_missing_truncated_and_added_files_are_named(converted: Path) -> None:
    (converted / "tokenizer.json").unlink()
    (converted / "extra.safetensors").write_bytes(b"")
    (converted / "config.json").write_text("{}")
    named = "\n".join(verify_checkpoint(converted).problems)
    for words in (
        "tokenizer.json: missing",
        "extra.safetensors: is not in the manifest",
        "config.json: has 2 bytes",
    ):
        assert words in named


def test_a_directory_without_manifest_cannot_be_verified(source: Path) -> None:
    with pytest.raises(CheckpointError, match=r"manifest.json: missing; only what 'gptoss convert' wrote"):
        verify_checkpoint(source)


def test_a_manifest_of_a_newer_version_says_so(converted: Path) -> None:
    path = converted / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    with pytest.raises(CheckpointError, match="its format is 3, this version reads 2"):
        verify_checkpoint(converted)


def test_a_manifest_whose_files_are_hashed_whole_is_verified_too(converted: Path) -> None:
    """Format 1: what was converted before stays verifiable."""
    new = Manifest.read(converted)
    files = {
        name: replace(entry, sha256=hashlib.sha256((converted / name).read_bytes()).hexdigest())
        for name, entry in new.files.items()
    }
    (converted / "manifest.json").write_text(replace(new, files=files, format=1).text())
    assert verify_checkpoint(converted).ok
    shard = _change_the_last_byte(converted)
    assert verify_checkpoint(converted).problems == (f"{shard}: tensor lm_head.biases differs",)


def test_a_tensor_that_the_manifest_does_not_know_is_named(converted: Path) -> None:
    manifest = Manifest.read(converted)
    tensors = {name: entry for name, entry in manifest.tensors.items() if name != "lm_head.biases"}
    (converted / "manifest.json").write_text(replace(manifest, tensors=tensors).text())
    (problem,) = verify_checkpoint(converted).problems
    assert problem.endswith("tensor lm_head.biases differs")


def test_differences_from_the_source_are_the_quantisation_and_nothing_else(source: Path, converted: Path) -> None:
    changed = {entry.kind for entry in compare_weights(converted, source) if entry.largest != 0}
    assert changed == {
        "embed_tokens.weight",
        "self_attn.qkv_proj.weight",
        "self_attn.o_proj.weight",
        "lm_head.weight",
    }


def test_another_model_cannot_be_compared(converted: Path, tmp_path: Path) -> None:
    other = write_layout("hf", tmp_path / "other", num_hidden_layers=2)
    with pytest.raises(ConversionError, match=r"config.json describes another model"):
        compare_weights(converted, other)


class _Letters:
    """Replaces the tokenizer, which these random checkpoints lack."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 64 for letter in text]


def test_predictions_are_compared_on_a_text(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_mlx.convert.compare.Tokenizer.from_directory", lambda directory: _Letters())
    text = "Any text will do, if it is long enough."
    for dense in PRECISIONS:
        convert_checkpoint(source, tmp_path / dense, dense=dense)
    results = {dense: compare_logits(tmp_path / dense, source, text) for dense in PRECISIONS}
    assert results["bf16"].positions == len(text)
    assert results["bf16"].mean_kl == results["bf16"].largest_kl == 0
    assert results["bf16"].top1_agreement == 1
    assert 0 < results["q8"].mean_kl < results["q4"].mean_kl
    with pytest.raises(ConversionError, match="the text is empty"):
        compare_logits(source, source, "")


@pytest.mark.parametrize("layout", [*LOSSLESS, "mlx-lm-q4"])
def test_predictions_of_every_source_can_be_compared(
    layout: str, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_mlx.convert.compare.Tokenizer.from_directory", lambda directory: _Letters())
    convert_checkpoint(sources[layout], tmp_path / "out", dense=None if "q4" in layout else "bf16")
    result = compare_logits(tmp_path / "out", sources[layout], "Any text will do.")
    # The same kernels compute the same; those of floats round elsewhere than those of MXFP4.
    assert result.largest_kl <= (0.01 if layout == "fine-tune" else 0)


def test_keys_and_values_in_8_bits_change_predictions_little() -> None:
    text = "The user asks for a fact about gpt-oss: layers. What is 12+30? " * 6
    exact, quantised = (compare_logits(DEMO, DEMO, text, kv_bits=bits) for bits in (None, 8))
    assert (exact.mean_kl, exact.top1_agreement) == (0, 1)
    assert 0 < quantised.mean_kl < 0.01
    assert quantised.top1_agreement > 0.95


# The commands.


@pytest.fixture
def app() -> Typer:
    """An application with both commands only."""
    application = Typer()
    convert.register(application)
    verify.register(application)
    return application


def test_convert_and_verify_by_command(app: Typer, source: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["convert", str(source), target, "--dense", "bf16", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["dense"] == "bf16"
    result = CliRunner().invoke(app, ["verify", target, "--against", str(source)])
    assert result.exit_code == 0
    assert "all as written" in result.stdout
    assert "nothing was lost" in result.stdout
    with (tmp_path / "out/config.json").open("ab") as file:
        file.write(b" ")
    result = CliRunner().invoke(app, ["verify", target, "--json"])
    assert result.exit_code == 3
    assert not json.loads(result.stdout)["ok"]


@pytest.mark.parametrize(
    ("dense", "loses"), [("bf16", "nothing"), ("q8", "attention, embedding and head are rounded to 8 bits")]
)
def test_plan_remarks_and_report_say_what_is_lost_and_how_to_measure_it(
    app: Typer, source: Path, tmp_path: Path, dense: str, loses: str
) -> None:
    arguments = ["convert", str(source), str(tmp_path / "out"), "--dense", dense]
    plan = CliRunner().invoke(app, [*arguments, "--dry-run"]).stdout
    done = CliRunner().invoke(app, arguments)
    for text in (plan, done.stderr, done.stdout):
        rows = dict(re.findall(r"^ *(dense layers|reason|loses|read for a token):? +(.*)$", text, re.M))
        assert (rows["dense layers"], rows["reason"]) == (dense, "as asked for")
        assert rows["loses"].startswith(f"{loses}; 'gptoss verify ")
        assert " in q4" in rows["read for a token"]
    # The printed command is obeyed.
    command = re.search(r"'gptoss (verify .*?)' (reports 0|measures it)", plan)
    assert command is not None
    measured = json.loads(CliRunner().invoke(app, [*shlex.split(command[1]), "--json"]).stdout)["weights"]
    largest = max(entry["largest"] for entry in measured)
    assert (largest == 0) == (dense == "bf16") == (command[2] == "reports 0")


def test_a_dry_run_writes_nothing(app: Typer, source: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--dry-run", "--json"])
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert plan["bytes_needed"] > plan["bytes_out"] > 0
    assert (plan["dense"], plan["losses"]) == ("bf16", [])
    assert plan["bytes_per_token"]["bf16"] > plan["bytes_per_token"]["q8"] > plan["bytes_per_token"]["q4"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_plan_begins_with_what_it_costs(app: Typer, source: Path, tmp_path: Path) -> None:
    plan = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--dry-run"]).stdout
    title, download, disk, time, *_ = plan.splitlines()
    assert "Plan" in title
    assert re.fullmatch(r" +download +nothing", download)
    assert re.fullmatch(r" +on disk +[\d.]+ .B, source and result together", disk)
    assert re.fullmatch(r" +time +about \d+ s at [\d.]+ .B/s, measured here", time)


def test_experts_to_mxfp4_show_the_error_of_each_tensor_first(app: Typer, tmp_path: Path) -> None:
    source = write_layout("fine-tune", tmp_path / "source", num_hidden_layers=1)
    tensors = load_tensors(source)
    name = "model.layers.0.mlp.experts.down_proj"
    tensors[name] = tensors[name] * 1.1
    mx.eval(tensors)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    arguments = ["convert", str(source), str(tmp_path / "out"), "--experts", "mxfp4"]
    for text in (
        CliRunner().invoke(app, [*arguments, "--dry-run"]).stdout,
        CliRunner().invoke(app, arguments).stderr,
    ):
        (line,) = [line for line in text.splitlines() if "down_proj" in line]
        assert re.search(r"layers.0.mlp.experts.down_proj.weight:? +relative error \d+\.\d+%, largest", line)
        assert "gate_up" not in text  # stays on the grid


def test_verify_takes_a_gguf_file_as_the_source(app: Typer, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x.gguf", load_shape(tmp_path / "small", "small"), "Q8_0")
    target = str(tmp_path / "out")
    assert CliRunner().invoke(app, ["convert", str(file), target]).exit_code == 0
    result = CliRunner().invoke(app, ["verify", target, "--against", str(file), "--prompt", "any text"])
    assert result.exit_code == 0
    assert "nothing was lost" in result.stdout
    assert re.search(r"largest KL divergence +0 nats", result.stdout)


def test_the_report_names_the_next_command(
    app: Typer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "data"))
    named = tmp_path / "mine"
    shutil.copytree(source, named)
    result = CliRunner().invoke(app, ["convert", str(named), "--dense", "q8"])
    assert result.exit_code == 0
    assert "next: gptoss chat -m mine" in result.stdout
    assert (tmp_path / "data/mine/manifest.json").exists()
