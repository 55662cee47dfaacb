"""Caches: what they hold, and that going back is as if one had never gone on."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache import FullKVCache, PromptCache, SlidingKVCache
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.model import Transformer
from gptoss_mlx.prefix import MAX_MARKS, PrefixCache, common_length
from tests.checkpoints import random_tokens

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


def test_a_full_cache_holds_everything_in_order_and_grows_by_a_sixteenth() -> None:
    cache, seen = FullKVCache(), 0
    for length in [1, 3, 300, 1, 1, 5000, 1]:
        keys, values = cache.append(*numbered(seen, length))
        seen += length
        assert positions_in(keys) == list(range(seen))
        assert mx.array_equal(values, -keys)
    assert cache.nbytes <= 2 * 2 * 4 * 4 * (seen + max(256, seen // 16))


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
