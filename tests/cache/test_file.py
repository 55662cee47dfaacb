"""Saved prompt caches: what comes back is what was saved, and nothing else is ever taken for it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_mlx.api import GptOss
from gptoss_mlx.cache import file as cachefile
from gptoss_mlx.cache.entry import CacheEntry
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CacheFileError
from gptoss_mlx.model.transformer import Transformer, load_transformer
from gptoss_mlx.sampling import SamplingParams
from tests import DEMO
from tests.checkpoints import SHAPES, load_shape, random_config, random_tokens

GREEDY = SamplingParams(temperature=0, max_tokens=20)
TOKENS = random_tokens("many_heads", 200)
CONFIG = ModelConfig.from_dict(random_config(**SHAPES["many_heads"]))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return load_transformer(load_shape(tmp_path_factory.mktemp("heads"), "many_heads"), mx.float32)


def filled(transformer: Transformer, ends: list[int], kv_bits: int | None = None) -> CacheEntry:
    """An entry with a snapshot at each of the positions."""
    entry = CacheEntry(0, PromptCache(CONFIG, kv_bits))
    entry.keep_snapshots(ends)
    for end in ends:
        tokens = TOKENS[len(entry.tokens) : end]
        entry.begin_chunk(len(tokens))
        mx.eval(transformer(mx.array([tokens]), entry.cache))
        entry.end_chunk(tokens)
    return entry


def read(
    path: Path, fingerprint: str = "a", kv_bits: int | None = None, limit: int = 2**30
) -> cachefile.SavedCache:
    saved = cachefile.read(path, fingerprint, config=CONFIG, kv_bits=kv_bits, dtype=mx.float32, limit=limit)
    assert saved is not None
    return saved


def following(transformer: Transformer, entry: CacheEntry) -> mx.array:
    logits = transformer(mx.array([TOKENS[len(entry.tokens) :]]), entry.cache)
    mx.eval(logits)
    return logits


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("ends", [[10], [40, 64], [30, 90, 150]])
def test_a_saved_cache_comes_back_with_its_snapshots(
    ends: list[int], kv_bits: int | None, transformer: Transformer, tmp_path: Path
) -> None:
    entry, path = filled(transformer, ends, kv_bits), tmp_path / "cache"
    cachefile.write(path, entry, "a")
    for position in ends:
        saved = read(path, kv_bits=kv_bits)
        again = CacheEntry(0, saved.cache, saved.tokens, saved.snapshots)
        assert (again.tokens, list(again.snapshots)) == (entry.tokens, ends)
        twin = CacheEntry(1, entry.cache.copied(entry.snapshots[position], 0), entry.tokens[:position])
        again.rewind(position)
        assert mx.array_equal(following(transformer, again), following(transformer, twin))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_larger_than_all_prompt_caches_may_be_is_not_read(transformer: Transformer, tmp_path: Path) -> None:
    cachefile.write(tmp_path / "cache", filled(transformer, [40]), "a")
    with pytest.raises(CacheFileError, match="raise max_cache_bytes"):
        read(tmp_path / "cache", limit=1000)


def test_nothing_but_the_tokens_is_read_before_there_is_place(transformer: Transformer, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cachefile.write(path, filled(transformer, [40]), "a")
    asked: list[tuple[list[int], int]] = []

    def refuse(tokens: list[int], size: int) -> bool:
        asked.append((tokens, size))
        return False

    options: Any = {"config": CONFIG, "kv_bits": None, "dtype": mx.float32, "limit": 2**30}
    assert cachefile.read(path, "a", admit=refuse, **options) is None
    assert asked == [(TOKENS[:40], asked[0][1])]
    assert 0 < asked[0][1] < path.stat().st_size


def test_a_file_that_is_loaded_twice_is_one_prompt_cache(demo: GptOss, tmp_path: Path) -> None:
    prompt, path = demo.tokenizer.encode("What is MXFP4? ") * 5, tmp_path / "cache"
    demo.clear_caches()
    demo.prefill(prompt)
    demo.save_cache(path, prompt)
    for _ in range(2):
        demo.load_cache(path)
        assert len(demo._runner.store.entries) == 1
    demo.clear_caches()
    for _ in range(2):
        demo.load_cache(path)
        assert len(demo._runner.store.entries) == 1
    assert demo.prefill(prompt) == 0


CONTINUE = """
import sys, json
from gptoss_mlx.api import GptOss
from gptoss_mlx.sampling import SamplingParams
directory, path, prompt = sys.argv[1:]
with GptOss(directory, dtype="float32") as model:
    model.load_cache(path)
    generation = model.generate(json.loads(prompt), SamplingParams(temperature=0, max_tokens=20))
    print(json.dumps([list(generation), generation.cached_tokens]))
"""


def test_another_process_goes_on_with_the_same_tokens(demo: GptOss, tmp_path: Path) -> None:
    prompt, path = demo.tokenizer.encode("What is MXFP4? ") * 9, tmp_path / "cache"
    generated = list(demo.generate(prompt, GREEDY))
    longer = [*prompt, *generated[:-1], *demo.tokenizer.encode(" Who are you?")]
    demo.save_cache(path, longer)
    cached = demo.cached_length(longer)
    demo.clear_caches()
    expected = list(demo.generate(longer, GREEDY))
    command = [sys.executable, "-c", CONTINUE, str(DEMO), str(path), json.dumps(longer)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert json.loads(shown) == [expected, cached]
    assert cached >= len(prompt)


def test_a_fingerprint_tells_models_and_settings_apart(tmp_path: Path) -> None:
    place = load_shape(tmp_path / "a", "small")
    known = {cachefile.model_fingerprint(place, "float32", None)}
    assert cachefile.model_fingerprint(place, "float32", None) in known
    known.add(cachefile.model_fingerprint(place, "bfloat16", None))
    known.add(cachefile.model_fingerprint(place, "float32", 8))
    content = bytearray((place / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (place / "model.safetensors").write_bytes(content)
    known.add(cachefile.model_fingerprint(place, "float32", None))
    assert len(known) == 4


def rewritten(path: Path, change: Callable[[dict[str, mx.array], dict[str, str]], object]) -> None:
    """The file with other arrays or metadata, and a checksum that fits them."""
    loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    arrays, metadata = loaded
    mx.eval(arrays)
    metadata["sha256"] = ""
    change(arrays, metadata)
    metadata["sha256"] = metadata["sha256"] or cachefile._checksum(arrays)
    mx.save_safetensors(str(path) + ".safetensors", arrays, metadata)
    os.replace(str(path) + ".safetensors", path)


def shortened(arrays: dict[str, mx.array], _metadata: dict[str, str]) -> None:
    arrays["tokens"] = arrays["tokens"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, metadata: metadata.update(version="3"), "format 3"),
        (lambda arrays, metadata: metadata.update(version="1"), "format 1"),
        (lambda arrays, metadata: metadata.update(version="x"), "damaged"),
        (lambda arrays, metadata: metadata.update(version="9" * 5000), "damaged"),
        (lambda arrays, metadata: arrays.update(tokens=mx.array(7, mx.int32)), "tokens"),
        (lambda arrays, metadata: metadata.update(format="chat"), "not a prompt cache"),
        (lambda arrays, metadata: metadata.update(fingerprint="b"), "another model"),
        (lambda arrays, metadata: metadata.update(sha256="0" * 64), "checksum"),
        (lambda arrays, metadata: arrays.pop("tokens"), "tokens is missing"),
        (lambda arrays, metadata: arrays.update(tokens=mx.zeros((0,), mx.int32)), "or there is none"),
        (lambda arrays, metadata: arrays.pop("layers.1.0"), r"layers\.1\.0 is None"),
        (lambda arrays, metadata: arrays.update(more=mx.zeros(3)), "more is"),
        (lambda arrays, metadata: arrays.update(snapshots=mx.array([90, 40])), "snapshots are not in order"),
        (lambda arrays, metadata: arrays.update(snapshots=mx.array([40, 91])), "snapshots are not in order"),
        (lambda arrays, metadata: arrays.update(tokens=mx.full((90,), 320)), "token is out of range"),
        (lambda arrays, metadata: arrays.update({"layers.0.0": arrays["layers.0.0"].astype(mx.int32)}), "layers"),
        (shortened, "snapshots are not in order"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    change: Callable[..., object], message: str, transformer: Transformer, tmp_path: Path
) -> None:
    path = tmp_path / "cache"
    cachefile.write(path, filled(transformer, [40, 90]), "a")
    rewritten(path, change)
    with pytest.raises(CacheFileError, match=message):
        read(path)


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(CacheFileError, match="null"):
        read(Path("a\0b"))


@pytest.fixture(scope="module")
def saved(transformer: Transformer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "cache"
    cachefile.write(path, filled(transformer, [40, 90]), "a")
    return path.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**9), bit=st.integers(0, 7), cut=st.booleans())
def test_no_flipped_bit_and_no_cut_passes(place: int, bit: int, cut: bool, saved: bytes, tmp_path: Path) -> None:
    content = bytearray(saved)
    place %= len(content)
    # Every other change goes into the header, where most of the ways to go wrong are.
    place = place % 4000 if bit % 2 else place
    content[place] ^= 1 << bit
    (tmp_path / "cache").write_bytes(content[:place] if cut else content)
    header_padding = not cut and saved[place : place + 1] == b" "
    try:
        again = read(tmp_path / "cache")
    except CacheFileError:
        return
    assert header_padding
    assert again.tokens == TOKENS[:90]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(content)
    with pytest.raises(CacheFileError, match="prompt cache"):
        read(tmp_path / "cache")
    with pytest.raises(CacheFileError, match="prompt cache"):
        read(tmp_path / "nothing")
