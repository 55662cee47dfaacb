"""Checkpoints from strangers: they run no code, do not lead out of the directory, and fail with typed errors.

The long run of the first part is ``tests/benchmarks/trust_headers.py``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.checkpoint.safetensors import INDEX_NAME, Checkpoint, read_header
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert_checkpoint, verify_checkpoint
from gptoss_mlx.convert.layouts import hugging_face_config
from gptoss_mlx.convert.manifest import Manifest
from gptoss_mlx.errors import CheckpointError, ConfigError, GptOssError, InvalidRequest, TokenizerError
from gptoss_mlx.tokenizer import CONTROL_TOKENS, O200K_PATTERN, Tokenizer
from tests import ROOT
from tests.checkpoints import random_config
from tests.convert.sources import write_layout
from tests.harmony.fixtures import tokenizer
from tests.hostile.corpus import CORPUS, HARMLESS, NUMBERS, small_tokenizer_json, write_header, write_json
from tests.hostile.headers import LARGE, accepted, mutated

MiB = 2**20

budget = settings(max_examples=300, derandomize=True, deadline=None, database=None)


# The header.


def test_nothing_is_accepted_that_safetensors_refuses(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    good = sum(accepted(path, mutated(random.Random(seed))) for seed in range(2000))
    assert good > 200  # changes of names, values and white space


# Each was accepted once, or is accepted by Python's json, and is refused by safetensors.
AMBIGUOUS: dict[str, tuple[bytes, int]] = {
    "UTF-16": (json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode("utf-16-le"), 4),
    "-0": (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[-0,0]}}', 0),
    "half a pair in the metadata": (b'{"__metadata__":{"a":"\\ud800"}}', 0),
    "half a pair in a key of the metadata": (b'{"__metadata__":{"\\udfff":"a"}}', 0),
    "half a pair in bytes": (b'{"__metadata__":{"a":"\xed\xa0\x80"}}', 0),
    "a product that overflows": (
        b'{"a":{"dtype":"U8","shape":[4611686018427387904,4,0],"data_offsets":[0,0]}}',
        0,
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_readers_could_understand_differently_is_refused(name: str, tmp_path: Path) -> None:
    text, size = AMBIGUOUS[name]
    with pytest.raises(CheckpointError):
        read_header(write_header(tmp_path / "model.safetensors", text, bytes(size)))


@pytest.mark.parametrize("name", LARGE)
def test_refusing_takes_little_memory(name: str, tmp_path: Path) -> None:
    path = write_header(tmp_path / "model.safetensors", LARGE[name])
    assert len(LARGE[name]) < 2 * MiB  # more is not read at all
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(LARGE[name]) + 64 * MiB


def test_a_tokenizer_of_lists_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    content = b'{"model":[' + b"[]," * 2**20 + b"[]]}"
    (tmp_path / "tokenizer.json").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError, match="more than 1048576 lists and objects"):
            Tokenizer.from_directory(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(content)


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2 * MiB + 1).to_bytes(8, "little") + b"{")
    os.truncate(path, 4 * MiB)
    with pytest.raises(CheckpointError, match="a header of 2097153 bytes"):
        read_header(path)


# The JSON files.


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in nested objects and lists."""
    yield path
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return value
    copy = content.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


values = st.one_of(
    st.sampled_from(NUMBERS),
    st.text(max_size=5),
    st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    st.just("x" * 100_000),
)
CONFIG = random_config()
CONFIG_5 = {key: value for key, value in CONFIG.items() if key not in ("rope_scaling", "rope_theta")} | {
    "rope_parameters": {**CONFIG["rope_scaling"], "rope_theta": 150000.0},
    "quantization": {"bits": 8, "group_size": 32, "mode": "affine"},
}
PLACES = [(made, path) for made in (CONFIG, CONFIG_5) for path in leaves(made) if path]


def one_short_line(error: GptOssError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


# These have a default; the last one changes nothing.
OPTIONAL = ("experts_per_token", "initial_context_length", "swiglu_limit", "beta_fast", "beta_slow")
WITHOUT_EFFECT = "attention_dropout"


def at(content: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    return at(content[path[0]], path[1:]) if path else content


def test_every_number_of_a_config_is_refused_at_every_hostile_value() -> None:
    numbers = [(made, path) for made, path in PLACES if type(at(made, path)) in (int, float)]
    assert len(numbers) > 40
    for made, path in numbers:
        field = path[-1]
        if field == WITHOUT_EFFECT:
            continue
        for value in NUMBERS:
            if value is None and field in OPTIONAL:
                continue
            with pytest.raises(ConfigError, match=f"{field} ") as caught:
                ModelConfig.from_dict(replaced(made, path, value))
            one_short_line(caught.value)


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: repr(value)[:12] if value != 10**400 else "10^400")
def test_any_value_anywhere_in_a_config_is_read_or_named(value: Any) -> None:
    for made, path in PLACES:
        try:
            ModelConfig.from_dict(replaced(made, path, value))
        except ConfigError as error:
            one_short_line(error)


@budget
@given(st.sampled_from(PLACES), values, st.text(max_size=8))
def test_any_other_value_too(place: tuple[Any, tuple[Any, ...]], value: Any, key: str) -> None:
    changed = replaced(*place, value)
    for config in (changed, changed | {key: value}, changed | {"rope_scaling": {key: value}}):
        try:
            ModelConfig.from_dict(config)
        except ConfigError as error:
            one_short_line(error)


ORIGINAL = {
    "num_hidden_layers": 2,
    "num_experts": 4,
    "experts_per_token": 4,
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 64,
    "swiglu_limit": 7.0,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 16,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


@pytest.mark.parametrize("field", ORIGINAL)
def test_any_value_in_openais_own_config_is_read_or_named(field: str) -> None:
    for value in NUMBERS:
        try:
            ModelConfig.from_dict(hugging_face_config(ORIGINAL | {field: value}))
        except ConfigError as error:
            one_short_line(error)


TOKENIZER = small_tokenizer_json()
TOKENIZER_PLACES = [path for path in leaves(TOKENIZER) if path[:2] != ("model", "vocab")] + [
    ("model", "vocab", "a")
]


@settings(budget, max_examples=100)
@given(st.sampled_from(TOKENIZER_PLACES), values)
def test_any_value_in_a_tokenizer_is_read_or_named(
    tmp_path_factory: Any, path: tuple[Any, ...], value: Any
) -> None:
    place = tmp_path_factory.getbasetemp()
    write_json(place / "tokenizer.json", replaced(TOKENIZER, path, value))
    try:
        Tokenizer.from_directory(place)
    except TokenizerError as error:
        one_short_line(error)


def test_text_that_the_pattern_cannot_match_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="500001 white space characters in a row"):
        tokenizer().encode("a" + " " * 500_001)
    assert len(tokenizer().encode("a " * 260_000)) == 260_001


def test_a_pattern_that_loses_some_text_says_so(tmp_path: Path) -> None:
    """Found by fuzzing: a pattern can match every probe and still not match a single digit."""
    content = small_tokenizer_json()
    steps = [{"pattern": {"Regex": O200K_PATTERN.replace("{1,3}", "{2,3}")}}]
    write_json(tmp_path / "tokenizer.json", content | {"pre_tokenizer": {"pretokenizers": steps}})
    read = Tokenizer.from_directory(tmp_path)
    assert read.decode(read.encode("12 and 345")) == "12 and 345"
    with pytest.raises(TokenizerError, match="loses text"):
        read.encode("only 1")


def test_a_pattern_that_makes_tiktoken_panic_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    ranks = {bytes([value]): value for value in range(256)}
    special = {name: 256 + place for place, name in enumerate(CONTROL_TOKENS)}
    with pytest.raises(TokenizerError, match="loses text"):
        Tokenizer.from_ranks(ranks, special, "x*")
    assert capfd.readouterr().err == ""


# A manifest can agree with a checkpoint that no conversion would write.


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversion."""
    place = tmp_path_factory.mktemp("converted")
    source = write_layout("hf", place / "source", num_hidden_layers=1)
    content = json.loads((source / "config.json").read_text())
    write_json(
        source / "config.json", content | {"auto_map": {"AutoModel": "evil.Model"}, "model_file": "evil.py"}
    )
    convert_checkpoint(source, place / "out", dense="q8")
    return place / "out"


def test_a_conversion_does_not_pass_code_on(converted: Path) -> None:
    assert not {"auto_map", "model_file"} & set(json.loads((converted / "config.json").read_text()))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"])
def test_a_conversion_copies_no_file_that_could_not_be_read(name: str, tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "source", num_hidden_layers=1)
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    bad: dict[str, Callable[[Path], object]] = {
        "links out": lambda path: path.symlink_to(secret),
        "larger than": lambda path: path.write_bytes(b" " * (2**26 + 1)),
    }
    if name.endswith(".json"):
        bad["JSON object"] = lambda path: path.write_text("[]")
        bad["Expecting"] = lambda path: path.write_text("{")
        bad["recursion"] = lambda path: path.write_text("[" * 100_000)
        bad["is duplicated"] = lambda path: path.write_text('{"a": 1, "a": 2}')
        bad["utf-8"] = lambda path: path.write_bytes(b'{"a": "\xff"}')
    for message, write in bad.items():
        (source / name).unlink(missing_ok=True)
        write(source / name)
        with pytest.raises(CheckpointError, match=message) as caught:
            convert_checkpoint(source, tmp_path / "out", dense="q8")
        assert str(caught.value).startswith(str(source / name))
        one_short_line(caught.value)
        assert {path.name for path in tmp_path.iterdir()} == {"source", "secret.json"}


def test_nan_scales_are_found_where_the_manifest_is_right_about_them(converted: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    shutil.copytree(converted, place)
    record = Checkpoint.open(place).tensors["layers.0.mlp.experts.down_proj.scales"]
    content = bytearray(record.file.read_bytes())
    content[record.begin + 1] = 0xFF
    record.file.write_bytes(content)
    write_manifest(place, {})
    assert verify_checkpoint(place).problems == (f"{record.file}: tensor {record.name} holds NaN scales",)


def write_manifest(place: Path, changes: dict[str, Any]) -> None:
    """A manifest that fits the files except for the changes, with the right hash of itself."""
    import hashlib

    content = json.loads((place / "manifest.json").read_text())
    for name, entry in content["tensors"].items():
        record = read_header(place / entry["file"])[name]
        data = record.file.read_bytes()[record.begin : record.end]
        entry["sha256"] = hashlib.sha256(data).hexdigest()
    del content["sha256"]
    content |= changes
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (place / "manifest.json").write_text(json.dumps(content, indent=1) + "\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"files": {"/dev/zero": {"bytes": 0, "sha256": ""}}},
        {"files": {"a\x1b[2J": {"bytes": 0, "sha256": ""}}},
        {"files": {"a" * 300: {"bytes": 0, "sha256": ""}}},
        {"files": {"a": {"bytes": "1", "sha256": ""}}},
        {"files": {"a": {"bytes": 1e308, "sha256": ""}}},
        {"files": {"a": {"bytes": 1, "sha256": 5}}},
        {"tensors": {"a\n": {"dtype": "U8", "shape": [], "file": "a", "sha256": ""}}},
        {"tensors": {"a": {"dtype": "U8", "shape": 5, "file": "a", "sha256": ""}}},
        {"files": []},
        {"format": {"a": 1}},
    ],
    ids=str,
)
def test_a_manifest_that_a_stranger_signed_is_refused(
    changes: dict[str, Any], converted: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    shutil.copytree(converted, place)
    write_manifest(place, {})
    Manifest.read(place)
    write_manifest(place, changes)
    with pytest.raises(CheckpointError, match=r"manifest\.json: ") as caught:
        verify_checkpoint(place)
    one_short_line(caught.value)


def test_verify_waits_for_no_fifo(converted: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    shutil.copytree(converted, place)
    write_manifest(place, {"files": {"fifo": {"bytes": 0, "sha256": ""}}})
    os.mkfifo(place / "fifo")
    assert f"{place / 'fifo'}: is not a regular file" in verify_checkpoint(place).problems


# The whole corpus.


def test_no_code_of_a_checkpoint_runs_and_no_other_file_is_touched(tmp_path: Path) -> None:
    """Also: each is refused with a typed error, no attempt waits for a FIFO, and no code is compiled."""
    command = [sys.executable, "-m", "tests.hostile.audit", str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RUST_BACKTRACE": "0"}
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    report = json.loads(ended.stdout)
    assert report["violations"] == []
    assert set(report["refused"]) == {*CORPUS, *HARMLESS}
    for name, errors in report["refused"].items():
        assert ("load" in errors) == (name in CORPUS), name
        for message in errors.values():
            assert message.isprintable(), name
            assert len(message) < 1000, name


def test_an_index_may_not_name_more_files_than_a_disk_has_names_for(tmp_path: Path) -> None:
    write_json(tmp_path / INDEX_NAME, {"weight_map": {"a": "a" * 244 + ".safetensors"}})
    with pytest.raises(CheckpointError, match="outside the directory"):
        Checkpoint.open(tmp_path)
