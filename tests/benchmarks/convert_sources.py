"""The logits of every kind of source, held against those of the program that wrote it.

    python -m tests.benchmarks.convert_sources

Random models; float32. Sources are converted, and those of mlx-lm also loaded as they are. The reference is mlx-lm
for its own quantisations (its YaRN not rounded), PEFT for adapters, and transformers on the same values for all
others. A loss is expected where experts that were floats are stored in fewer bits.

Measured on 2026-11-26: 66 of 69 sources within 2e-4 of the reference, the largest distance 1.2e-4; 32 directories
of mlx-lm as they are within 1e-5. Experts that were floats and that MXFP4 does not hold: 0.07 in 8 bits and 0.8 in
MXFP4; an adapter of experts: 0.3 in 8 bits.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.convert import QUANT_RECIPES, mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.convert.layouts import PER_EXPERT, UNSLOTH
from gptoss_mlx.model.rope import yarn_wavelengths
from gptoss_mlx.model.transformer import load_transformer
from tests.checkpoints import SHAPES, load_shape, random_tokens
from tests.convert.gguf_files import write_gguf, write_hugging_face
from tests.convert.sources import load_tensors, write_layout
from tests.convert.test_adapter import CASES
from tests.convert.test_mlx_lm import FORMS, WIDE, write_mlx_lm
from tests.convert.test_places import _per_expert, _save, _split, _stacked, _unsloth, _with_prefix
from tests.model.oracle import oracle_logits

Logits = npt.NDArray[np.float32]
Row = tuple[str, str, float]
"""Source, expectation, distance."""
EXACT = "<= 2e-4"
TOKENS = random_tokens("small", 60)


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore")
    print(f"{'source':<58}{'expected':>16}{'measured':>12}")
    with tempfile.TemporaryDirectory() as place:
        for part in (_layouts, _mlx_lm, _gguf, _adapters):
            root = Path(place) / part.__name__
            root.mkdir()
            for name, expected, distance in part(root):
                print(f"{name:<58}{expected:>16}{distance:>12.1e}", flush=True)


def _ours(directory: Path, tokens: list[int] = TOKENS, **options: Any) -> Logits:
    return np.asarray(load_transformer(directory, mx.float32, **options)(mx.array([tokens]))[0])


def _distance(source: Path, expected: Logits, tokens: list[int] = TOKENS, **options: Any) -> float:
    """Of the logits of a source's conversion from those expected."""
    target = source.with_name(f"{source.name}-converted")
    shutil.rmtree(target, ignore_errors=True)
    convert_checkpoint(source, target, **({"dense": "bf16"} | options))
    return float(np.abs(_ours(target, tokens) - expected).max())


def _float_experts(source: Path) -> Path:
    rng = np.random.default_rng(3)
    tensors = load_tensors(source)
    for name, array in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = mx.array(rng.normal(0, 0.1, array.shape).astype(np.float32)).astype(mx.bfloat16)
    _save(source, tensors)
    return source


def _layouts(root: Path) -> Iterator[Row]:
    expected = oracle_logits(write_layout("hf", root / "hf", **WIDE), TOKENS)
    changes: dict[str, tuple[str, Callable[[Path], None]]] = {
        "Hugging Face": ("hf", lambda source: None),
        "Hugging Face, three shards without an index": (
            "hf",
            lambda source: _split(source, [f"model-{n:05}-of-00002.safetensors" for n in range(3)]),
        ),
        "OpenAI's original/": ("original", lambda source: None),
        "mlx-lm, MXFP4 experts": ("mlx-lm", lambda source: None),
        "transformers, experts as floats on MXFP4's grid": ("fine-tune", lambda source: None),
        "a layer for each expert": ("fine-tune", _stacked(PER_EXPERT, _per_expert)),
        "Unsloth's layer for each expert": ("fine-tune", _stacked(UNSLOTH, _unsloth)),
        "PEFT's names": ("hf", _with_prefix),
        "PEFT's names, experts as floats": ("fine-tune", _with_prefix),
    }
    for number, (name, (layout, change)) in enumerate(changes.items()):
        source = write_layout(layout, root / f"layout{number}", **WIDE)
        change(source)
        yield name, EXACT, _distance(source, expected)
    source = _float_experts(write_layout("fine-tune", root / "floats", **WIDE))
    expected = _transformers(source)
    for experts, limit in (("bf16", EXACT), ("q8", "8 bits"), ("mxfp4", "4 bits")):
        yield f"fine-tune, float experts, --experts {experts}", limit, _distance(source, expected, experts=experts)


def _transformers(
    source: Path, change: Callable[[Any], Any] = lambda model: model, *, packed: bool = False
) -> Logits:
    """The logits of transformers, after a change of its model."""
    import torch
    import transformers

    model = transformers.GptOssForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        quantization_config=transformers.Mxfp4Config(dequantize=True) if packed else None,  # type: ignore[attr-defined]
        attn_implementation="eager",
    )
    with torch.no_grad():
        logits: Logits = change(model)(torch.tensor([TOKENS])).logits[0].float().numpy()
    return logits


def _peer(directory: Path) -> Logits:
    """The logits of mlx-lm, its YaRN not rounded."""
    model: Any = load_model(directory)[0]
    model.set_dtype(mx.float32)
    config = ModelConfig.from_directory(directory.with_name("shape"))
    for layer in model.model.layers:
        layer.self_attn.rope._freqs = yarn_wavelengths(config.head_dim, config.rope)
    return np.asarray(model(mx.array([TOKENS]))[0])


def _mlx_lm(root: Path) -> Iterator[Row]:
    write_layout("hf", root / "shape", **WIDE)
    source = _float_experts(write_layout("fine-tune", root / "source", **WIDE))
    floats = convert_checkpoint(source, root / "floats", dense="bf16", experts="bf16", to="mlx-lm").destination
    kinds: list[tuple[str, dict[str, Any]]] = [
        (
            f"mlx-lm {mode}, {bits or 'default'} bits, groups of {size or 'default'}",
            {"bits": bits, "group_size": size, "mode": mode},
        )
        for bits, size, mode in FORMS
    ]
    kinds += [
        (f"mlx-lm {recipe}, group_size {size}", {"recipe": recipe, "group_size": size})
        for recipe in QUANT_RECIPES
        for size in (None, 32)
    ]
    for number, (name, options) in enumerate(kinds):
        theirs = write_mlx_lm(floats, root / f"form{number}", partial(_quantised, **options))
        yield from _both(name, theirs)
    for dtype in (mx.float16, mx.float32):
        theirs = write_mlx_lm(floats, root / str(dtype), partial(_cast, dtype=dtype))
        name = f"mlx-lm affine, scales in {str(dtype).removeprefix('mlx.core.')}"
        yield from _both(name, theirs)


def _both(name: str, theirs: Path) -> Iterator[Row]:
    """mlx-lm's directory after its conversion, and as it is."""
    expected = _peer(theirs)
    yield name, EXACT, _distance(theirs, expected, dense=None)
    yield f"{name}, as it is", EXACT, float(np.abs(_ours(theirs) - expected).max())


def _quantised(
    model: Any, config: dict[str, Any], *, recipe: str | None = None, **options: Any
) -> tuple[Any, Any]:
    predicate = model.quant_predicate
    if recipe is not None:
        predicate = mixed_quant_predicate_builder(recipe, model, options["group_size"])
        options["bits"] = None
    return quantize_model(model, config, **options, quant_predicate=predicate)


def _cast(model: Any, config: dict[str, Any], dtype: mx.Dtype) -> tuple[Any, Any]:
    model.set_dtype(dtype)
    return quantize_model(model, config, 64, 4)


def _gguf(root: Path) -> Iterator[Row]:
    for name in SHAPES:
        source = load_shape(root / name, name)
        tokens = random_tokens(name)
        for dense in ("BF16", "F16", "Q8_0"):
            file = write_gguf(root / f"{name}-{dense}.gguf", source, dense)
            expected = oracle_logits(write_hugging_face(root / f"{name}-{dense}", source, dense), tokens)
            options = {"dense": None if dense == "Q8_0" else "bf16"}
            yield (
                f"GGUF of shape {name}, dense layers in {dense}",
                EXACT,
                _distance(file, expected, tokens, **options),
            )
    source, tokens = root / "small", random_tokens("small")
    expected = oracle_logits(root / "small-BF16", tokens)
    for name, first in (("Ollama's GGUF", False), ("Ollama's first GGUF, type 4", True)):
        file = write_gguf(root / name, source, ollama=True, first_ollama=first)
        yield name, EXACT, _distance(file, expected, tokens)


def _adapters(root: Path) -> Iterator[Row]:
    import peft
    import torch

    base = write_layout("hf", root / "base", **WIDE)
    for name, fields in CASES.items():
        config = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **fields)
        place = root / name

        def wrap(model: Any, config: Any = config, place: Path = place) -> Any:
            torch.manual_seed(1)
            wrapped = peft.get_peft_model(model, config)
            wrapped.save_pretrained(place)
            return wrapped

        expected = _transformers(base, wrap, packed=True)
        for experts in ("bf16", None) if name == "experts" else (None,):
            limit = EXACT if name != "experts" or experts else "8 bits"
            distance = _distance(base, expected, adapter=place, experts=experts)
            yield f"PEFT, {name}, merged{', --experts ' + experts if experts else ''}", limit, distance
        if name != "experts":
            distance = float(np.abs(_ours(base, adapter=place) - expected).max())
            yield f"PEFT, {name}, applied", EXACT, distance


if __name__ == "__main__":
    main()
