"""Caches: what they hold, and that going back is as if one had never gone on."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache.layered import (
    FullKVCache,
    PromptCache,
    QuantizedKVCache,
    SlidingKVCache,
    capacity,
    most_capacity,
)
from gptoss_mlx.cache.quantized import QuantizedStates
from gptoss_mlx.cache.store import MAX_MARKS, PrefixCache, common_length
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.model.attention import quantized_attention
from gptoss_mlx.model.transformer import Transformer, load_transformer
from tests.checkpoints import SHAPES, load_shape, random_config, random_tokens

TOKENS = random_tokens("small", 200)


def numbered(begin: int, length: int) -> tuple[mx.array, mx.array]:
    """Keys whose value is their position, and values that are its negative: [1, 2, length, 4]."""
    positions = mx.arange(begin, begin + length, dtype=mx.float32)[None, None, :, None]
    keys = mx.broadcast_to(positions, (1, 2, length, 4))
    return keys, -keys


def positions_in(keys: mx.array) -> list[int]:
    return [int(value) for value in np.array(keys)[0, 0, :, 0]]


@pytest.mark.parametrize("lengths", [[1] * 40, [5, 1, 1, 20, 1, 1, 3], [16, 1, 16, 1], [100, 1], [7, 9, 1, 1]])
def test_a_sliding_cache_holds_the_last_window(lengths: list[int]) -> None:
    cache, seen = SlidingKVCache(16), 0
    for length in lengths:
        keys, values = cache.append(*numbered(seen, length))
        before = min(seen, 16)
        seen += length
        expected = (
            list(range(seen - length - before, seen)) if length > 1 else list(range(max(seen - 16, 0), seen))
        )
        assert sorted(positions_in(keys)) == expected
        assert mx.array_equal(values, -keys)
        assert cache.offset == seen
    assert cache.nbytes == 2 * 2 * 16 * 4 * 4


@pytest.mark.parametrize("heads", [1, 2])
def test_a_window_keeps_nothing_of_the_chunk_alive_that_filled_it(heads: int) -> None:
    cache = SlidingKVCache(128)
    mx.clear_cache()
    before = mx.get_active_memory()
    for _ in range(2):
        states = mx.ones((1, heads, 2**17, 64), dtype=mx.bfloat16)  # 17 MB a head
        cache.append(states, states)
        mx.eval(cache.arrays())
        del states
    mx.clear_cache()
    # Much more than the window, since other models of this process may be at work; much less than a chunk.
    assert mx.get_active_memory() - before < cache.nbytes + 4 * 2**20


def test_a_full_cache_holds_everything_in_order_and_grows_by_a_sixteenth() -> None:
    cache, seen = FullKVCache(), 0
    for length in [1, 3, 300, 1, 1, 5000, 1]:
        keys, values = cache.append(*numbered(seen, length))
        seen += length
        assert positions_in(keys) == list(range(seen))
        assert mx.array_equal(values, -keys)
    assert cache.nbytes <= 2 * 2 * 4 * 4 * (seen + max(256, seen // 16))


@pytest.mark.parametrize("length", [1, 255, 256, 257, 4096, 5000, 100_000])
def test_the_capacity_is_known_beforehand(length: int) -> None:
    cache = FullKVCache()
    cache.append(*numbered(0, length))
    assert cache.nbytes == 2 * 2 * 4 * 4 * capacity(length)
    assert length <= max(map(capacity, range(max(1, length - 600), length + 1))) <= most_capacity(length)
    assert most_capacity(length) <= length + max(256, length / 16)


def test_a_snapshot_is_not_changed_by_what_comes_after(small: Transformer) -> None:
    cache = small.make_cache()
    small(mx.array([TOKENS[:50]]), cache)
    snapshot = cache.snapshot()
    expected = small(mx.array([TOKENS[50:60]]), cache)
    mx.eval(expected)
    for token in TOKENS[60:100]:
        mx.eval(small(mx.array([[token]]), cache))
    cache.rewind(snapshot)
    assert cache.offset == 50
    assert mx.allclose(small(mx.array([TOKENS[50:60]]), cache), expected, atol=1e-5)


def test_forks_go_their_own_ways(small: Transformer) -> None:
    cache = small.make_cache()
    small(mx.array([TOKENS[:50]]), cache)
    twin = cache.fork()
    for token in TOKENS[100:140]:
        mx.eval(small(mx.array([[token]]), twin))
    left = small(mx.array([TOKENS[50:60]]), cache)
    fresh = small.make_cache()
    small(mx.array([TOKENS[:50]]), fresh)
    assert mx.allclose(left, small(mx.array([TOKENS[50:60]]), fresh), atol=1e-5)


def test_a_snapshot_ahead_of_the_cache_is_refused(small: Transformer) -> None:
    cache = small.make_cache()
    small(mx.array([TOKENS[:5]]), cache)
    snapshot = cache.snapshot()
    with pytest.raises(InvalidRequest, match="at 5 does not fit"):
        small.make_cache().rewind(snapshot)


def fill(transformer: Transformer, prefix: PrefixCache, tokens: list[int]) -> None:
    if tokens:
        mx.eval(transformer(mx.array([tokens]), prefix.cache))
        prefix.extend(tokens)


def test_a_prefix_goes_back_to_the_last_mark_it_shares(small: Transformer) -> None:
    prefix = PrefixCache(small.make_cache())
    for begin in (0, 20, 40):
        fill(small, prefix, TOKENS[begin : begin + 20])
        prefix.mark()
    other = TOKENS[:50] + [1] * 5
    assert prefix.known(other) == 40
    assert prefix.reuse(other) == 40
    assert prefix.marks == (20, 40)
    assert prefix.cache.offset == 40
    assert prefix.reuse([2, 3]) == 0
    assert prefix.cache.offset == 0


def test_the_last_token_of_a_prompt_is_always_computed(small: Transformer) -> None:
    prefix = PrefixCache(small.make_cache())
    fill(small, prefix, TOKENS[:20])
    prefix.mark()
    fill(small, prefix, TOKENS[20:30])
    assert prefix.reuse(TOKENS[:30]) == 20
    assert prefix.known(TOKENS[:21]) == 20


def test_of_many_marks_the_first_and_the_latest_stay(small: Transformer) -> None:
    prefix = PrefixCache(small.make_cache())
    for token in TOKENS[: MAX_MARKS + 10]:
        fill(small, prefix, [token])
        prefix.mark()
    assert len(prefix.marks) == MAX_MARKS
    assert prefix.marks[0] == 1
    assert prefix.marks[-1] == MAX_MARKS + 10


def test_common_length_is_that_of_the_shared_beginning() -> None:
    assert common_length([], [1]) == 0
    assert common_length([1, 2, 3], [1, 2, 3, 4]) == 3
    assert common_length([1, 2, 9, 4], [1, 2, 3, 4]) == 2


def test_an_empty_cache_holds_nothing(small: Transformer) -> None:
    cache = small.make_cache()
    assert isinstance(cache, PromptCache)
    assert (cache.offset, cache.nbytes) == (0, 0)


# Keys and values in 8 bits.


def exact_attention(
    queries: np.ndarray[Any, Any],
    keys: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    sinks: Any,
    scale: float,
) -> np.ndarray[Any, Any]:
    """Causal attention with sinks, written out in float64: [A, L, D] over [K, S, D]."""
    heads, length, _ = queries.shape
    result = np.zeros(queries.shape)
    for head in range(heads):
        group = head * len(keys) // heads
        for n in range(length):
            seen = keys.shape[1] - length + n + 1
            weights = np.exp(keys[group, :seen] @ queries[head, n] * scale)
            result[head, n] = weights @ values[group, :seen] / (weights.sum() + np.exp(sinks[head]))
    return result


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_attention_over_8_bits_is_that_over_their_values_with_sinks(length: int, head_dim: int) -> None:
    mx.random.seed(length)
    queries = mx.random.normal((1, 8, length, head_dim))
    keys, values = (QuantizedStates.of(mx.random.normal((1, 2, 50, head_dim))) for _ in range(2))
    sinks = mx.random.normal((8,)) * 2
    attended = quantized_attention(queries, keys, values, scale=0.3, sinks=sinks)
    arrays = (queries[0], keys.dequantized(mx.float32)[0], values.dequantized(mx.float32)[0], sinks)
    exact = [np.array(array, dtype=np.float64) for array in arrays]
    expected = exact_attention(exact[0], exact[1], exact[2], exact[3], 0.3)
    assert np.abs(np.array(attended)[0] - expected).max() < 1e-5


def test_8_bits_are_within_a_step_of_what_they_stand_for() -> None:
    states = mx.random.normal((1, 2, 30, 64), key=mx.random.key(0))
    packed = QuantizedStates.of(states)
    assert mx.all(mx.abs(packed.dequantized(mx.float32) - states) <= mx.abs(packed.scales))


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, ModelConfig]:
    """A random transformer whose heads can be quantised."""
    place = load_shape(tmp_path_factory.mktemp("heads"), "many_heads")
    return load_transformer(place, mx.float32), ModelConfig.from_dict(random_config(**SHAPES["many_heads"]))


def test_going_back_forking_and_going_on_in_8_bits(heads: tuple[Transformer, ModelConfig]) -> None:
    transformer, config = heads
    cache = PromptCache(config, 8)
    assert sum(isinstance(layer, QuantizedKVCache) for layer in cache.layers) == 3
    mx.eval(transformer(mx.array([TOKENS[:70]]), cache))
    snapshot, twin = cache.snapshot(), cache.fork()
    expected = transformer(mx.array([TOKENS[70:80]]), cache)
    for token in TOKENS[100:130]:
        mx.eval(transformer(mx.array([[token]]), cache))
    cache.rewind(snapshot)
    assert mx.allclose(transformer(mx.array([TOKENS[70:80]]), cache), expected, atol=2e-5)
    one_by_one = [transformer(mx.array([[token]]), twin)[0, 0] for token in TOKENS[70:80]]
    assert mx.allclose(mx.stack(one_by_one), expected[0], atol=2e-4)


def test_8_bits_change_the_logits_little(heads: tuple[Transformer, ModelConfig]) -> None:
    transformer, config = heads
    exact, close = (transformer(mx.array([TOKENS]), PromptCache(config, bits)) for bits in (None, 8))
    assert 0 < float(np.abs(np.array(exact - close)).max()) < 0.5
    ours, theirs = (logits - mx.logsumexp(logits, axis=-1, keepdims=True) for logits in (close, exact))
    divergence = np.array((mx.exp(theirs) * (theirs - ours)).sum(axis=-1)).mean()
    assert 0 < divergence < 1e-3


@pytest.mark.parametrize(
    ("bits", "head_dim", "said"), [(4, 64, "kv_bits is 4"), (8, 16, "have 16 values"), (True, 64, "True")]
)
def test_what_cannot_be_kept_in_so_many_bits_is_refused(bits: int, head_dim: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        PromptCache(ModelConfig.from_dict(random_config(head_dim=head_dim)), bits)
