"""Prefill: how large its chunks are, and what a cancelled one leaves behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.cache.store import CacheEntry
from gptoss_mlx.engine.generate import Pace, Request, prefill
from gptoss_mlx.engine.sampler import make_sampler
from gptoss_mlx.model.transformer import Transformer
from gptoss_mlx.sampling import SamplingParams
from tests.checkpoints import random_tokens

TOKENS = random_tokens("small", 200)


def paced(tokens_per_second: float, layers: int) -> Pace:
    """The pace of a machine, as a chunk of 64 tokens measures it."""
    pace = Pace()
    pace.measured(64, layers, 64 / tokens_per_second)
    return pace


@pytest.mark.parametrize(
    ("tokens_per_second", "layers"),
    [(1700, 36), (400, 24), (100, 36), (20, 24)],
    ids=["120b, M5 Max", "20b, M1", "120b, slow", "20b, slower"],
)
def test_chunks_are_as_large_as_a_check_every_quarter_of_a_second_allows(
    tokens_per_second: float, layers: int
) -> None:
    pace = paced(tokens_per_second, layers)
    chunk = pace.chunk(2048)
    layer_seconds = chunk / tokens_per_second / layers
    assert chunk == 2048 or 2 * layer_seconds > 0.25 or chunk == 64
    assert pace.layers(chunk) * layer_seconds <= 0.25
    assert pace.chunk(100) == min(chunk, 100)


def test_fast_machines_read_2048_tokens_at_once() -> None:
    assert paced(1700, 36).chunk(2048) == 2048


def test_where_a_layer_takes_longer_every_layer_is_checked() -> None:
    pace = paced(0.6, 24)  # a layer of 64 tokens takes 4.4 seconds
    assert (pace.chunk(2048), pace.layers(64)) == (64, 1)


def test_a_short_chunk_says_nothing_about_long_ones() -> None:
    pace = paced(1000, 24)
    before = pace.token_seconds
    pace.measured(3, 24, 1.0)
    assert pace.token_seconds == before


def request(cancelled: Callable[[], bool] = lambda: False) -> Request:
    return Request(
        sampler=make_sampler(SamplingParams(temperature=0)),
        stop_tokens=frozenset(),
        max_tokens=1,
        max_positions=1000,
        max_chunk=48,
        cancelled=cancelled,
    )


@pytest.mark.parametrize("check", range(10))
def test_a_cancelled_chunk_leaves_the_cache_where_it_began(check: int, small: Transformer) -> None:
    """Wherever it is cancelled: between chunks and between any two layers."""
    entry, pace = CacheEntry(0, small.make_cache()), Pace(token_seconds=1.0)
    entry.keep_snapshots([20, 48, 96, 100])
    checks = itertools.count()
    finished = prefill(small, TOKENS, entry, request(lambda: next(checks) == check), pace)
    assert not finished
    layers = len(entry.cache.layers)
    assert len(entry.tokens) == check // layers * 48
    assert {layer.offset for layer in entry.cache.layers} == {len(entry.tokens)}
    assert prefill(small, TOKENS, entry, request(), pace)
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
