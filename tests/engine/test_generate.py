"""Prefill: how large its chunks are, and what a cancelled one leaves behind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache.entry import CacheEntry
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.engine.generate import Request, prefill
from gptoss_mlx.engine.steps import Pace, Steps
from gptoss_mlx.model.transformer import Transformer
from tests.checkpoints import random_tokens

TOKENS = random_tokens("small", 200)


def read(pace: Pace, layer_seconds: Callable[[int], float], chunks: int = 8) -> list[int]:
    """The chunks of a long prompt on a machine where a layer of so many tokens takes so long."""
    pace.measured(64, 24, 24 * layer_seconds(64))  # the warm-up
    sizes = []
    for _ in range(chunks):
        size = pace.chunk(2048)
        assert pace.layers(size) == 1 or pace.layers(size) * layer_seconds(size) <= 1.01 * 0.25
        pace.measured(size, 24, 24 * layer_seconds(size))
        sizes.append(size)
    return sizes


@pytest.mark.parametrize("tokens_per_second", [1700 * 36, 400 * 24, 12_000])
def test_a_fast_machine_soon_reads_2048_tokens_at_once(tokens_per_second: float) -> None:
    """The published prefill of a 120b on an M5 Max is 1,700 tokens a second, through 36 layers."""
    assert read(Pace(), lambda size: size / tokens_per_second)[:4] == [256, 1024, 2048, 2048]


@pytest.mark.parametrize("tokens_per_second", [5000, 2000, 500, 20])
def test_on_a_slower_one_a_layer_takes_at_most_a_quarter_of_a_second(tokens_per_second: float) -> None:
    chunk = read(Pace(), lambda size: size / tokens_per_second)[-1]
    assert chunk / tokens_per_second <= 0.25 or chunk == 64
    assert 2 * chunk / tokens_per_second > 0.25


def test_where_attention_makes_larger_chunks_slower_half_a_second_is_not_exceeded() -> None:
    """As on a CPU: a layer of 64 tokens takes 0.012 s, one of 1,024 tokens 0.9 s."""

    def layer_seconds(size: int) -> float:
        return 0.012 * math.pow(size / 64, 1.55)

    sizes = read(Pace(), layer_seconds)
    assert max(map(layer_seconds, sizes)) <= 0.5
    assert sizes[-1] == 256


def test_where_attention_makes_later_chunks_slower_no_check_comes_late() -> None:
    """Prompts of 20,000 tokens, in which a layer of a chunk takes eight times as long at the end."""
    pace = Pace()
    for _ in range(2):
        depth, sizes = 0, []
        while depth < 20_000:
            size = min(pace.chunk(2048), 20_000 - depth)
            seconds = size / 15_000 * (1 + depth / 2500)
            assert pace.layers(size) * seconds <= 0.5
            pace.measured(size, 24, 24 * seconds)
            depth += size
            sizes.append(size)
        # At the beginning of the next prompt chunks are large again.
        assert max(sizes[:6]) >= 1024
        assert sizes[-2] <= 512


def test_where_a_layer_takes_longer_every_layer_is_checked() -> None:
    pace = Pace()
    assert set(read(pace, lambda size: size * 0.07)) == {64}
    assert pace.layers(64) == 1


def test_a_short_chunk_says_nothing_about_long_ones() -> None:
    pace = Pace()
    read(pace, lambda size: size / 50_000)
    pace.measured(3, 24, 1.0)
    assert pace.chunk(2048) == 2048


def test_a_first_chunk_that_no_warm_up_preceded_is_enough_to_go_on() -> None:
    pace = Pace()
    assert pace.chunk(2048) == 128
    pace.measured(128, 24, 24 * 128 / 50_000)
    assert pace.chunk(2048) == 512


def test_the_memory_bounds_a_chunk() -> None:
    assert Pace().chunk(100) == 100
    pace = Pace()
    read(pace, lambda size: size / 50_000)
    assert pace.chunk(512) == 512


def request(cancelled: Callable[[], bool] = lambda: False) -> Request:
    return Request(
        stop_tokens=frozenset(),
        max_tokens=1,
        max_positions=1000,
        max_chunk=48,
        cancelled=cancelled,
    )


@pytest.mark.parametrize("check", range(10))
def test_a_cancelled_chunk_leaves_the_cache_where_it_began(check: int, small: Transformer) -> None:
    """Wherever it is cancelled: between chunks and between any two layers."""
    entry, steps = CacheEntry(0, small.make_cache()), Steps(small, Pace(layer_seconds={64: 100.0}))
    entry.keep_snapshots([20, 48, 96, 100])
    checks = itertools.count()
    finished = prefill(steps, TOKENS, entry, request(lambda: next(checks) == check))
    assert not finished
    layers = len(entry.cache.layers)
    assert len(entry.tokens) == check // layers * 48
    assert {layer.offset for layer in entry.cache.layers} == {len(entry.tokens)}
    assert prefill(steps, TOKENS, entry, request())
    assert tuple(entry.snapshots) == (20, 48, 96, 100)
    straight = small.make_cache()
    mx.eval(small(mx.array([TOKENS[:-1]]), straight))
    assert distance(small, entry.cache, straight) < 1e-4
    rewound = small.make_cache()
    mx.eval(small(mx.array([TOKENS[:48]]), rewound))
    entry.rewind(48)
    assert distance(small, entry.cache, rewound) < 1e-4


def distance(transformer: Transformer, left: PromptCache, right: PromptCache) -> float:
    """Of the logits of a next token after each cache."""
    logits = [np.array(transformer(mx.array([[7]]), cache)) for cache in (left, right)]
    return float(np.abs(logits[0] - logits[1]).max())
