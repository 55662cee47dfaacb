"""Random schedules of requests that decode together, and the tokens of each alone."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from gptoss_mlx.cache.entry import common_length
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.cache.store import SNAPSHOT_SPACING
from gptoss_mlx.engine.generation import Generation
from gptoss_mlx.engine.runner import ModelRunner
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.metal import MLX_MEMORY
from gptoss_mlx.model.transformer import Transformer, load_transformer
from gptoss_mlx.sampling import SamplingParams

__all__ = ["TIE", "Scripted", "check_schedule", "make_runner"]

TIE = 4e-4
"""Where the two best logits are nearer to each other, rounding decides between them."""


class Scripted:
    """A guide that allows a random half of the vocabulary, or a single token, by position alone."""

    def __init__(self, seed: int, vocab_size: int) -> None:
        self._seed, self._vocab_size = seed, vocab_size
        self._position = 0

    def allowed(self) -> int | NDArray[np.bool_]:
        """See :class:`Steering`; every third position is in a run without alternatives."""
        rng = np.random.default_rng((self._seed, self._position))
        if random.Random(f"{self._seed} {self._position // 4}").random() < 1 / 3:
            return int(rng.integers(self._vocab_size))
        return np.asarray(rng.random(self._vocab_size) < 0.5)

    def advance(self, token: int) -> None:
        """Goes on."""
        self._position += 1


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One request of a schedule."""

    prompt: list[int]
    count: int
    """Tokens to generate."""
    cancel_after: int | None
    """Tokens after which it is cancelled."""
    guide_seed: int | None
    delay: float
    """Seconds after the request before it."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a schedule."""

    tokens: int = 0
    ties: int = 0
    most_rows: int = 0
    wrong: list[str] = field(default_factory=list)


def make_runner(
    directory: Path,
    *,
    parallel: int,
    kv_bits: int | None = None,
    compiled: bool = False,
    cache_bytes: int | None = None,
) -> ModelRunner:
    """A float32 model that runs so many requests at a time."""
    transformer = load_transformer(directory, mx.float32, compiled=compiled)
    budget = Budget(
        config=transformer.config,
        device=DeviceInfo.current(),
        element_bytes=4,
        kv_bits=kv_bits,
        context=8192,
        max_cache_bytes=cache_bytes,
    )
    return ModelRunner(lambda cancelled: transformer, budget, MLX_MEMORY, parallel=parallel)


def planned(seed: int, vocab_size: int, longest: int, requests: int) -> list[Planned]:
    """The requests of a schedule: prompts of 1 to ``longest`` tokens, many of which begin like one before.

    In every fourth schedule the first prompt has ``longest`` tokens, and the others part from it soon after one of
    its snapshots. They come while it is computed.
    """
    rng = random.Random(seed)
    beside = longest > SNAPSHOT_SPACING and seed % 4 == 3
    made: list[Planned] = []
    for _ in range(requests):
        prompt = [rng.randrange(vocab_size) for _ in range(int(longest ** rng.random()))]
        if beside and not made:
            prompt = [rng.randrange(vocab_size) for _ in range(longest)]
        elif beside:
            parting = rng.randrange(SNAPSHOT_SPACING, longest, SNAPSHOT_SPACING) + rng.randint(0, 40)
            prompt = made[0].prompt[:parting] + prompt[:40]
        elif made and rng.random() < 0.4:
            before = rng.choice(made).prompt
            prompt = before[: rng.randint(1, len(before))] + prompt[: rng.randint(1, len(prompt))]
        count = rng.choice([1, 2, 5, 17, 40, 60])
        made.append(
            Planned(
                prompt=prompt[:longest],
                count=count,
                cancel_after=rng.randrange(count) if rng.random() < 0.2 else None,
                guide_seed=rng.randrange(1000) if rng.random() < 0.3 else None,
                delay=rng.choice([0.01, 0.03, 0.1, 0.2] if beside else [0, 0, 0, 0.005, 0.03]),
            )
        )
    return made


def check_schedule(
    runner: ModelRunner, reference: Transformer, seed: int, *, longest: int = 3000, requests: int = 8
) -> Outcome:
    """Runs a schedule and compares each request with the same alone."""
    vocab_size = reference.config.vocab_size
    plan = planned(seed, vocab_size, longest, requests)
    outcome = Outcome()
    read: list[list[int]] = [[] for _ in plan]

    def follow(number: int, generation: Generation) -> None:
        for token in generation:
            read[number].append(token)
            outcome.most_rows = max(outcome.most_rows, len(runner._batch.rows))
            if len(read[number]) == plan[number].cancel_after:
                generation.cancel()

    threads = []
    for number, request in enumerate(plan):
        time.sleep(request.delay)
        guide = None if request.guide_seed is None else Scripted(request.guide_seed, vocab_size)
        generation = runner.generate(
            request.prompt,
            SamplingParams(temperature=0, max_tokens=request.count),
            stop_tokens=frozenset(),
            guide=guide,
        )
        if request.cancel_after == 0:
            generation.cancel()
        threads.append(threading.Thread(target=follow, args=(number, generation)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    for number, (request, tokens) in enumerate(zip(plan, read, strict=True)):
        expected = request.count if request.cancel_after is None else request.cancel_after
        if len(tokens) != expected:
            outcome.wrong.append(f"seed {seed}, request {number}: {len(tokens)} tokens, not {expected}")
    start = PromptCache(reference.config, runner.budget.kv_bits)
    for number, cache in _prefilled(reference, start, [request.prompt[:-1] for request in plan]):
        _compare(reference, cache, plan[number], read[number], outcome, f"seed {seed}, request {number}")
    return outcome


def _prefilled(
    reference: Transformer, start: PromptCache, prompts: Sequence[Sequence[int]]
) -> Iterator[tuple[int, PromptCache]]:
    """Each prompt's number and a cache that has computed it. What prompts have in common is computed once."""
    pending = [(start, 0, list(range(len(prompts))))]
    while pending:
        cache, done, group = pending.pop()
        first = prompts[group[0]]
        shared = min(common_length(first, prompts[number]) for number in group)
        for begin in range(done, shared, 512):
            mx.eval(reference(mx.array([first[begin : min(begin + 512, shared)]]), cache, last_only=True))
        parting = defaultdict(list)
        for number in group:
            parting[prompts[number][shared] if len(prompts[number]) > shared else None].append(number)
        for number in parting.pop(None, []):
            yield number, copy.deepcopy(cache)
        pending += [(copy.deepcopy(cache), shared, numbers) for numbers in parting.values()]


def _compare(
    reference: Transformer,
    cache: PromptCache,
    request: Planned,
    tokens: Sequence[int],
    outcome: Outcome,
    name: str,
) -> None:
    """Checks that each token is the likeliest after those before it, or tied with it.

    The cache has computed all of the prompt but its last token.
    """
    vocab_size = reference.config.vocab_size
    guide = None if request.guide_seed is None else Scripted(request.guide_seed, vocab_size)
    last = request.prompt[-1]
    for position, token in enumerate(tokens):
        logits = np.array(reference(mx.array([[last]]), cache)[0, 0])
        allowed = guide.allowed() if guide is not None else None
        if guide is not None:
            guide.advance(token)
        best = (
            allowed
            if isinstance(allowed, int)
            else int(np.where(True if allowed is None else allowed, logits, -np.inf).argmax())
        )
        outcome.tokens += 1
        if token != best:
            gap = float(logits[best] - logits[token])
            if isinstance(allowed, int) or not 0 <= gap <= TIE or (allowed is not None and not allowed[token]):
                outcome.wrong.append(f"{name}: token {position} is {token}, not {best} (gap {gap:.6f})")
                return
            outcome.ties += 1
        last = token
