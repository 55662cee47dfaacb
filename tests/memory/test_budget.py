"""What fits a machine and what does not: the figures, the refusals and their remedies."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from gptoss_mlx.config import GPT_OSS_20B, PRECISIONS, RELEASED, ModelConfig, with_precision
from gptoss_mlx.errors import ContextFull, InvalidRequest, NotEnoughMemory
from gptoss_mlx.memory.budget import CHUNKS, LEAST_CONTEXT, Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.sizes import full_bytes, window_bytes
from tests.checkpoints import random_config

MACS = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)


def mac(gigabytes: int) -> DeviceInfo:
    """As macOS shares the memory: the GPU may use two thirds of it up to 36 GB, three quarters above."""
    memory = gigabytes * 2**30
    return DeviceInfo(
        name=f"Mac {gigabytes}",
        memory_bytes=memory,
        gpu_bytes=memory * 3 // 4 if gigabytes > 36 else memory * 2 // 3,
        is_mac=True,
    )


def refusal(budget: Budget) -> str | None:
    try:
        budget.check_load()
    except NotEnoughMemory as error:
        return str(error)
    return None


@pytest.mark.parametrize("gigabytes", MACS)
@pytest.mark.parametrize("name", RELEASED)
def test_what_is_needed_is_held_against_what_there_is(name: str, gigabytes: int) -> None:
    for precision, context, kv_bits in itertools.product(PRECISIONS, (None, 8192, 131072), (None, 8)):
        config = with_precision(RELEASED[name], precision)
        budget = Budget(config=config, device=mac(gigabytes), context=context, kv_bits=kv_bits)
        said = refusal(budget)
        assert (said is None) == (budget.needed_bytes(budget.wanted) <= budget.device.gpu_bytes)
        if said is None:
            assert budget.positions >= budget.wanted
            assert budget.needed_bytes(budget.positions) <= budget.device.gpu_bytes
        else:
            assert "\n" not in said
            assert f"{budget.needed_bytes(budget.wanted) / 1e9:.1f} GB are needed" in said
            check_remedies(budget, said)


def check_remedies(budget: Budget, said: str) -> None:
    """Whatever the message says helps, does."""
    if "no setting makes it fit" in said:
        least = replace(budget, config=with_precision(budget.config, "q4"), kv_bits=8, context=1024)
        assert refusal(least) is not None
        return
    helping = said.partition("what helps: ")[2]
    together = " with " in helping
    changed = budget
    for remedy in helping.split(" with " if together else ", or "):
        base = changed if together else budget
        if remedy.startswith("--context"):
            changed = replace(base, context=int(remedy.split()[1]))
        elif remedy.startswith("--kv-bits"):
            changed = replace(base, kv_bits=int(remedy.split()[1]))
        elif remedy.startswith("gptoss convert"):
            changed = replace(base, config=with_precision(base.config, remedy.split()[-1]))  # type: ignore[arg-type]
        else:
            megabytes = int(re.fullmatch(r"sudo sysctl iogpu\.wired_limit_mb=(\d+)", remedy)[1])  # type: ignore[index]
            changed = replace(base, device=replace(base.device, gpu_bytes=megabytes * 2**20))
            assert megabytes * 2**20 < base.device.memory_bytes
        if not together:
            assert refusal(changed) is None, remedy
    assert refusal(changed) is None


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
    # A mark is 3.1 MB of the 20b and 4.7 MB of the 120b; all together take 128 MB at most.
    assert window_bytes(RELEASED[name]) == pytest.approx({"20b": 3.1e6, "120b": 4.7e6}[name], rel=0.02)
    assert budget.mark_bytes <= 128 * 2**20


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
    assert LEAST_CONTEXT <= budget.positions < 32768
    with pytest.raises(NotEnoughMemory, match=r"32,768 tokens.* GB are needed.*--kv-bits 8|wired_limit"):
        budget.check_prompt(32768)


def test_a_bound_for_caches_bounds_the_context() -> None:
    budget = Budget(config=GPT_OSS_20B, device=mac(512), max_cache_bytes=10**9)
    assert budget.cache_limit == 10**9
    assert budget.cache_bytes(budget.positions) + budget.mark_bytes <= 10**9
    assert budget.cache_bytes(budget.positions + 8192) + budget.mark_bytes > 10**9
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
