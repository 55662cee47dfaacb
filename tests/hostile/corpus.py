"""Checkpoint directories of an attacker: a good one with one change each."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from gptoss_mlx.checkpoint.safetensors import INDEX_NAME
from gptoss_mlx.tokenizer import CONTROL_TOKENS, O200K_PATTERN
from tests.checkpoints import load_shape

__all__ = ["CORPUS", "HARMLESS", "MARKER", "small_tokenizer_json", "write_good", "write_header", "write_json"]

MARKER = "code of the checkpoint ran"
"""What any code in the corpus would put into the environment."""

NUMBERS: tuple[Any, ...] = (0, -1, 2**31, 2**63, 1e308, float("nan"), 10**400, "64", [64], {}, True, None)


def small_tokenizer_json() -> dict[str, Any]:
    """Every byte and harmony's control tokens: the smallest tokenizer.json that is accepted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    characters = [chr(value) for value in printable] + [chr(256 + at) for at in range(len(others))]
    split = {"type": "Split", "pattern": {"Regex": O200K_PATTERN}, "behavior": "Isolated"}
    return {
        "added_tokens": [{"id": 256 + at, "content": name} for at, name in enumerate(CONTROL_TOKENS)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]},
        "model": {"type": "BPE", "vocab": {character: at for at, character in enumerate(characters)}},
    }


def write_good(place: Path) -> Path:
    """A checkpoint that loads."""
    load_shape(place, "small")
    write_json(place / "tokenizer.json", small_tokenizer_json())
    write_json(place / "generation_config.json", {"eos_token_id": [257]})
    return place


def write_json(path: Path, content: Any) -> None:
    """Writes a file with any content."""
    path.write_text(json.dumps(content), encoding="utf-8")


def write_header(path: Path, header: Any, data: bytes = b"") -> Path:
    """Writes a safetensors file with exactly this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        content = json.loads((place / name).read_text(encoding="utf-8"))
        change(content)
        write_json(place / name, content)

    return apply


def _set(name: str, **values: Any) -> Callable[[Path], None]:
    return _edit(name, lambda content: content.update(values))


def _replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        (place / name).unlink(missing_ok=True)
        make(place / name)

    return apply


def _sparse(path: Path) -> None:
    path.write_bytes((2**40 - 8).to_bytes(8, "little") + b"{")
    os.truncate(path, 2**40)


def _index(weight_map: Any) -> Callable[[Path], None]:
    return lambda place: write_json(place / INDEX_NAME, {"weight_map": weight_map})


def _nan_scales(place: Path) -> None:
    tensors = load_file(place / "model.safetensors")
    scales = next(name for name in tensors if name.endswith("down_proj_scales"))
    tensors[scales] = np.full_like(tensors[scales], 0xFF)
    save_file(tensors, place / "model.safetensors")


_CODE = f"import os\nos.environ[{MARKER!r}] = '1'\n"


class _Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (_CODE,)


def _pickled(name: str) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        (place / name).write_bytes(pickle.dumps(_Payload()))
        (place / "model.safetensors").unlink()

    return apply


def _with_code(place: Path) -> None:
    """Everything that other loaders run; it is ignored here, so the checkpoint loads."""
    for name in ("modeling_evil.py", "conftest.py", "sitecustomize.py", "__init__.py", "tokenization_evil.py"):
        (place / name).write_text(_CODE)
    (place / "json.py").write_text(_CODE)
    (place / "custom_generate").mkdir()
    (place / "custom_generate" / "generate.py").write_text(_CODE)
    (place / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    (place / "tokenizer.pkl").write_bytes(pickle.dumps(_Payload()))
    names = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "evil/repo--modeling_evil.Model"}
    _set("config.json", auto_map=names, model_file="modeling_evil.py", trust_remote_code=True)(place)
    tokenizer = {
        "auto_map": {"AutoTokenizer": ["tokenization_evil.T", None]},
        "chat_template": "{{ cycler.__init__ }}",
    }
    write_json(place / "tokenizer_config.json", tokenizer)


OPTIONAL = ("generation_config.json", INDEX_NAME)


def _changes() -> Iterator[tuple[str, Callable[[Path], None]]]:
    for name in ("config.json", "tokenizer.json", "model.safetensors", *OPTIONAL):
        yield f"{name} is a FIFO", _replace(name, os.mkfifo)
        yield f"{name} is a directory", _replace(name, Path.mkdir)
        yield f"{name} links to a device", _replace(name, lambda path: path.symlink_to("/dev/zero"))
        yield f"{name} links out", _replace(name, lambda path: path.symlink_to("/etc/passwd"))
        yield f"{name} has a terabyte", _replace(name, _sparse)
        if name not in OPTIONAL:  # a broken link is not a file
            yield f"{name} links to itself", _replace(name, lambda path: path.symlink_to(path.name))
        for what, content in {
            "empty": b"",
            "no JSON": b"{",
            "no object": b"[]",
            "nested deeply": b"[" * 100_000,
            "UTF-16": '{"a": 1}'.encode("utf-16"),
            "half a surrogate pair": b'{"a": "\xed\xa0\x80"}',
            "a duplicate key": b'{"a": 1, "a": 1}',
        }.items():
            yield f"{name} is {what}", _replace(name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    for field in ("vocab_size", "num_hidden_layers", "head_dim", "rms_norm_eps", "rope_theta", "sliding_window"):
        for value in NUMBERS[:-1]:
            yield f"{field} is {str(value)[:20]!r}", _set("config.json", **{field: value})
    yield "rope_scaling is a list", _set("config.json", rope_scaling=[1])
    yield (
        "an unknown key with control characters",
        _edit("config.json", lambda content: content["rope_scaling"].update({"a\n\x1b[2J": 1})),
    )
    for token in (-1, 2**31, 1e308, [None], [[5]], "x", None):
        yield f"eos_token_id is {token!r}", _set("generation_config.json", eos_token_id=token)
    for pattern in ("", "x", "(", "a" * 1_000_000, r"(?=(a+)+$)x", "\ud800", 5):
        steps = {"type": "Split", "pattern": {"Regex": pattern}}
        yield f"the pattern is {str(pattern)[:10]!r}", _set("tokenizer.json", pre_tokenizer=steps)
    yield (
        "a control token is half a pair",
        _edit("tokenizer.json", lambda content: content["added_tokens"].append({"id": 300, "content": "\ud800"})),
    )
    yield (
        "a token of id 2^63",
        _edit("tokenizer.json", lambda content: content["model"]["vocab"].update({"ab": 2**63})),
    )
    for shard in (
        "../model.safetensors",
        "/etc/passwd",
        "a\x00.safetensors",
        "a" * 5000 + ".safetensors",
        "\ud800",
        5,
    ):
        yield f"the index names {str(shard)[:20]!r}", _index({"a": shard})
    yield "the index is a list", _index(["model.safetensors"])
    yield "NaN scales", _nan_scales
    yield "a pickle alone", _pickled("pytorch_model.bin")
    yield (
        "a pickle called safetensors",
        _replace("model.safetensors", lambda path: path.write_bytes(pickle.dumps(_Payload()))),
    )
    yield (
        "a GGUF file called safetensors",
        _replace("model.safetensors", lambda path: path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)),
    )
    yield (
        "a header that says 2^63 bytes",
        _replace("model.safetensors", lambda path: path.write_bytes(struct.pack("<Q", 2**63) + b"{}")),
    )
    yield (
        "a name with an escape sequence",
        _replace(
            "model.safetensors",
            lambda path: write_header(
                path, {"\x1b]0;a\x07": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
            ),
        ),
    )


CORPUS: dict[str, Callable[[Path], None]] = dict(_changes())
"""By what is wrong: turns a good checkpoint into one that must be refused."""

HARMLESS: dict[str, Callable[[Path], None]] = {"code beside the weights": _with_code}
"""What is not refused, since it is not looked at."""
