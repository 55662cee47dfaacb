"""GGUF files that Python's ``gguf`` package wrote: read exactly, or refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.checkpoint.gguf import BLOCKS, read_gguf
from gptoss_mlx.convert import carry_out, compare_weights, convert_checkpoint, plan_conversion
from gptoss_mlx.convert.gguf import _TYPES, gguf_values
from gptoss_mlx.convert.quantize import float32_blocks
from gptoss_mlx.convert.readers import SourceFiles
from gptoss_mlx.model.transformer import load_transformer
from gptoss_mlx.tokenizer import Tokenizer
from tests.checkpoints import SHAPES, load_shape, random_tokens
from tests.convert.gguf_files import write_gguf, write_hugging_face
from tests.convert.sources import load_tensors
from tests.model.oracle import oracle_logits

# Each shape once, and one shape in every type.
CASES = [*zip(SHAPES, ("BF16", "F16", "Q8_0", "BF16", "F16"), strict=True), ("small", "F16"), ("small", "Q8_0")]


@pytest.fixture(scope="module")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face checkpoint."""
    return load_shape(tmp_path_factory.mktemp("gguf") / "small", "small")


def _logits(directory: Path, name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    tokens = mx.array([random_tokens(name)])
    return np.asarray(load_transformer(directory, mx.float32)(tokens)[0])


@pytest.mark.parametrize(("name", "dense"), CASES)
def test_logits_equal_those_of_transformers_on_the_same_values(name: str, dense: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source = load_shape(tmp_path / "source", name)
    file = write_gguf(tmp_path / "model.gguf", source, dense)
    plan = plan_conversion(file, tmp_path / "out", dense=None if dense == "Q8_0" else "bf16")
    carry_out(plan)
    assert (plan.losses, plan.experts) == ((), "mxfp4")
    same_values = write_hugging_face(tmp_path / "same", source, dense)
    ours, theirs = _logits(tmp_path / "out", name), oracle_logits(same_values, random_tokens(name))
    assert np.abs(ours - theirs).max() <= 2e-4


@pytest.mark.parametrize("kind", ["ollama", "first_ollama"])
def test_ollamas_files_hold_the_same_experts(kind: str, small_source: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "blob", small_source, ollama=True, first_ollama=kind == "first_ollama")
    llama = write_gguf(tmp_path / "model.gguf", small_source)
    for name, source in (("ollama", file), ("llama", llama)):
        convert_checkpoint(source, tmp_path / name, dense="bf16")
    assert all(entry.largest == 0 for entry in compare_weights(tmp_path / "ollama", llama))
    packed = load_tensors(small_source)
    ours = load_tensors(tmp_path / "ollama")["layers.1.mlp.experts.gate_up_proj.weight"]
    blocks = packed["model.layers.1.mlp.experts.gate_up_proj_blocks"]
    assert np.asarray(ours).tobytes() == np.asarray(blocks).tobytes()


@pytest.mark.parametrize(
    "number", [number for number, (name, _, _) in BLOCKS.items() if name in _TYPES and number != 4]
)
def test_every_type_has_the_values_that_the_package_reads(number: int, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType(number)
    name, _, nbytes = BLOCKS[number]
    rng = np.random.default_rng(number)
    data = rng.integers(0, 256, (6, 2 * nbytes), dtype=np.uint8)
    halves = {"Q6_K": (208,), "MXFP4": ()}.get(name, (0, 2) if name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (0,))
    blocks = data.reshape(-1, nbytes)
    for place in halves:
        blocks[:, place : place + 2] = rng.normal(0, 1, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(100, 140, len(blocks))
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "gpt-oss")
    writer.add_tensor("a", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    record = read_gguf(tmp_path / "x.gguf").tensors["a"]
    with SourceFiles() as files:
        ours = float32_blocks(gguf_values(record, files), 0, 6)
    assert np.array_equal(ours, gguf.quants.dequantize(data, kind))


def test_the_tokenizer_comes_from_the_file(small_source: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", small_source)
    convert_checkpoint(file, tmp_path / "out", dense="bf16")
    tokenizer = Tokenizer.from_directory(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("Hei på deg <|end|>")) == "Hei på deg <|end|>"
    assert tokenizer.special_id("<|start|>") == 260
    assert tokenizer.encode("a<added>") == [97, 264]


def test_a_split_file_is_read_from_any_part(small_source: Path, tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", small_source)
    reader = gguf.GGUFReader(whole)
    names = [tmp_path / f"model-{n:05}-of-00002.gguf" for n in (1, 2)]
    for n, path in enumerate(names):
        writer = gguf.GGUFWriter(path, "gpt-oss")
        if n == 0:
            for field in reader.fields.values():
                if not field.name.startswith(("GGUF.", "general.architecture")):
                    kind = field.types[0]
                    writer.add_key_value(
                        field.name, field.contents(), kind, field.types[-1] if kind == 9 else None
                    )
        for tensor in list(reader.tensors)[n::2]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    for path in names:
        convert_checkpoint(path, tmp_path / path.stem, dense="bf16")
        assert all(entry.largest == 0 for entry in compare_weights(tmp_path / path.stem, whole))
