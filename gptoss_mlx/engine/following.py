"""What the machines that follow do: they take the steps that the leader tells them about."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..cache.batch import BatchCache
from ..cache.entry import CacheEntry
from ..cache.layered import PromptCache
from ..cache.store import CachePlan, CacheStore
from ..distributed.link import Message
from ..model.peers import Peers
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .sampler import Sampler, make_sampler
from .scheduled import ScheduledChooser, ScheduledSteps, never
from .steps import RowTokens
from .vocabulary import Vocabulary

__all__ = ["FollowingSteps"]


class FollowingSteps(ScheduledSteps):
    """Takes the steps that the leader takes.

    Args:
        transformer: this machine's share.
        peers: the machines.
        store: this machine's part of the prompt caches.
        make_cache: makes an empty prompt cache.
        parallel: the most requests at a time.
    """

    def __init__(
        self,
        transformer: Transformer,
        peers: Peers,
        store: CacheStore,
        make_cache: Callable[[], PromptCache],
        parallel: int,
    ) -> None:
        super().__init__(transformer, peers)
        self._store, self._make_cache = store, make_cache
        self._batch = BatchCache(make_cache(), parallel)
        # The rows of the batch by the numbers of their entries, which the store may have evicted already.
        self._rows: dict[int, CacheEntry] = {}
        self._choosers: dict[int, _FollowingChooser] = {}

    def follow(self, told: Iterable[Message]) -> None:
        """Takes one step after another until there are no more."""
        choosers = self._choosers
        steps: dict[str, Callable[..., object]] = {
            "carry_out": self._carry_out,
            "evict": self._store.evict,
            "warm_up": lambda: self.warm_up(self._make_cache(), never),
            "chunk": lambda number, tokens: self.chunk(self._entry(number), tokens, never),
            "forward": lambda row: self.forward(*self._row(row)),
            "forward_rows": lambda rows: self.forward_rows(self._batch, [self._row(row) for row in rows]),
            "enter": self._enter,
            "grow": lambda number, length: self.grow(self._rows[number], length),
            "leave": lambda number, room: self.leave(self._rows.pop(number), room),
            "drop": lambda number: self.drop(self._rows.pop(number)),
            "chooser": self._make_chooser,
            "choose": lambda number, allowed, check_all: choosers[number].follow(allowed, check_all),
            "check": lambda number: choosers[number].check(choosers[number].logits),
            "logprobs": self._logprobs,
            "gather": lambda number: choosers[number].gathered(choosers[number].logits),
            "close_chooser": choosers.pop,
        }
        for name, *arguments in told:
            steps[name](*arguments)

    def _carry_out(self, plan: dict[str, Any]) -> None:
        listed = {name: tuple(plan[name]) for name in ("snapshots", "evict")}
        entry = self._store.carry_out(CachePlan(**{**plan, **listed}))
        entry.cache.reserve(plan["length"])

    def _make_chooser(self, number: int, params: dict[str, Any], control_tokens: list[int]) -> None:
        sampler = make_sampler(SamplingParams(**params), control_tokens, self.vocabulary)
        self._choosers[number] = _FollowingChooser(sampler, self.vocabulary)

    def _enter(self, number: int, length: int) -> None:
        self._rows[number] = self._entry(number)
        self.enter(self._rows[number], self._batch, length)

    def _logprobs(self, number: int, tokens: list[int] | None, top: int) -> None:
        chooser = self._choosers[number]
        chooser.logprobs(chooser.logits, chooser.tokens(tokens), top)

    def _row(self, told: Sequence[Any]) -> RowTokens:
        """The next tokens of an entry, which it then has."""
        number, chooser_number, tokens = told
        entry, chooser = self._entry(number), self._choosers[chooser_number]
        # Only the number of the tokens matters here: the leader compares prompts.
        entry.extend(tokens or [0])
        return entry, chooser.tokens(tokens), chooser

    def _entry(self, number: int) -> CacheEntry:
        return next(entry for entry in self._store.entries if entry.number == number)


class _FollowingChooser(ScheduledChooser):
    """Chooses the tokens of one request, which the leader reads."""

    def __init__(self, sampler: Sampler, vocabulary: Vocabulary) -> None:
        super().__init__(sampler, vocabulary)
        self.logits = self.chosen = mx.array([])

    def received(self, logits: mx.array) -> mx.array:
        self.logits = super().received(logits)
        return self.logits

    def follow(self, allowed: str | None, check_all: bool) -> None:
        """Chooses the next token from the logits that it has received."""
        mask = None if allowed is None else _unpacked(allowed, self.vocabulary.size(self.logits))
        self.chosen, _ = self.choose(self.logits, self.logits, allowed=mask, check_all=check_all)

    def tokens(self, told: list[int] | None) -> mx.array:
        """Those that the leader tells of; None stands for the one that was chosen last."""
        return self.chosen if told is None else mx.array(told)


def _unpacked(text: str, size: int) -> NDArray[np.bool_]:
    """The mask over ``size`` tokens; no more than its bytes are decompressed."""
    packed = zlib.decompressobj().decompress(base64.b64decode(text), -(-size // 8))
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=size).view(np.bool_)
