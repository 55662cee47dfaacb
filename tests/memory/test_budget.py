"""What fits a machine and what does not: the figures, the refusals and their remedies."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from gptoss_mlx.config import GPT_OSS_20B, PRECISIONS, RELEASED, ModelConfig, with_precision
from gptoss_mlx.errors import ContextFull, InvalidRequest, NotEnoughMemory
from gptoss_mlx.files.units import format_bytes
from gptoss_mlx.memory.budget import CHUNKS, MIN_CONTEXT, Budget
from gptoss_mlx.memory.sizes import full_bytes, weight_bytes, window_bytes
from tests.checkpoints import random_config
from tests.memory.machines import MACS, mac, pc


def refusal(budget: Budget) -> str | None:
    try:
        budget.check_load()
    except NotEnoughMemory as error:
        return str(error)
    return None


@pytest.mark.parametrize("memory", MACS)
@pytest.mark.parametrize("name", RELEASED)
def test_needed_bytes_are_compared_with_those_the_gpu_may_use(name: str, memory: int) -> None:
    for precision, context, kv_bits in itertools.product(PRECISIONS, (None, 8192, 131072), (None, 8)):
        config = with_precision(RELEASED[name], precision)
        budget = Budget(config=config, device=mac(memory), context=context, kv_bits=kv_bits)
        said = refusal(budget)
        assert budget.fits == (said is None) == (budget.needed_bytes() <= budget.device.gpu_bytes)
        if said is None:
            assert budget.positions >= budget.required
            assert budget.needed_bytes(budget.positions) <= budget.device.gpu_bytes
        else:
            assert f"{format_bytes(budget.needed_bytes())} are needed" in said


def test_the_smallest_macs_that_run_the_models() -> None:
    def smallest(name: str, precision: str) -> int:
        config = with_precision(RELEASED[name], precision)  # type: ignore[arg-type]
        return next(size for size in MACS if refusal(Budget(config=config, device=mac(size))) is None)

    assert [smallest("20b", precision) for precision in ("bf16", "q8", "q4")] == [24, 18, 16]
    assert smallest("120b", "q8") == 96


@pytest.mark.parametrize(("name", "position"), [("20b", 24_576), ("120b", 36_864)])
@pytest.mark.parametrize("length", [8192, 32768, 131072])
def test_a_cache_is_its_positions_and_the_windows(name: str, position: int, length: int) -> None:
    budget = Budget(config=RELEASED[name], device=mac(512))
    expected = position * length + window_bytes(RELEASED[name])
    assert expected <= budget.cache_bytes(length) <= 1.07 * expected
    # A snapshot is 3.1 MB of the 20b and 4.7 MB of the 120b; all together take 128 MB at most.
    assert window_bytes(RELEASED[name]) == pytest.approx({"20b": 3.1e6, "120b": 4.7e6}[name], rel=0.02)
    assert budget.snapshot_bytes <= 128 * 2**20


def test_eight_bits_take_little_more_than_half() -> None:
    assert full_bytes(GPT_OSS_20B, 1000, 8) / full_bytes(GPT_OSS_20B, 1000) == 0.5625


def test_a_context_that_was_asked_for_is_not_exceeded() -> None:
    budget = Budget(config=GPT_OSS_20B, device=mac(512), context=5000)
    assert budget.positions == 5000
    budget.check_prompt(4999)
    with pytest.raises(ContextFull, match="5000 tokens; the context holds 5000"):
        budget.check_prompt(5000)


def test_a_prompt_that_would_not_fit_the_memory_is_refused_with_figures_and_a_remedy() -> None:
    budget = Budget(config=with_precision(GPT_OSS_20B, "q4"), device=mac(16))
    assert MIN_CONTEXT <= budget.positions < 32768
    with pytest.raises(NotEnoughMemory, match=r"32,768 tokens.* GB are needed.*--kv-bits 8|wired_limit"):
        budget.check_prompt(32768)


@pytest.mark.parametrize("memory", MACS)
@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("context", [None, 8192])
def test_prompt_caches_share_one_context_or_an_eighth_of_the_memory(
    memory: int, kv_bits: int | None, context: int | None
) -> None:
    for config, device in itertools.product(RELEASED.values(), (mac(memory), pc(memory))):
        budget = Budget(config=config, device=device, kv_bits=kv_bits, context=context)
        if not budget.fits:
            continue
        one = budget.cache_bytes(budget.positions) + budget.snapshot_bytes
        left = device.gpu_bytes - budget.weight_bytes - budget.working_bytes(budget.positions)
        assert budget.cache_limit == min(left, max(one, device.memory_bytes // 8))
        assert budget.cache_bytes(budget.positions) <= budget.cache_limit
        assert replace(budget, max_cache_bytes=10**8).cache_limit == 10**8
        assert replace(budget, max_cache_bytes=10**15).cache_limit == budget.cache_limit


def test_a_large_machine_keeps_an_eighth_for_caches_and_a_small_one_all_that_is_left() -> None:
    large, small = (Budget(config=with_precision(GPT_OSS_20B, "q4"), device=mac(memory)) for memory in (512, 16))
    assert large.cache_limit == 64 * 2**30
    short = replace(large, device=mac(24))
    assert short.cache_limit == short.cache_bytes(131072) + short.snapshot_bytes > 3 * 2**30
    assert small.cache_limit == small.device.gpu_bytes - small.weight_bytes - small.working_bytes(small.positions)


def test_float32_fits_where_its_weights_and_caches_do() -> None:
    """The question that loading asks on a CPU: bfloat16 or float32."""
    halves = Budget(config=GPT_OSS_20B, device=pc(16))
    floats = replace(halves, element_bytes=4)
    assert halves.fits
    assert not floats.fits
    assert replace(floats, device=pc(24)).fits
    dense = halves.weight_bytes - weight_bytes(GPT_OSS_20B, element_bytes=0)
    assert floats.weight_bytes == halves.weight_bytes + dense
    assert floats.cache_bytes(9000) == 2 * halves.cache_bytes(9000)


def test_a_bound_for_caches_bounds_the_context() -> None:
    budget = Budget(config=GPT_OSS_20B, device=mac(512), max_cache_bytes=10**9)
    assert budget.cache_limit == 10**9
    assert budget.cache_bytes(budget.positions) + budget.snapshot_bytes <= 10**9
    assert budget.cache_bytes(budget.positions + 8192) + budget.snapshot_bytes > 10**9
    with pytest.raises(NotEnoughMemory, match=r"max_cache_bytes is 1,000,000,000; raise it"):
        budget.check_prompt(100_000)
    with pytest.raises(NotEnoughMemory, match="max_cache_bytes is 1,000"):
        replace(budget, max_cache_bytes=1000).check_load()


def test_chunks_are_as_large_as_there_is_room_for() -> None:
    config = with_precision(GPT_OSS_20B, "q4")
    small, large = Budget(config=config, device=mac(16)), Budget(config=config, device=mac(64))
    assert small.chunk_limit(4096) < large.chunk_limit(4096) == CHUNKS[-1]
    for chunk in CHUNKS:
        fits = small.needed_bytes(4096, chunk) <= small.device.gpu_bytes
        assert fits == (chunk <= small.chunk_limit(4096))


@pytest.mark.parametrize("field", ["context", "max_cache_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "x"])
def test_values_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"{field} is {value!r}"):
        Budget(config=ModelConfig.from_dict(random_config()), device=mac(8), **{field: value})  # type: ignore[arg-type]
