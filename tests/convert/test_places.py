"""Checkpoints as people have them: files that disks add, links, shards without an index, other programs' files."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from typer.testing import CliRunner

from gptoss_mlx.checkpoint.layouts import HUGGING_FACE, Row
from gptoss_mlx.cli.app import app
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import compare_weights, convert_checkpoint
from gptoss_mlx.convert.layouts import PER_EXPERT, UNSLOTH
from gptoss_mlx.engine.engine import Engine
from gptoss_mlx.errors import CheckpointError, ConfigError, GptOssError, ModelNotFound
from gptoss_mlx.hub import models as hub
from gptoss_mlx.model.transformer import load_transformer
from tests.convert.gguf_files import write_gguf
from tests.convert.sources import Tensors, expect_refusal, load_tensors, write_layout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Hugging Face checkpoint."""
    return write_layout("hf", tmp_path / "hf", num_hidden_layers=1)


def _save(directory: Path, tensors: Tensors, name: str = "model.safetensors") -> None:
    mx.eval(tensors)
    mx.save_safetensors(str(directory / name), tensors)


def _is_equal(made: Path, source: Path, tmp_path: Path) -> bool:
    """Whether a source converts, and to the values of another."""
    convert_checkpoint(made, tmp_path / "out", dense="bf16")
    return all(entry.largest == 0 for entry in compare_weights(tmp_path / "out", source))


def _split(source: Path, names: list[str]) -> None:
    """Distributes the tensors of a checkpoint over shards."""
    tensors = load_tensors(source)
    mx.eval(tensors)
    (source / "model.safetensors").unlink()
    for number, name in enumerate(names):
        _save(source, dict(sorted(tensors.items())[number :: len(names)]), name)


def test_files_that_exfat_adds_are_ignored(source: Path, tmp_path: Path) -> None:
    reference = shutil.copytree(source, tmp_path / "reference")
    _split(source, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    for path in list(source.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(100))
    assert _is_equal(source, reference, tmp_path)


@pytest.mark.parametrize("first", [0, 1])
def test_a_complete_set_of_shards_needs_no_index(first: int, source: Path, tmp_path: Path) -> None:
    reference = shutil.copytree(source, tmp_path / "reference")
    names = [f"model-{n:05}-of-00002.safetensors" for n in range(first, 3)]
    _split(source, names)
    load_transformer(source)
    assert _is_equal(source, reference, tmp_path)
    (source / names[-2]).unlink()
    expect_refusal(source, tmp_path / "no", CheckpointError, "shard 00001 of 00002 is missing")


def test_a_link_out_of_the_directory_names_the_remedy(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (source / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    expect_refusal(source, tmp_path / "out", CheckpointError, "put the file itself there")
    (source / "model.safetensors").unlink()
    shutil.copy(tmp_path / "elsewhere.safetensors", source / "model.safetensors")
    convert_checkpoint(source, tmp_path / "out", dense="bf16")


def _cached(source: Path, home: Path, digest: str) -> Path:
    """The checkpoint as a snapshot of the Hub's cache."""
    snapshot, blobs = home / "models--a--b" / "snapshots" / ("0" * 40), home / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        blob = blobs / digest.format(number)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_blobs_of_the_hub_that_were_moved_and_linked_are_found(source: Path, tmp_path: Path) -> None:
    snapshot = _cached(source, tmp_path / "cache", f"{{:0{64}x}}")
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "other disk")
    blobs.symlink_to(tmp_path / "other disk")
    assert _is_equal(snapshot, source, tmp_path)


def test_what_is_linked_as_blobs_must_be_named_by_a_hash(source: Path, tmp_path: Path) -> None:
    snapshot = _cached(source, tmp_path / "cache", "secret-{}")
    expect_refusal(snapshot, tmp_path / "out", CheckpointError, "links out of the directory")


def test_a_directory_that_holds_only_original_is_its_original(tmp_path: Path) -> None:
    source = write_layout("original", tmp_path / "model" / "original", num_hidden_layers=1)
    (source / "tokenizer.json").rename(tmp_path / "model" / "tokenizer.json")
    assert _is_equal(tmp_path / "model", source, tmp_path)


def _stacked(rows: tuple[Row, ...], change: Callable[[str, mx.array], Tensors]) -> Callable[[Path], None]:
    """Rewrites a fine-tune's experts as a linear layer for each."""

    def rewrite(source: Path) -> None:
        tensors: Tensors = {}
        for name, array in load_tensors(source).items():
            tensors |= change(name, array) if ".experts." in name else {name: array}
        names = {row.sources[0].name.split("{n}")[-1].replace("{e}", "0") for row in rows}
        assert any(name.endswith(end) for name in tensors for end in names if ".experts." in end)
        _save(source, tensors)

    return rewrite


def _per_expert(name: str, array: mx.array) -> Tensors:
    """``experts.3.gate_proj.weight`` and so on."""
    base, module = name.rsplit(".", 1)
    module, part = (module.removesuffix("_bias"), "bias") if module.endswith("_bias") else (module, "weight")
    made: Tensors = {}
    for number in range(array.shape[0]):
        whole = mx.contiguous(array[number].T) if part == "weight" else array[number]
        cuts = {"gate_proj": whole[0::2], "up_proj": whole[1::2]} if "gate_up" in module else {module: whole}
        made |= {f"{base}.{number}.{cut}.{part}": mx.contiguous(value) for cut, value in cuts.items()}
    return made


def _unsloth(name: str, array: mx.array) -> Tensors:
    """``experts.gate_up_projs.3.weight`` and so on."""
    base, module = name.rsplit(".", 1)
    module, part = (module.removesuffix("_bias"), "bias") if module.endswith("_bias") else (module, "weight")
    return {
        f"{base}.{module}s.{number}.{part}": mx.contiguous(array[number].T) if part == "weight" else array[number]
        for number in range(array.shape[0])
    }


def _with_prefix(source: Path) -> None:
    _save(source, {f"base_model.model.{name}": array for name, array in load_tensors(source).items()})


@pytest.mark.parametrize(
    ("layout", "rewrite"),
    [
        ("fine-tune", _stacked(PER_EXPERT, _per_expert)),
        ("fine-tune", _stacked(UNSLOTH, _unsloth)),
        ("fine-tune", _with_prefix),
        ("hf", _with_prefix),
    ],
    ids=["a layer for each expert", "Unsloth's", "PEFT, unpacked", "PEFT"],
)
def test_other_names_of_the_same_tensors_are_read(
    layout: str, rewrite: Callable[[Path], None], tmp_path: Path
) -> None:
    source = write_layout(layout, tmp_path / "source", num_hidden_layers=1)
    reference = shutil.copytree(source, tmp_path / "reference")
    rewrite(source)
    assert _is_equal(source, reference, tmp_path)


def _lfs_pointer(source: Path) -> None:
    (source / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4792272488\n"
    )


def _adapter(source: Path) -> None:
    (source / "model.safetensors").unlink()
    name = "unsloth/gpt-oss-20b-unsloth-bnb-4bit"  # which is not read, but has the released weights
    (source / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
    _save(source, {"base_model.model.a.lora_A.weight": mx.zeros((2, 2))}, "adapter_model.safetensors")


def _adapter_beside(source: Path) -> None:
    _save(source, {"base_model.model.a.lora_A.weight": mx.zeros((2, 2))}, "adapter_model.safetensors")


def _pickled_adapter_beside(source: Path) -> None:
    (source / "adapter_model.bin").write_bytes(b"")


def _gguf(source: Path) -> None:
    (source / "model.safetensors").unlink()
    (source / "model.gguf").write_bytes(b"GGUF")


def _bitsandbytes(source: Path) -> None:
    values = json.loads((source / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (source / "config.json").write_text(json.dumps(values))
    tensors = {name: array for name, array in load_tensors(source).items() if ".experts." not in name}
    _save(source, tensors | {"model.layers.0.mlp.experts.gate_up_projs.0.weight": mx.zeros((9, 1), mx.uint8)})


def _pickle(source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a git-lfs pointer": (_lfs_pointer, "is a git-lfs pointer, .* git lfs pull"),
    "a LoRA adapter": (_adapter, "is a LoRA adapter, .* gptoss convert 20b --adapter"),
    "an adapter beside the weights": (_adapter_beside, "adapter_model.safetensors beside the weights"),
    "a pickled adapter beside the weights": (_pickled_adapter_beside, "adapter_model.bin beside the weights"),
    "a GGUF file in a directory": (_gguf, "only model.gguf, a GGUF file; .*gptoss convert"),
    "weights of bitsandbytes": (_bitsandbytes, "quantised by 'bitsandbytes', .* name the model it was made from"),
    "a pickle": (_pickle, "only pytorch_model.bin; pickles are never read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_checkpoint_is_named_for_what_it_is(name: str, source: Path, tmp_path: Path) -> None:
    change, match = REFUSED[name]
    change(source)
    expect_refusal(source, tmp_path / "out", CheckpointError, match)
    with pytest.raises(CheckpointError, match=match if name != "weights of bitsandbytes" else "convert it first"):
        load_transformer(source)


def test_a_tokenizer_that_git_lfs_did_not_fetch_is_named_for_what_it_is(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2786\n"
    )
    expect_refusal(source, tmp_path / "out", CheckpointError, r"a git-lfs pointer, .* git lfs pull")
    with pytest.raises(CheckpointError, match=r"a git-lfs pointer, .* git lfs pull"):
        Engine(source)


def test_only_repositories_have_revisions(source: Path) -> None:
    done = CliRunner().invoke(app, ["convert", str(source), "--revision", "main"])
    assert (done.exit_code, "only a repository of the Hub has revisions" in done.output) == (2, True)


def _config(source: Path, **fields: Any) -> None:
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | fields))


def test_another_alpha_is_refused(source: Path, tmp_path: Path) -> None:
    _config(source, swiglu_alpha=1.702)
    assert ModelConfig.from_directory(source).ignored == ()
    _config(source, swiglu_alpha=1.5)
    expect_refusal(source, tmp_path / "out", ConfigError, "swiglu_alpha is 1.5; gpt-oss has 1.702")


@pytest.mark.parametrize(
    "content", [{"model": {"vocab": {"a": 320}}}, {"added_tokens": [{"id": 400, "content": "a"}]}]
)
def test_a_tokenizer_larger_than_the_vocabulary_is_refused_first(
    content: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    (source / "tokenizer.json").write_text(json.dumps(content))
    expect_refusal(source, tmp_path / "out", CheckpointError, r"has ids up to \d+, config.json vocab_size 320")


def test_spaces_before_a_header_are_valid(source: Path, tmp_path: Path) -> None:
    reference = shutil.copytree(source, tmp_path / "reference")
    data = (source / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    (source / "model.safetensors").write_bytes(struct.pack("<Q", length + 3) + b"   " + data[8:])
    load_transformer(source)
    assert _is_equal(source, reference, tmp_path)


# Files of other programs.


@pytest.fixture
def gguf_file(source: Path, tmp_path: Path) -> Path:
    """A GGUF file."""
    return write_gguf(tmp_path / "gpt-oss-x.gguf", _in_float32(source))


def _in_float32(source: Path) -> Path:
    tensors = load_tensors(source)
    _save(
        source, {n: t.astype(mx.float32) if mx.issubdtype(t.dtype, mx.floating) else t for n, t in tensors.items()}
    )
    return source


def test_a_file_is_converted_by_its_path(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "data"))
    assert convert_checkpoint("gpt-oss-x.gguf", dense="bf16").destination == tmp_path / "data" / "gpt-oss-x"
    with pytest.raises(ModelNotFound, match="is a GGUF file; name the model it was converted to: gpt-oss-x"):
        hub.resolve("gpt-oss-x.gguf")
    with pytest.raises(ModelNotFound, match="no such file; name a GGUF file"):
        hub.resolve("another.gguf")
    (tmp_path / "a").mkdir()
    gguf_file.rename(tmp_path / "a" / "b.gguf")
    assert hub.find_source("a/b.gguf") == Path("a/b.gguf")  # not a repository
    with pytest.raises(ModelNotFound, match=r"is a GGUF file; convert it once: gptoss convert a/b\.gguf"):
        hub.resolve("a/b.gguf")


def test_ollamas_models_are_found_by_name(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "data"))
    digest = "ab" * 32
    blob = tmp_path / "ollama" / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True)
    gguf_file.rename(blob)
    manifest = tmp_path / "ollama/manifests/registry.ollama.ai/library/gpt-oss/20b"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 3}
    others = {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "00" * 32, "size": 3}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [others, layer]}))
    assert hub.find_source("ollama:gpt-oss:20b") == blob
    assert convert_checkpoint("ollama:gpt-oss:20b", dense="bf16").destination == tmp_path / "data" / "gpt-oss-20b"
    with pytest.raises(ModelNotFound, match="ollama pull gpt-oss:120b"):
        hub.find_source("ollama:gpt-oss:120b")
    manifest.write_text(json.dumps({"layers": [layer | {"digest": "sha256:../../../etc/passwd"}]}))
    with pytest.raises(CheckpointError, match="names no file of a model"):
        hub.find_source("ollama:gpt-oss:20b")
    for name in ("ollama:../x", "ollama:a/b/c/d/e", "ollama:", "ollama:a:b:c"):
        with pytest.raises(ModelNotFound, match="is no name of Ollama's"):
            hub.find_source(name)


@pytest.mark.parametrize("home", [".lmstudio/models", ".cache/lm-studio/models"])
def test_lm_studios_folders_are_found_by_name(
    home: str, gguf_file: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / home / "lmstudio-community"
    shutil.copytree(source, folder / "gpt-oss-20b-MLX")
    (folder / "gpt-oss-20b-GGUF").mkdir()
    gguf_file.rename(folder / "gpt-oss-20b-GGUF" / "x.gguf")
    for prefix in ("", "lmstudio:"):
        assert hub.find_source(f"{prefix}lmstudio-community/gpt-oss-20b-MLX") == folder / "gpt-oss-20b-MLX"
        found = hub.find_source(f"{prefix}lmstudio-community/gpt-oss-20b-GGUF")
        assert found == folder / "gpt-oss-20b-GGUF" / "x.gguf"
    with pytest.raises(ModelNotFound, match="LM Studio has no model"):
        hub.find_source("lmstudio:someone/else")
    shutil.copy(found, found.with_name("y.gguf"))
    with pytest.raises(CheckpointError, match="has 2 GGUF files; name one"):
        hub.find_source("lmstudio:lmstudio-community/gpt-oss-20b-GGUF")


def test_references_of_the_hub() -> None:
    meant = {
        "openai/gpt-oss-20b": ("openai/gpt-oss-20b", None),
        "20b": ("openai/gpt-oss-20b", None),
        "20b@refs/pr/3": ("openai/gpt-oss-20b", "refs/pr/3"),
        "a/b@v1.0": ("a/b", "v1.0"),
        "https://huggingface.co/a/b": ("a/b", None),
        "https://huggingface.co/a/b/": ("a/b", None),
        "hf.co/a/b/tree/main": ("a/b", "main"),
        "https://huggingface.co/a/b/blob/abc123/config.json?download=true": ("a/b", "abc123"),
    }
    for reference, (repo_id, revision) in meant.items():
        repository = hub.repository_of(reference)
        assert repository is not None, reference
        assert (repository.repo_id, repository.revision) == (repo_id, revision)
    for reference in (
        "a/b@../x",
        "https://example.com/a/b",
        "./a/b",
        "a/b@",
        "https://huggingface.co/a",
        "a/b.gguf",
    ):
        found = hub.repository_of(reference)
        assert found is None or found.revision is None, reference


def test_an_existing_path_with_one_slash_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("not a model")
    assert hub.repository_of("a/b") is None
    assert hub.repository_of("a/missing.gguf") is None
    with pytest.raises(GptOssError, match="a/b: is neither a directory nor a GGUF file"):
        hub.find_source("a/b")


def test_every_row_of_the_tables_has_a_source() -> None:
    targets = [row.target for row in HUGGING_FACE]
    assert [row.target for row in PER_EXPERT] == [row.target for row in UNSLOTH] == targets
