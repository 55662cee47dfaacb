"""Requests that run together: each has the tokens that it has alone, whoever joins, leaves, waits or fails."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from gptoss_mlx.cache.batch import BatchCache, _Slots
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.engine.generation import Generation
from gptoss_mlx.engine.runner import ModelRunner
from gptoss_mlx.engine.steps import Pace
from gptoss_mlx.errors import InvalidRequest, NotEnoughMemory
from gptoss_mlx.events import Progress
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.model.transformer import Transformer, load_transformer
from gptoss_mlx.sampling import SamplingParams
from tests.checkpoints import load_shape, random_tokens
from tests.engine.schedules import Outcome, check_schedule, make_runner

TOKENS = random_tokens("small", 3000)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load_shape(tmp_path_factory.mktemp("batch") / "small", "small")


@pytest.fixture(scope="module")
def runner(directory: Path) -> Iterator[ModelRunner]:
    made = make_runner(directory, parallel=4)
    yield made
    made.close()


def ask(runner: ModelRunner, prompt: list[int], count: int, **options: Any) -> Generation:
    sampling = SamplingParams(temperature=0, max_tokens=count)
    return runner.generate(prompt, sampling, stop_tokens=frozenset(), **options)


def alone(runner: ModelRunner, prompt: list[int], count: int) -> list[int]:
    """The tokens of a request that nothing computed before helps."""
    runner.call(runner.store.clear)
    tokens = list(ask(runner, prompt, count))
    runner.call(runner.store.clear)
    return tokens


def run(seeds: range, runner: ModelRunner, reference: Transformer, longest: int, requests: int = 8) -> Outcome:
    total = Outcome()
    for seed in seeds:
        found = check_schedule(runner, reference, seed, longest=longest, requests=requests)
        total.wrong += found.wrong
        total.tokens += found.tokens
        total.most_rows = max(total.most_rows, found.most_rows)
    return total


def test_in_any_schedule_each_request_has_the_tokens_that_it_has_alone(
    runner: ModelRunner, small: Transformer
) -> None:
    outcome = run(range(8), runner, small, longest=300)
    outcome.wrong += run(range(10, 12), runner, small, longest=1500).wrong
    assert not outcome.wrong
    assert outcome.tokens > 500
    assert outcome.most_rows == 4


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_so_it_is_for_eight_rows_and_for_keys_and_values_in_8_bits(kv_bits: int | None, tmp_path: Path) -> None:
    place = load_shape(tmp_path / "many_heads", "many_heads")
    runner = make_runner(place, parallel=8, kv_bits=kv_bits)
    outcome = run(range(100, 102), runner, load_transformer(place, mx.float32), longest=100, requests=16)
    runner.close()
    assert not outcome.wrong
    assert outcome.most_rows > 4


def test_entering_and_leaving_a_batch_copies_that_row_alone(small: Transformer) -> None:
    def cache(length: int) -> PromptCache:
        made = small.make_cache()
        mx.eval(small(mx.array([TOKENS[:length]]), made, last_only=True), made.arrays())
        return made

    batch = BatchCache(small.make_cache(), most=8)
    rows = [batch.enter(cache(400), 400) for _ in range(6)]
    mx.eval(small(mx.array([[1]] * 6), batch))
    own = batch.leave(rows[1], 0)  # its slot is empty now
    others = 3 * rows[0].nbytes
    for change in (lambda: batch.enter(own, 400), lambda: batch.leave(rows[2], 0)):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        change()
        assert mx.get_peak_memory() - before < others


def test_a_row_that_starts_like_a_running_one_copies_from_it(runner: ModelRunner) -> None:
    shared = TOKENS[:200]
    expected = [alone(runner, shared, 150), alone(runner, [*shared, 5], 20)]
    running = ask(runner, shared, 150)
    first = next(running)
    other = ask(runner, [*shared, 5], 20)
    assert list(other) == expected[1]
    assert other.cached_tokens == 199
    assert [first, *running] == expected[0]


def test_nothing_is_held_of_a_batch_that_has_ended(runner: ModelRunner) -> None:
    def held() -> int:
        runner.call(runner.store.clear)
        return mx.get_active_memory()

    list(ask(runner, TOKENS[:50], 2))
    before = held()
    rows = [ask(runner, TOKENS[n : n + 50], 10) for n in range(3)]
    assert [len(list(row)) for row in rows] == [10] * 3
    assert held() == before


def test_what_waits_for_the_rows_before_it_is_passed_by_nobody(runner: ModelRunner) -> None:
    running = ask(runner, TOKENS[:50], 400)
    next(running)
    happened: list[str] = []
    job = threading.Thread(target=lambda: runner.call(lambda: happened.append("job")))
    job.start()
    while not runner._worker._thread._requests and job.is_alive():
        time.sleep(0.001)
    late = ask(runner, TOKENS[:20], 1)
    list(running)
    happened.insert(0, "before" if not happened else "after")
    list(late)
    job.join()
    assert "job" in happened
    assert runner._batch.rows == []


def test_rows_go_on_while_the_prompt_of_another_is_computed(runner: ModelRunner) -> None:
    runner.call(runner.store.clear)
    running = ask(runner, TOKENS[:50], 4000)
    next(running)
    long = ask(runner, TOKENS[:3000][::-1], 1)
    read = []
    done = threading.Event()

    def finish() -> None:
        list(long)
        done.set()

    reader = threading.Thread(target=finish)
    reader.start()
    while not done.is_set():
        read.append(next(running))
    running.cancel()
    reader.join()
    assert len(read) > 2


def test_a_short_request_is_answered_beside_a_long_prompt(runner: ModelRunner) -> None:
    runner.call(runner.store.clear)
    long = ask(runner, TOKENS[:3000][::-1], 1)
    next(long.items())  # it has begun
    short = ask(runner, TOKENS[:30], 1)
    list(short)
    list(long)
    assert short.first_token is not None
    assert long.first_token is not None
    assert short.first_token < long.first_token


def test_a_row_that_fails_ends_alone(runner: ModelRunner) -> None:
    expected = alone(runner, TOKENS[:50], 100)
    running = ask(runner, TOKENS[:50], 100)
    first = next(running)

    def broken(tokens: mx.array, logits: mx.array) -> mx.array:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(ask(runner, TOKENS[:20], 5, logits_processor=broken))
    assert [first, *running] == expected


def test_a_request_for_which_there_is_no_memory_waits(directory: Path) -> None:
    one = make_runner(directory, parallel=4)
    expected = [alone(one, TOKENS[n : n + 2000], 30) for n in range(4)]
    limit = one.budget.cache_bytes(8192) + one.budget.snapshot_bytes
    one.close()
    runner = make_runner(directory, parallel=4, cache_bytes=limit)
    most = 0
    generations = [ask(runner, TOKENS[n : n + 2000], 30) for n in range(4)]
    for generation, tokens in zip(generations, expected, strict=True):
        assert list(generation) == tokens
        most = max(most, runner.store.nbytes + runner._batch.unused_bytes)
    runner.close()
    assert most <= limit


def test_a_row_for_whose_growth_there_is_no_memory_is_suspended_and_goes_on_later(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [TOKENS[n : n + 100 + n] for n in range(4)]
    expected = [alone(runner, prompt, 400) for prompt in prompts]
    suspended: list[Any] = []
    suspend = runner._batch._suspend
    plan_growth = runner.store.plan_growth

    def noted(row: Any) -> None:
        suspended.append(row)
        suspend(row)

    monkeypatch.setattr(runner._batch, "_suspend", noted)
    monkeypatch.setattr(runner._batch, "_keep", lambda steps, entry, spare: runner.store.evict([entry.number]))
    monkeypatch.setattr(runner.store, "plan_growth", lambda *growth: (plan_growth(*growth)[0], len(suspended) > 2))
    generations = [ask(runner, prompt, 400) for prompt in prompts]
    assert [list(generation) for generation in generations] == expected
    assert len(suspended) > 2


def test_no_more_rows_are_suspended_than_there_is_no_memory_for(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended: list[Any] = []
    batch, suspend, plan_growth = runner._batch, runner._batch._suspend, runner.store.plan_growth

    def noted(row: Any) -> None:
        suspended.append(batch.rows.index(row))
        suspend(row)

    def fitting(entry: Any, length: int, limit: int) -> tuple[tuple[int, ...], bool]:
        evict, _ = plan_growth(entry, length, limit)
        return evict, length < 300 or len(suspended) > 0

    monkeypatch.setattr(batch, "_suspend", noted)
    monkeypatch.setattr(runner.store, "plan_growth", fitting)
    generations = [ask(runner, TOKENS[n : n + 20], 270) for n in range(4)]
    assert [len(list(generation)) for generation in generations] == [270] * 4
    assert suspended == [3]


def test_a_row_that_goes_on_reports_no_progress_and_computes_in_chunks_that_fit(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, step = runner._batch, runner._batch.step
    limits: set[int] = set()
    chunk_limit, chunk = Budget.chunk_limit, Pace.chunk
    suspended: list[Any] = []

    def noted(self: Pace, most: int) -> int:
        limits.add(most)
        return chunk(self, most)

    def suspending() -> None:
        step()
        if not suspended and len(batch.rows) == 2 and len(batch.rows[1].entry.tokens) > 150:  # type: ignore[union-attr]
            row = batch.rows[1]
            suspended.append(row)
            number = row.entry.number  # type: ignore[union-attr]
            batch._suspend(row)
            runner.store.evict([number])
            # As if a long conversation left memory for small chunks only.
            monkeypatch.setattr(Budget, "chunk_limit", lambda self, length: min(16, chunk_limit(self, length)))
            monkeypatch.setattr(Pace, "chunk", noted)

    monkeypatch.setattr(batch, "step", suspending)
    first, second = ask(runner, TOKENS[:50], 300), ask(runner, TOKENS[60:120], 250)
    items = list(second.items())
    assert len(list(first)) == 300
    kinds = [type(item) for item in items]
    assert suspended
    assert kinds.count(int) == 250
    assert Progress not in kinds[kinds.index(int) :]
    assert limits == {16}


def test_suspended_rows_with_one_prompt_do_not_take_each_others_tokens(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry of the older one is evicted, and that of the younger one begins with the same prompt."""
    prompt, seeds = TOKENS[:100], range(3)
    sampled = [SamplingParams(temperature=1, seed=seed, max_tokens=250) for seed in seeds]
    expected = []
    for sampling in sampled:
        runner.call(runner.store.clear)
        expected.append(list(runner.generate(prompt, sampling, stop_tokens=frozenset())))
    runner.call(runner.store.clear)
    batch, step = runner._batch, runner._batch.step
    evicted: list[Any] = []

    def suspending() -> None:
        step()
        if not evicted and len(batch.rows) == 3 and all(len(row.entry.tokens) > 150 for row in batch.rows):  # type: ignore[union-attr]
            older, younger = batch.rows[1:]
            entry = weakref.ref(older.entry)
            evicted.append(entry)
            number = older.entry.number  # type: ignore[union-attr]
            batch._suspend(younger)
            batch._suspend(older)
            runner.store.evict([number])
            assert entry() is None

    monkeypatch.setattr(batch, "step", suspending)
    rows = [runner.generate(prompt, sampling, stop_tokens=frozenset()) for sampling in sampled]
    assert [list(row) for row in rows] == expected
    assert evicted


def test_what_is_evicted_is_freed_while_requests_that_joined_its_own_still_run(runner: ModelRunner) -> None:
    runner.call(runner.store.clear)
    rows = [ask(runner, TOKENS[n : n + 60], count) for n, count in enumerate((5, 10, 2000))]
    assert [len(list(row)) for row in rows[:2]] == [5, 10]
    next(rows[2])
    ended = [entry for entry in runner.store.entries if not entry.running]
    kept, numbers = [weakref.ref(entry) for entry in ended], [entry.number for entry in ended]
    assert len(numbers) == 2
    ended.clear()
    batch, step, freed = runner._batch, runner._batch.step, threading.Event()

    def evicting() -> None:
        runner.store.evict(numbers)
        freed.set()
        step()

    batch.step = evicting  # type: ignore[method-assign]
    try:
        assert freed.wait(60)
    finally:
        batch.step = step  # type: ignore[method-assign]
    assert [entry() for entry in kept] == [None, None]
    rows[2].cancel()


def test_a_row_with_buffers_of_its_own_is_not_copied_and_counts_once_when_it_leaves(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[tuple[int, int]] = []
    keep = runner._batch._keep

    def noted(steps: Any, entry: Any, spare: int) -> bool:
        left.append((spare, sum(layer.nbytes for layer in entry.row.own)))
        return keep(steps, entry, spare)

    monkeypatch.setattr(runner._batch, "_keep", noted)
    short = ask(runner, TOKENS[-40:], 8000)
    next(short)
    long = ask(runner, random_tokens("small", 5000), 10)
    assert len(list(long)) == 10
    short.cancel()
    spare, own = left[0]
    assert 0 < spare < own


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_after_a_row_for_which_the_memory_ran_out_while_it_entered_others_run_as_before(
    fails: int, runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(runner, TOKENS[n : n + 90], 30) for n in range(2)]
    entered, enter = itertools.count(1), _Slots.enter

    def failing(*arguments: Any) -> None:
        enter(*arguments)
        if next(entered) == fails:
            raise RuntimeError("[malloc] Unable to allocate 123 bytes.")

    monkeypatch.setattr(_Slots, "enter", failing)
    for generation in [ask(runner, TOKENS[n : n + 90], 30) for n in range(2)]:
        with pytest.raises(NotEnoughMemory):
            list(generation)
    assert [list(each) for each in [ask(runner, TOKENS[n : n + 90], 30) for n in range(2)]] == expected


def first_leave_fails(monkeypatch: pytest.MonkeyPatch, message: str) -> Iterator[int]:
    """Makes MLX fail while the first row leaves its batch; returns the count of those that left."""
    left, leave = itertools.count(1), BatchCache.leave

    def failing(*arguments: Any) -> PromptCache:
        if next(left) == 1:
            raise RuntimeError(message)
        return leave(*arguments)

    monkeypatch.setattr(BatchCache, "leave", failing)
    return left


def test_a_row_for_whose_copy_there_is_no_memory_when_it_leaves_has_its_answer(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(runner, TOKENS[n : n + 90], 30 + 20 * n) for n in range(3)]
    left = first_leave_fails(monkeypatch, "[malloc] Unable to allocate 123 bytes.")
    for _ in range(2):
        rows = [ask(runner, TOKENS[n : n + 90], 30 + 20 * n) for n in range(3)]
        assert [list(row) for row in rows] == expected
    assert next(left) > 2


def test_an_error_of_the_device_while_a_row_leaves_ends_all_requests_and_later_ones_run(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(runner, TOKENS[n : n + 90], count) for n, count in enumerate((20, 300))]
    first_leave_fails(monkeypatch, "Command buffer execution failed: GPU Timeout Error")
    short, long = (ask(runner, TOKENS[n : n + 90], count) for n, count in enumerate((20, 300)))
    assert list(short) == expected[0]
    with pytest.raises(RuntimeError, match="GPU Timeout"):
        list(long)
    assert [list(ask(runner, TOKENS[n : n + 90], count)) for n, count in enumerate((20, 300))] == expected


def test_an_error_of_the_device_while_a_row_is_suspended_ends_all_requests_and_later_ones_run(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(runner, TOKENS[n : n + 20], 270) for n in range(2)]
    plan_growth = runner.store.plan_growth

    def crowded(entry: Any, length: int, limit: int) -> tuple[tuple[int, ...], bool]:
        evict, fits = plan_growth(entry, length, limit)
        return evict, fits and length < 400

    with monkeypatch.context() as patch:
        first_leave_fails(patch, "Command buffer execution failed: GPU Timeout Error")
        patch.setattr(runner.store, "plan_growth", crowded)
        for row in [ask(runner, TOKENS[n : n + 20], 270) for n in range(2)]:
            with pytest.raises(RuntimeError, match="GPU Timeout"):
                list(row)
    assert [list(ask(runner, TOKENS[n : n + 20], 270)) for n in range(2)] == expected
    assert not any(entry.running for entry in runner.store.entries)


def test_a_suspended_request_that_is_cancelled_ends_although_there_is_no_memory_for_it(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, step = runner._batch, runner._batch.step
    suspended: list[Any] = []

    def suspending() -> None:
        step()
        if not suspended and len(batch.rows) == 2:
            row = batch.rows[1]
            restore = row.restore
            monkeypatch.setattr(row, "restore", lambda may_wait: not may_wait and restore(may_wait))
            batch._suspend(row)
            suspended.append(row)

    monkeypatch.setattr(batch, "step", suspending)
    first, second = ask(runner, TOKENS[:50], 2000), ask(runner, TOKENS[60:120], 2000)
    while not suspended:
        next(first)
    second.cancel()
    assert len(list(ask(runner, TOKENS[130:150], 2))) == 2
    assert batch.rows  # the first one still runs
    assert len(list(second)) < 20
    first.cancel()
    list(first)


def test_a_callers_function_without_memory_ends_its_own_request_alone(runner: ModelRunner) -> None:
    """As one that asks another model."""
    expected = alone(runner, TOKENS[:50], 100)

    def failing(tokens: mx.array, logits: mx.array) -> mx.array:
        raise NotEnoughMemory("the prompt does not fit the other model")

    row = ask(runner, TOKENS[:50], 100)
    read = [next(row)]
    with pytest.raises(NotEnoughMemory, match="other model"):
        list(ask(runner, TOKENS[100:120], 5, logits_processor=failing))
    assert read + list(row) == expected


def test_a_request_that_is_refused_reserves_nothing(runner: ModelRunner) -> None:
    runner.call(runner.store.clear)
    list(ask(runner, TOKENS[:100], 3))

    def asking(tokens: mx.array, logits: mx.array) -> mx.array:
        with pytest.raises(InvalidRequest, match="waits for it"):
            ask(runner, TOKENS[:101], 2)
        return logits

    list(ask(runner, TOKENS[200:220], 1, logits_processor=asking))
    assert [entry.waiting for entry in runner.store.entries] == [0, 0]


class _Forced:
    """A guide with a long run of tokens without alternatives."""

    def __init__(self) -> None:
        self._position = 0

    def allowed(self) -> int | NDArray[np.bool_]:
        return 5 if 5 < self._position < 2500 else np.ones(320, dtype=bool)

    def advance(self, token: int) -> None:
        self._position += 1


@pytest.fixture
def tight(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelRunner]:
    """Has memory for one full context, pauses after each layer of a chunk, and keeps its bound at every step."""
    one = make_runner(directory, parallel=4)
    limit = one.budget.cache_bytes(one.budget.positions) + one.budget.snapshot_bytes
    one.close()
    made = make_runner(directory, parallel=4, cache_bytes=limit)
    monkeypatch.setattr(Pace, "chunk", lambda self, most: min(64, most))
    monkeypatch.setattr(Pace, "layers", lambda self, tokens: 1)
    held, step = [0], made._batch.step

    def watched() -> None:
        step()
        held.append(made.store.nbytes + made._batch.unused_bytes)

    monkeypatch.setattr(made._batch, "step", watched)
    for n in range(20):
        list(ask(made, TOKENS[n : n + 30], 1))  # what is idle fills the memory
    yield made
    made.close()
    assert max(held) <= limit


def test_a_row_that_grows_beside_a_long_prompt_waits_where_there_is_no_memory_for_both(
    tight: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "chunk", lambda self, most: min(4, most))  # many pauses
    growing = ask(tight, TOKENS[:20], 3500)
    next(growing)
    other = ask(tight, random_tokens("small", 6500)[::-1], 5)
    rest = threading.Thread(target=lambda: list(growing))
    rest.start()
    assert len(list(other)) == 5
    growing.cancel()
    rest.join()


def test_a_guide_that_forces_many_tokens_asks_for_their_memory(tight: ModelRunner) -> None:
    generations = [ask(tight, TOKENS[:30], 3000, guide=_Forced()), ask(tight, TOKENS[50:80], 3000)]
    assert [len(list(generation)) for generation in generations] == [3000, 3000]


def test_schedules_keep_the_bound_of_bytes(tight: ModelRunner, small: Transformer) -> None:
    assert not run(range(3, 6), tight, small, longest=2500).wrong


def test_a_batch_predicts_its_memory(small: Transformer) -> None:
    batch, lengths = BatchCache(small.make_cache(), most=8), [3, 400, 700, 40, 1300, 500, 257, 900]
    position = sum(2 * 2 * 16 * 4 for kind in small.config.layer_types if kind == "full_attention")
    window = sum(16 * 2 * 2 * 16 * 4 for kind in small.config.layer_types if kind == "sliding_attention")
    for length in lengths:
        cache = small.make_cache()
        mx.eval(small(mx.array([TOKENS[: length - 1]]), cache, last_only=True), cache.arrays())
        own = cache.nbytes - sum(layer.nbytes for layer in cache.windows) if length > 1024 else 0
        predicted = batch.nbytes + own + batch.added_bytes([length], position, window)
        batch.enter(cache, length)
        assert batch.nbytes == predicted == sum(array.nbytes for array in batch.arrays())


def test_a_row_that_outgrows_its_slot_is_moved_and_computes_the_same(small: Transformer) -> None:
    lengths = [250, 510, 1020, 90]
    caches = []
    for length in lengths:
        caches.append(small.make_cache())
        mx.eval(small(mx.array([TOKENS[:length]]), caches[-1], last_only=True), caches[-1].arrays())
    alone = [cache.copied(cache.snapshot(), 0) for cache in caches]
    batch = BatchCache(small.make_cache(), most=4)
    rows = [batch.enter(cache, 0) for cache in caches]
    del caches
    for token in range(12):
        logits = small(mx.array([[token]] * 4), batch)[:, 0]
        expected = mx.concatenate([small(mx.array([[token]]), cache)[:, 0] for cache in alone])
        assert mx.allclose(logits, expected, atol=1e-4)
    assert [row.slots and row.slots.size for row in rows] == [512, 1024, None, 256]
    assert [row.view().offset for row in rows] == [length + 12 for length in lengths]
