"""The steps of requests: a chunk of a prompt, the logits after some tokens, a row that joins others or leaves.

A step is described by plain values. Where several machines compute one model, one of them decides on the steps and
all of them take the same: see ``group``. Runs in the thread that owns MLX.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import mlx.core as mx

from ..cache.batch import BatchCache
from ..cache.entry import CacheEntry
from ..cache.layered import PromptCache
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .chooser import Chooser
from .sampler import make_sampler

__all__ = ["CHUNKS", "Pace", "RowTokens", "Steps", "compute_chunk"]

CHUNKS: Final = (64, 128, 256, 512, 1024, 2048)
_FIRST_CHUNK: Final = 128
_GROWTH_OF_CHUNKS: Final = 4
_WARM_UP_TOKENS: Final = 64
RowTokens: TypeAlias = tuple[CacheEntry, mx.array, Chooser]
"""A row of a batch: its entry, its next token, [1], and who gets the logits after it."""


@dataclass(slots=True)
class Pace:
    """How many tokens a prefill chunk has, and how many of its layers are evaluated between two checks for a
    cancellation.

    A check comes every quarter of a second where a layer of 64 tokens takes no longer than that: chunks are as
    large as that allows, since large ones use the device best. Where a layer takes longer, a check follows each
    layer. A chunk is at most four times as large as one that was measured, because a token may take longer in a
    larger chunk: on a CPU it does, by attention. While rows decode beside it, checks come twice as often: a full
    layer takes longer than a sliding one, and the rows take a step at each check.
    """

    check_seconds: float = 0.25
    beside_rows: Callable[[], bool] = lambda: False
    layer_seconds: dict[int, float] = field(default_factory=dict)
    """Of one layer, by the size of the chunk, as measured last."""

    def chunk(self, limit: int) -> int:
        """Tokens of the next chunk.

        Args:
            limit: the most that there is memory for.
        """
        if not self.layer_seconds:
            return min(_FIRST_CHUNK, limit)
        fitting = itertools.takewhile(self._fits, CHUNKS)
        return min(max(fitting, default=CHUNKS[0]), limit)

    def layers(self, tokens: int) -> int:
        """Layers of a chunk of so many tokens that are evaluated together."""
        if not self.layer_seconds:
            return 1
        size = _size_of(tokens)
        known = self._known(size)
        # As if the time of a layer grew with the square of a size that was not measured, which is the most it can.
        seconds = self.layer_seconds[known] * max(1, size / known) ** 2 * tokens / size
        return max(1, int(self._seconds / seconds))

    def measured(self, tokens: int, layers: int, seconds: float) -> None:
        """Learns from a chunk; one that is shorter than any size says little.

        Other sizes were measured at other depths, where attention takes another time. A smaller chunk takes no
        longer than this one, and a token of it no shorter; a larger one takes no shorter, and grows at most with
        the square of its size.
        """
        size = _size_of(tokens)
        if tokens >= size or not self.layer_seconds:
            latest = seconds / layers * size / tokens
            for other, known in self.layer_seconds.items():
                ratio = other / size
                self.layer_seconds[other] = min(max(known, latest * min(1, ratio)), latest * max(1, ratio**2))
            self.layer_seconds[size] = latest

    def _fits(self, size: int) -> bool:
        """Whether a layer of a chunk of that size is predicted to end before the next check."""
        known = self._known(size)
        return size <= _GROWTH_OF_CHUNKS * known and self.layer_seconds[known] * size / known <= self._seconds

    @property
    def _seconds(self) -> float:
        """Between two checks."""
        return self.check_seconds / 2 if self.beside_rows() else self.check_seconds

    def _known(self, size: int) -> int:
        """The largest measured size that is not above a size, or else the smallest one."""
        sizes = self.layer_seconds
        return max((known for known in sizes if known <= size), default=min(sizes))


def _size_of(tokens: int) -> int:
    """The largest size of a chunk that is not above a number of tokens; the smallest one for fewer."""
    return max((size for size in CHUNKS if size <= tokens), default=CHUNKS[0])


class Steps:
    """Takes one step after another, on this machine alone.

    No logits are evaluated, so that the caller evaluates all of a step together.

    Args:
        transformer: computes them.
        pace: of its prefills; by default one that has measured nothing yet.
    """

    def __init__(self, transformer: Transformer, pace: Pace | None = None) -> None:
        self.transformer = transformer
        self.pace = Pace() if pace is None else pace

    def chooser(
        self, params: SamplingParams, control_tokens: Collection[int] = (), *, changes_logits: bool = False
    ) -> Chooser:
        """Begins to choose the tokens of a request.

        Args:
            params: how.
            control_tokens: see :func:`make_sampler`.
            changes_logits: whether a caller's function changes the logits, and needs all of them.
        """
        return Chooser(make_sampler(params, control_tokens))

    def chunk(self, entry: CacheEntry, tokens: list[int], cancelled: Callable[[], bool]) -> bool:
        """Computes keys and values of a chunk of a prompt, with the snapshots that the entry wants inside it.

        Returns:
            False if it was cancelled; the entry is then as before.
        """
        before = entry.begin_chunk(len(tokens))
        if not compute_chunk(self.transformer, tokens, entry.cache, self.pace, cancelled):
            entry.give_up_chunk(before)
            return False
        entry.end_chunk(tokens)
        # Buffers of this chunk's sizes are of no use to a chunk of another size.
        mx.clear_cache()
        return True

    def forward(self, entry: CacheEntry, tokens: mx.array, chooser: Chooser) -> mx.array:
        """Tokens [L] -> the logits after the last of them, [1, V]."""
        return chooser.received(self.transformer(tokens[None], entry.cache, last_only=True)[:, -1])

    def forward_rows(self, cache: BatchCache, rows: Sequence[RowTokens]) -> list[mx.array]:
        """One token of each row of a batch -> the logits after each, [1, V]."""
        cache.order([entry.row for entry, _, _ in rows])
        tokens = mx.concatenate([token for _, token, _ in rows])
        logits = mx.split(self.transformer(tokens[:, None], cache, last_only=True)[:, -1], len(rows))
        return [chooser.received(part) for (_, _, chooser), part in zip(rows, logits, strict=True)]

    def enter(self, entry: CacheEntry, cache: BatchCache, length: int) -> None:
        """Makes an entry a row of a batch, with memory for ``length`` positions."""
        entry.enter(cache, length)

    def grow(self, entry: CacheEntry, length: int) -> None:
        """Notes that there is memory for so many positions of a row of a batch."""
        assert entry.row is not None
        entry.row.length = length

    def leave(self, entry: CacheEntry, room: int) -> None:
        """Takes an entry out of its batch, with place for ``room`` positions."""
        entry.leave(room)

    def drop(self, entry: CacheEntry) -> None:
        """Takes an entry out of its batch that nobody needs any more."""
        entry.drop()

    def warm_up(self, cache: PromptCache, cancelled: Callable[[], bool]) -> None:
        """Computes a short chunk and one token, which are thrown away: that reads every weight once, compiles
        every kernel and measures the pace of a prefill.

        Args:
            cache: an empty one.
            cancelled: ends it early.
        """
        # Different tokens, so that they use different experts.
        chunk = [token * 997 % self.transformer.config.vocab_size for token in range(_WARM_UP_TOKENS)]
        if compute_chunk(self.transformer, chunk, cache, self.pace, cancelled):
            mx.eval(self.transformer(mx.zeros((1, 1), dtype=mx.int32), cache, last_only=True))


def compute_chunk(
    transformer: Transformer, chunk: list[int], cache: PromptCache, pace: Pace, cancelled: Callable[[], bool]
) -> bool:
    """One forward pass, evaluated in groups of layers.

    Returns:
        False if it was cancelled between two groups; the layers of the cache are then at different positions.
    """
    layers, started, paused = len(cache.layers), time.perf_counter(), 0.0
    group = pace.layers(len(chunk))
    outputs = transformer.layer_outputs(mx.array([chunk]), cache)
    for first in range(0, layers, group):
        began = time.perf_counter()
        if cancelled():
            return False
        paused += time.perf_counter() - began  # others may have used the device
        *_, output = itertools.islice(outputs, group)
        computed = [array for layer in cache.layers[first : first + group] for array in layer.arrays()]
        # The last layer's output is of no use here: only its keys and values are.
        mx.eval(computed, *([output] if first + group < layers or transformer.sends else []))
    # The last layer's experts are not computed, and they are most of a layer.
    pace.measured(len(chunk), max(1, layers - 1), time.perf_counter() - started - paused)
    return True
