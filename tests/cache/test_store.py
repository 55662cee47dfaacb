"""The store of prompt caches: what a request finds there, what it takes over or copies, and what is evicted for
it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.cache.entry import CacheEntry, common_length
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.cache.store import (
    MAX_ENTRIES,
    MAX_SNAPSHOTS,
    SNAPSHOT_SPACING,
    CacheStore,
    thinned,
)
from gptoss_mlx.config import ModelConfig
from tests.checkpoints import SHAPES, random_config

CONFIG = ModelConfig.from_dict(random_config(**SHAPES["small"]))
ROW = 2 * CONFIG.num_key_value_heads * CONFIG.head_dim * 4
"""Bytes of a position in one layer."""
SLIDING = sum(kind == "sliding_attention" for kind in CONFIG.layer_types)
FULL = len(CONFIG.layer_types) - SLIDING
SNAPSHOT_BYTES = SLIDING * CONFIG.sliding_window * ROW
PLENTY = 2**40


def cache_bytes(length: int) -> int:
    step = max(256, length // 16)
    return FULL * -(-length // step) * step * ROW + SNAPSHOT_BYTES


def make_store() -> CacheStore:
    return CacheStore(lambda: PromptCache(CONFIG), cache_bytes, SNAPSHOT_BYTES)


def compute(entry: CacheEntry, prompt: Sequence[int], generated: Sequence[int] = ()) -> None:
    """Fills an entry as a request does: the key of each position is its token."""
    chunk = list(prompt[len(entry.tokens) : -1])
    if chunk:
        compute_chunk(entry, chunk)
    for token in [*prompt[-1:], *generated]:
        append(entry.cache, [token])
        entry.extend([token])


def compute_chunk(entry: CacheEntry, chunk: Sequence[int]) -> None:
    entry.begin_chunk(len(chunk))
    append(entry.cache, chunk)
    entry.end_chunk(chunk)


def append(cache: PromptCache, tokens: Sequence[int], layers: slice = slice(None)) -> None:
    rows = mx.broadcast_to(
        mx.array(list(tokens), dtype=mx.float32)[None, None, :, None],
        (1, CONFIG.num_key_value_heads, len(tokens), CONFIG.head_dim),
    )
    for layer in cache.layers[layers]:
        layer.append(rows, rows)
    mx.eval(cache.arrays())


def request(
    store: CacheStore,
    prompt: Sequence[int],
    generated: Sequence[int] = (),
    *,
    boundaries: Sequence[int] = (),
    limit: int = PLENTY,
    idle: bool = False,
) -> tuple[CacheEntry, int]:
    """One request; the entry that it computed into, and how many tokens were cached."""
    plan = store.plan(prompt, boundaries, limit, idle=idle)
    entry = store.carry_out(plan)
    assert (entry.number, len(entry.tokens), entry.cache.offset) == (plan.entry, plan.cached, plan.cached)
    compute(entry, prompt, generated)
    assert tuple(entry.snapshots) == plan.snapshots
    return entry, plan.cached


def check(entry: CacheEntry) -> None:
    """The cache holds exactly the entry's tokens."""
    for layer in entry.cache.layers:
        assert layer.offset == len(entry.tokens)
        held = sorted(np.array(layer.content()[0])[0, 0, :, 0].astype(int).tolist())
        window = CONFIG.sliding_window if layer in entry.cache.windows else len(entry.tokens)
        expected = sorted(entry.tokens[-window:])
        assert held[-len(expected) :] == expected


PROMPT = list(range(1, 101))


def test_the_next_turn_takes_the_entry_over_and_only_generated_tokens_are_lost() -> None:
    store = make_store()
    entry, _ = request(store, PROMPT, [7, 8, 9], boundaries=[40, 100])
    longer, cached = request(store, [*PROMPT, 200, 201], boundaries=[40, 100])
    assert longer is entry
    assert cached == 99
    check(entry)
    assert len(store.entries) == 1


def test_a_request_that_shares_less_gets_a_copy_and_the_original_stays() -> None:
    store = make_store()
    first, _ = request(store, PROMPT, [7, 8], boundaries=[40, 100])
    other, cached = request(store, [*PROMPT[:60], 300, 301], boundaries=[40])
    assert other is not first
    assert cached == 40
    check(first)
    check(other)
    assert first.tokens == [*PROMPT, 7, 8]
    assert store.cached_length([*PROMPT, 9]) == 99


def test_where_copy_and_original_do_not_fit_the_entry_is_taken_over() -> None:
    store = make_store()
    first, _ = request(store, PROMPT, boundaries=[40])
    limit = cache_bytes(102) + 4 * SNAPSHOT_BYTES
    other, cached = request(store, [*PROMPT[:60], 300, 301], boundaries=[40], limit=limit)
    assert other is first
    assert cached == 40
    check(other)
    assert store.nbytes <= limit


def test_idle_work_does_not_count_as_a_request() -> None:
    store = make_store()
    first, _ = request(store, PROMPT, [7], boundaries=[100])
    ahead, _ = request(store, [*PROMPT, 7, 50, 51], idle=True)
    assert ahead is first
    # Shares the last request's prompt, not what was computed ahead of the next.
    retried, cached = request(store, PROMPT)
    assert retried is first
    assert cached == 99


def test_an_entry_that_a_request_waits_for_is_copied_by_others() -> None:
    store = make_store()
    first, _ = request(store, PROMPT, boundaries=[100])
    waiting = store.reserve([*PROMPT, 5, 6])
    other, cached = request(store, [*PROMPT, 9])
    assert other is not first
    assert cached == 100
    waiting.end()
    waiting.end()
    assert not first.waiting
    mine, cached = request(store, [*PROMPT, 5, 6])
    assert cached == 100
    assert mine in (first, other)


@pytest.mark.parametrize("computed", range(SLIDING + FULL))
def test_a_request_that_begins_inside_a_chunk_of_another_copies_what_was_there_before_it(computed: int) -> None:
    store = make_store()
    long = store.carry_out(store.plan(PROMPT, [40, 60], PLENTY))
    long.running = True
    compute_chunk(long, PROMPT[:40])
    chunk = PROMPT[40:99]
    long.begin_chunk(len(chunk))
    append(long.cache, chunk, slice(computed))
    short, cached = request(store, [*PROMPT[:60], 300, 301])
    assert short is not long
    assert cached == 40
    check(short)
    append(long.cache, chunk, slice(computed, None))
    long.end_chunk(chunk)
    check(long)
    assert list(long.snapshots) == [40, 60]


def test_the_least_recently_used_is_evicted_first_and_never_the_one_in_use() -> None:
    store = make_store()
    limit = 3 * (cache_bytes(101) + 4 * SNAPSHOT_BYTES)
    prompts = [[1000 + n, *PROMPT] for n in range(3)]
    for prompt in prompts:
        request(store, prompt, limit=limit, boundaries=[101])
    request(store, [*prompts[0], 1], limit=limit, boundaries=[101])
    request(store, [2000, *PROMPT], limit=limit, boundaries=[101])
    found = [store.cached_length([*prompt, 5]) > 0 for prompt in prompts]
    assert found == [True, False, True]
    assert store.nbytes <= limit


def test_growing_evicts_others_and_not_itself() -> None:
    store = make_store()
    entries = [request(store, [1000 + n, *PROMPT])[0] for n in range(3)]
    evict, fits = store.plan_growth(entries[1], 5000, cache_bytes(5000))
    store.evict(evict)
    assert fits
    assert store.entries == (entries[1],)


def test_what_a_running_request_may_hold_later_is_counted_from_its_beginning() -> None:
    store = make_store()
    limit = cache_bytes(600) + cache_bytes(10) + 4 * SNAPSHOT_BYTES
    running = store.carry_out(store.plan(list(range(550)), [100], limit, room=50))
    running.running = True
    assert running.nbytes < limit // 10
    assert store.plan([7] * 10, [], limit).fits
    assert not store.plan([7] * 300, [], limit).fits
    running.running = False
    assert store.plan([7] * 300, [], limit).fits


def test_there_are_never_too_many_entries() -> None:
    store = make_store()
    for n in range(MAX_ENTRIES + 5):
        request(store, [1000 + n, 1, 2])
    assert len(store.entries) == MAX_ENTRIES
    assert store.cached_length([1000, 1, 2]) == 0


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    store = make_store()
    request(store, PROMPT, boundaries=[100])
    assert store.cached_length(PROMPT) == 99
    assert store.cached_length(PROMPT[:1]) == 0
    assert store.cached_length([]) == 0


@pytest.mark.parametrize("length", [3000, 12_000])
def test_a_prompt_that_parts_inside_a_message_finds_a_snapshot_near(length: int) -> None:
    store = make_store()
    document = [n % 250 for n in range(length)]
    request(store, [*document, 1, 2, 3], boundaries=[7])
    _, cached = request(store, [*document, 9, 8, 7, 6], boundaries=[7])
    assert length - cached <= SNAPSHOT_SPACING


def test_snapshots_are_bounded_and_spread_over_the_whole_prompt() -> None:
    positions = thinned([5, *range(SNAPSHOT_SPACING, 131_072, SNAPSHOT_SPACING)], MAX_SNAPSHOTS)
    assert len(positions) <= MAX_SNAPSHOTS
    assert positions[0] == 5
    assert positions[-3:] == (130_048 - 512, 130_048, 130_560)
    gaps = [after - before for before, after in itertools.pairwise(positions)]
    assert max(gaps) <= 16_384


@pytest.mark.parametrize("most", [2, 3, 8, 32])
def test_thinning_keeps_the_first_and_the_last_of_any_positions(most: int) -> None:
    chance = random.Random(most)
    for _ in range(50):
        positions = sorted(chance.sample(range(1, 5000), chance.randrange(1, 200)))
        kept = thinned(positions, most)
        assert set(kept) <= set(positions)
        assert len(kept) <= max(most, 1)
        if len(positions) > 1:
            assert (kept[0], kept[-1]) == (positions[0], positions[-1])


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_entry_holds_its_tokens_and_the_bound_is_kept(seed: int) -> None:
    """Random requests of eight conversations that share beginnings, under a bound that evicts."""
    chance = random.Random(seed)
    store = make_store()
    limit = 4 * (cache_bytes(200) + 8 * SNAPSHOT_BYTES)
    conversations = [[1, 2, 3, 4 + n % 2] for n in range(8)]
    for _ in range(120):
        n = chance.randrange(8)
        conversation = conversations[n]
        if chance.random() < 0.3:  # an edit or an undo
            del conversation[chance.randrange(3, len(conversation)) :]
        elif chance.random() < 0.2:  # a fork
            conversations[n] = conversation = list(chance.choice(conversations))
        if len(conversation) > 150:
            del conversation[30:]
        prompt = [*conversation, *(chance.randrange(250) for _ in range(chance.randrange(1, 40)))]
        before = store.cached_length(prompt)
        boundaries = sorted(chance.sample(range(1, len(prompt)), min(3, len(prompt) - 1)))
        generated = [chance.randrange(250) for _ in range(chance.randrange(12))]
        entry, cached = request(
            store, prompt, generated, boundaries=boundaries, limit=limit, idle=chance.random() < 0.2
        )
        assert cached == before
        check(entry)
        assert store.nbytes <= limit
        conversations[n] = [*prompt, *generated][: chance.randrange(len(prompt), len(prompt) + 13)]
    for entry in store.entries:
        check(entry)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_machine_with_layers_of_one_kind_carries_out_the_plans_of_another(layer: int) -> None:
    leader = make_store()
    part = replace(CONFIG, num_hidden_layers=1, layer_types=(CONFIG.layer_types[layer],))
    follower = CacheStore(lambda: PromptCache(part), cache_bytes, 0)
    for prompt in (PROMPT, [*PROMPT[:40], 7, 7], [*PROMPT[:20], 9, 9], [*PROMPT[:40], 7, 8, 9], PROMPT):
        plan = leader.plan(prompt, [10, 20, 40], PLENTY)
        for store in (leader, follower):
            entry = store.carry_out(plan)
            compute(entry, prompt, [5, 5])
            check(entry)
            assert tuple(entry.snapshots) == plan.snapshots


def test_the_furthest_entry_is_the_one_that_shares_most() -> None:
    store = make_store()
    assert store.furthest(PROMPT) is None
    request(store, PROMPT[:50], boundaries=[20])
    entry, _ = request(store, [*PROMPT[:20], 9, 9])
    assert store.furthest([*PROMPT[:20], 9, 9, 1]) is entry
    part = store.furthest([*PROMPT[:30], 8])
    assert part is not None
    assert part.tokens == PROMPT[:20]
    check(part)
    assert store.furthest([7, 8, 9]) is None
    store.clear()
    assert store.entries == ()


def test_common_length_is_that_of_the_shared_beginning() -> None:
    assert common_length([], [1]) == 0
    assert common_length([1, 2, 3], [1, 2, 3, 4]) == 3
    assert common_length([1, 2, 9, 4], [1, 2, 3, 4]) == 2
    assert common_length([5], [6]) == 0
    for length in range(40):
        left = [*range(length), -1, *range(20)]
        assert common_length(left, list(range(100))) == length
