"""The plan of a benchmark, its measurements and their results.

Engines alternate within each measurement, so that a machine that warms up or is busy affects all of them alike.
Results are available as soon as they are measured: an interrupted run keeps them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..arguments import MAX_PARALLEL, checked_integer
from ..config import ModelConfig
from ..files.units import format_bytes
from ..memory.budget import Budget
from ..memory.device import DeviceInfo
from ..tokenizer import Tokenizer
from .conversation import recorded_chat, recorded_replies
from .engines import Engine
from .kernels import count_kernels

__all__ = ["Benchmark", "DepthResult", "EngineResult", "Plan", "RowsResult", "Skipped", "TurnResult"]

MAX_TURNS = 10
_LONG_SECONDS = 30.0
"""A round that takes longer is not repeated."""
_WARM_UP_TOKENS = 32
_WARM_UP_DECODED = 2
_APART = 101
"""Tokens of the text between the beginnings of two rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The measurements to make.

    Raises:
        InvalidRequest: a value is out of range.
    """

    depths: tuple[int, ...] = (512, 2048, 8192, 32768)
    """Prompt lengths in tokens, ascending."""
    tokens: int = 64
    """Tokens decoded after each prompt."""
    rounds: int = 3
    """Measurements of each depth, of which the median is reported; one that takes over 30 s is not repeated."""
    turns: int = MAX_TURNS
    """Turns of the fixed chat."""
    rows: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of requests that decode together, after prompts of the shortest length."""

    def __post_init__(self) -> None:
        for depth in self.depths:
            checked_integer("depth", depth, 2, 2**24)
        checked_integer("tokens", self.tokens, 2, 2**16)
        checked_integer("rounds", self.rounds, 1, 1000)
        checked_integer("turns", self.turns, 0, MAX_TURNS)
        for rows in self.rows:
            checked_integer("rows", rows, 1, MAX_PARALLEL)
        object.__setattr__(self, "depths", tuple(sorted(set(self.depths))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A depth that was not measured."""

    depth: int
    reason: str


@dataclass(slots=True, kw_only=True)
class DepthResult:
    """Prompts of one length and decoding after them; one sample for each round."""

    depth: int
    first_token_seconds: list[float] = field(default_factory=list)
    """Seconds from the request to the first token, with an empty cache."""
    token_seconds: list[float] = field(default_factory=list)
    """Seconds for a decoded token; the mean over a round."""
    peak_bytes: int = 0
    """Peak memory of the engine: weights, cache and intermediate values."""

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.depth / statistics.median(self.first_token_seconds)

    @property
    def decode_rate(self) -> float:
        """Decoded tokens per second."""
        return 1 / statistics.median(self.token_seconds)


@dataclass(slots=True, kw_only=True)
class RowsResult:
    """Requests that decode together; one sample for each round."""

    rows: int
    token_seconds: list[float] = field(default_factory=list)
    """Seconds for a decoded token, of all rows together."""

    @property
    def decode_rate(self) -> float:
        """Decoded tokens per second, of all rows together."""
        return 1 / statistics.median(self.token_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """One turn of the fixed chat with its tool calls."""

    turn: int
    prompt_tokens: int
    """Length of the prompt of the turn's first request."""
    computed_tokens: int
    """Tokens of all its prompts that were not cached."""
    first_token_seconds: float
    """Seconds from the user's message to the first token."""


@dataclass(slots=True, kw_only=True)
class EngineResult:
    """All measurements of one engine."""

    name: str
    version: str
    load_seconds: float
    weight_bytes: int
    kernels: Counter[str] = field(default_factory=Counter)
    """Kernels of one decoded token, by operation."""
    depths: list[DepthResult] = field(default_factory=list)
    rows: list[RowsResult] = field(default_factory=list)
    turns: list[TurnResult] = field(default_factory=list)


class Benchmark:
    """Measures engines side by side.

    Args:
        plan: the measurements to make.
        config: the model's config.
        tokenizer: the model's tokenizer.
        device: decides which depths fit; by default this machine.
        progress: called with a description of the current measurement.
    """

    def __init__(
        self,
        plan: Plan,
        config: ModelConfig,
        tokenizer: Tokenizer,
        *,
        device: DeviceInfo | None = None,
        progress: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.plan = plan
        self.results: list[EngineResult] = []
        """One for each engine, in order; they grow while :meth:`measure` runs."""
        self.skipped: list[Skipped] = []
        self._tokenizer = tokenizer
        self._progress = progress
        self._text = _endless_text(tokenizer)
        for depth in plan.depths:
            reason = _obstacle(depth, plan.tokens, config, device or DeviceInfo.current())
            if reason is not None:
                self.skipped.append(Skipped(depth=depth, reason=reason))

    @property
    def depths(self) -> list[int]:
        """The depths that fit."""
        skipped = {skip.depth for skip in self.skipped}
        return [depth for depth in self.plan.depths if depth not in skipped]

    def measure(self, engines: Sequence[Engine]) -> None:
        """Measures all engines alternately and adds to ``results``."""
        results = [_result(engine) for engine in engines]
        self.results += results
        pairs = list(zip(engines, results, strict=True))
        for engine, result in pairs:
            self._progress(f"{engine.name}: warming up")
            prompt = self._prompt(_WARM_UP_TOKENS)
            list(engine.generate(prompt, _WARM_UP_DECODED))
            result.kernels = count_kernels(engine.decode_step(prompt))
        for depth in self.depths:
            self._measure_depth(depth, pairs)
        for rows in self.plan.rows if self.depths else ():
            self._measure_rows(rows, self.depths[0], [pair for pair in pairs if rows <= pair[0].parallel])
        for engine, result in pairs:
            self._measure_chat(engine, result)

    def _measure_depth(self, depth: int, pairs: Sequence[tuple[Engine, EngineResult]]) -> None:
        rows = [DepthResult(depth=depth) for _ in pairs]
        for number in range(self.plan.rounds):
            began = time.perf_counter()
            for (engine, result), row in zip(pairs, rows, strict=True):
                self._progress(f"{engine.name}: {depth:,} tokens, round {number + 1} of {self.plan.rounds}")
                self._time(engine, result.weight_bytes, row)
                if number == 0:
                    result.depths.append(row)
            if time.perf_counter() - began > _LONG_SECONDS * len(pairs):
                break

    def _time(self, engine: Engine, weight_bytes: int, row: DepthResult) -> None:
        prompt = self._prompt(row.depth)
        mx.clear_cache()
        mx.reset_peak_memory()
        held, began = mx.get_active_memory(), time.perf_counter()
        tokens = engine.generate(prompt, self.plan.tokens)
        next(tokens)
        first = time.perf_counter()
        decoded = sum(1 for _ in tokens)
        row.first_token_seconds.append(first - began)
        row.token_seconds.append((time.perf_counter() - first) / decoded)
        # Memory of other engines does not count.
        row.peak_bytes = max(row.peak_bytes, weight_bytes + mx.get_peak_memory() - held)

    def _measure_rows(self, rows: int, depth: int, pairs: Sequence[tuple[Engine, EngineResult]]) -> None:
        for engine, _ in pairs:
            self._progress(f"{engine.name}: warming up {rows} rows")
            engine.decode_rows(self._prompts(rows, _WARM_UP_TOKENS), _WARM_UP_DECODED)
        prompts = self._prompts(rows, depth)
        found = [RowsResult(rows=rows) for _ in pairs]
        for number in range(self.plan.rounds):
            for (engine, result), row in zip(pairs, found, strict=True):
                self._progress(f"{engine.name}: {rows} rows, round {number + 1} of {self.plan.rounds}")
                row.token_seconds.append(engine.decode_rows(prompts, self.plan.tokens))
                if number == 0:
                    result.rows.append(row)

    def _measure_chat(self, engine: Engine, result: EngineResult) -> None:
        chat = engine.chat()
        replies = itertools.takewhile(
            lambda reply: reply.turn <= self.plan.turns, recorded_replies(self._tokenizer)
        )
        for turn, steps in itertools.groupby(replies, key=lambda reply: reply.turn):
            self._progress(f"{engine.name}: turn {turn} of {self.plan.turns}")
            requests = list(steps)
            measured = [chat.reply(reply) for reply in requests]
            result.turns.append(
                TurnResult(
                    turn=turn,
                    prompt_tokens=len(requests[0].prompt),
                    computed_tokens=sum(computed for _, computed in measured),
                    first_token_seconds=measured[0][0],
                )
            )

    def _prompts(self, rows: int, length: int) -> list[list[int]]:
        # Different texts, because rows that use the same experts read fewer weights.
        return [self._prompt(length + _APART * row)[_APART * row :] for row in range(rows)]

    def _prompt(self, length: int) -> list[int]:
        return list(itertools.islice(self._text(), length))


def _result(engine: Engine) -> EngineResult:
    return EngineResult(
        name=engine.name,
        version=engine.version,
        load_seconds=engine.load_seconds,
        weight_bytes=engine.weight_bytes,
    )


def _endless_text(tokenizer: Tokenizer) -> Callable[[], Iterator[int]]:
    """The text of the fixed chat, repeated: real text, because the routing to experts depends on it."""
    tokens = tokenizer.encode("\n\n".join(message.text for message in recorded_chat() if message.channel))
    return lambda: itertools.cycle(tokens)


def _obstacle(depth: int, tokens: int, config: ModelConfig, device: DeviceInfo) -> str | None:
    """The reason why a depth cannot be measured on this device, if there is one."""
    if depth + tokens > config.max_position_embeddings:
        return f"with {tokens} more tokens it exceeds the model's context of {config.max_position_embeddings:,}"
    budget = Budget(config=config, device=device, context=depth + tokens)
    if not budget.fits:
        return f"needs {format_bytes(budget.needed_bytes())}; {format_bytes(device.gpu_bytes)} are available"
    return None
