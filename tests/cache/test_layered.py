"""Caches: what they hold, and that going back is as if one had never gone on."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.cache.layers import FullKVCache, QuantizedKVCache, SlidingKVCache, capacity, most_capacity
from gptoss_mlx.cache.quantized import QuantizedStates
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


@pytest.mark.parametrize("room", [0, 60, 5000])
def test_a_copy_and_its_original_are_independent(room: int, small: Transformer) -> None:
    cache = small.make_cache()
    small(mx.array([TOKENS[:50]]), cache)
    snapshot = cache.snapshot()
    mx.eval(small(mx.array([TOKENS[50:90]]), cache))
    cache.rewind(snapshot)
    twin = cache.copied(snapshot, room)
    assert twin.offset == 50
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


def test_snapshots_inside_a_forward_pass_are_those_of_passes_that_end_there(small: Transformer) -> None:
    """With positions before, at and beyond a full window of 16."""
    positions = [3, 20, 21, 64, 99]
    cache = small.make_cache()
    mx.eval(small(mx.array([TOKENS[:2]]), cache))
    cache.watch(positions)
    mx.eval(small(mx.array([TOKENS[2:100]]), cache))
    taken = cache.passed()
    assert [snapshot.offset for snapshot in taken] == positions
    assert cache.passed() == []
    for snapshot in taken:
        stepped = small.make_cache()
        mx.eval(small(mx.array([TOKENS[: snapshot.offset]]), stepped))
        for window, expected in zip(snapshot.windows, stepped.windows, strict=True):
            assert all(
                mx.allclose(part, other, atol=1e-5)
                for part, other in zip(window.arrays(), expected.arrays(), strict=True)
            )
    cache.rewind(taken[2])
    again = small(mx.array([TOKENS[21:30]]), cache)
    assert mx.allclose(again, small(mx.array([TOKENS[:30]]))[:, 21:], atol=1e-4)


def test_a_snapshot_keeps_nothing_of_the_chunk_alive_that_it_was_taken_from() -> None:
    cache = SlidingKVCache(128)
    mx.clear_cache()
    before = mx.get_active_memory()
    states = mx.ones((1, 2, 2**17, 64), dtype=mx.bfloat16)  # 34 MB
    cache.watch([1000, 2**16])
    cache.append(states, states)
    windows = cache.passed()
    mx.eval(cache.arrays(), [window.arrays() for window in windows])
    del states
    mx.clear_cache()
    assert mx.get_active_memory() - before < 3 * cache.nbytes + 4 * 2**20


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


def test_going_back_copying_and_going_on_in_8_bits(heads: tuple[Transformer, ModelConfig]) -> None:
    transformer, config = heads
    cache = PromptCache(config, 8)
    assert sum(isinstance(layer, QuantizedKVCache) for layer in cache.layers) == 3
    mx.eval(transformer(mx.array([TOKENS[:70]]), cache))
    snapshot = cache.snapshot()
    twin = cache.copied(snapshot, 80)
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
