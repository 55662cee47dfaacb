"""What the machine that leads does: it tells the others about each step before it takes it."""

from __future__ import annotations

import base64
import itertools
import secrets
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, NoReturn, TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..cache.batch import BatchCache
from ..cache.entry import CacheEntry
from ..cache.layered import PromptCache
from ..cache.store import CachePlan, CacheStore
from ..errors import InvalidRequest
from ..model.peers import Peers
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .chooser import Chooser
from .sampler import Sampler, make_sampler
from .scheduled import ScheduledChooser, ScheduledSteps, never
from .steps import Pace, RowTokens
from .vocabulary import Vocabulary

__all__ = ["LeadingSteps", "LeadingStore"]

Tell: TypeAlias = Callable[..., None]
"""Sends the name of a step and its arguments to all other machines."""


class LeadingStore(CacheStore):
    """A store whose decisions the other machines carry out too.

    Args:
        tell: tells them.
        store: the arguments of :class:`CacheStore`.
    """

    def __init__(
        self,
        tell: Tell,
        make_cache: Callable[[], PromptCache],
        cache_bytes: Callable[[int], int],
        snapshot_bytes: int,
    ) -> None:
        super().__init__(make_cache, cache_bytes, snapshot_bytes)
        self._tell = tell

    def carry_out(self, plan: CachePlan) -> CacheEntry:
        """Does what was planned, on all machines. What is evicted here is told twice, which changes nothing."""
        self._tell("carry_out", asdict(plan))
        return super().carry_out(plan)

    def evict(self, numbers: Iterable[int]) -> None:
        """Drops entries on all machines."""
        numbers = list(numbers)
        if numbers:
            self._tell("evict", numbers)
        super().evict(numbers)

    def furthest(self, prompt: Any) -> NoReturn:
        """Refuses: each machine has a part of the cache."""
        raise InvalidRequest("the prompt caches of several machines cannot be saved; use one machine for that")

    def admit(self, tokens: Any, nbytes: int, limit: int) -> NoReturn:
        """Refuses: see :meth:`furthest`."""
        raise InvalidRequest("several machines cannot load a prompt cache; leave it out and it is computed again")


class LeadingSteps(ScheduledSteps):
    """Takes the steps of requests.

    Args:
        transformer: this machine's share.
        peers: the machines.
        tell: tells the others.
        pace: see :class:`Steps`.
    """

    def __init__(self, transformer: Transformer, peers: Peers, tell: Tell, pace: Pace) -> None:
        super().__init__(transformer, peers, pace)
        self._tell = tell
        self._numbers = itertools.count()

    def chooser(
        self, params: SamplingParams, control_tokens: Collection[int] = (), *, changes_logits: bool = False
    ) -> Chooser:
        if params.seed is None:
            params = replace(params, seed=secrets.randbits(63))
        number = next(self._numbers)
        self._tell("chooser", number, asdict(params), sorted(control_tokens))
        if changes_logits:
            return _GatheringChooser(make_sampler(params, control_tokens), self.vocabulary, number, self._tell)
        sampler = make_sampler(params, control_tokens, self.vocabulary)
        return LeadingChooser(sampler, self.vocabulary, number, self._tell)

    def warm_up(self, cache: PromptCache, cancelled: Callable[[], bool]) -> None:
        if not cancelled():
            self._tell("warm_up")
            super().warm_up(cache, never)

    def chunk(self, entry: CacheEntry, tokens: list[int], cancelled: Callable[[], bool]) -> bool:
        if cancelled():
            return False
        self._tell("chunk", entry.number, tokens)
        return super().chunk(entry, tokens, never)

    def forward(self, entry: CacheEntry, tokens: mx.array, chooser: Chooser) -> mx.array:
        self._tell("forward", _told((entry, tokens, chooser)))
        return super().forward(entry, tokens, chooser)

    def forward_rows(self, cache: BatchCache, rows: Sequence[RowTokens]) -> list[mx.array]:
        self._tell("forward_rows", [_told(row) for row in rows])
        return super().forward_rows(cache, rows)

    def enter(self, entry: CacheEntry, cache: BatchCache, length: int) -> None:
        self._tell("enter", entry.number, length)
        super().enter(entry, cache, length)

    def grow(self, entry: CacheEntry, length: int) -> None:
        self._tell("grow", entry.number, length)
        super().grow(entry, length)

    def leave(self, entry: CacheEntry, room: int) -> None:
        self._tell("leave", entry.number, room)
        super().leave(entry, room)

    def drop(self, entry: CacheEntry) -> None:
        self._tell("drop", entry.number)
        super().drop(entry)


class LeadingChooser(ScheduledChooser):
    """Chooses the tokens of one request.

    Args:
        sampler: from logits to a token.
        vocabulary: where the logits are.
        number: its name among those of all requests.
        tell: tells the others.
    """

    def __init__(self, sampler: Sampler, vocabulary: Vocabulary, number: int, tell: Tell) -> None:
        super().__init__(sampler, vocabulary)
        self.number = number
        self.chosen: mx.array | None = None
        """The token that was chosen last: all machines have computed it, and none needs to be told its value."""
        self._tell = tell

    def choose(
        self,
        logits: mx.array,
        processed: mx.array,
        *,
        allowed: NDArray[np.bool_] | None = None,
        check_all: bool = False,
    ) -> tuple[mx.array, mx.array]:
        self._tell("choose", self.number, None if allowed is None else _packed(allowed), check_all)
        chosen, check = super().choose(logits, processed, allowed=allowed, check_all=check_all)
        self.chosen = chosen
        return chosen, check

    def check(self, logits: mx.array) -> mx.array:
        self._tell("check", self.number)
        return super().check(logits)

    def logprobs(self, logits: mx.array, tokens: mx.array, top: int) -> tuple[mx.array, ...]:
        self._tell("logprobs", self.number, self.known(tokens), top)
        return super().logprobs(logits, tokens, top)

    def known(self, tokens: mx.array) -> Any:
        """Tokens as the others are told of them: their values, or None for the one that was chosen last."""
        return None if tokens is self.chosen else tokens.tolist()

    def close(self) -> None:
        self._tell("close_chooser", self.number)


class _GatheringChooser(LeadingChooser):
    """Of a request whose logits a caller's function changes: they are gathered here, and chosen from alone.

    Args:
        sampler: from all logits to a token.
    """

    def __init__(self, sampler: Sampler, vocabulary: Vocabulary, number: int, tell: Tell) -> None:
        super().__init__(sampler, vocabulary, number, tell)
        self._alone = Chooser(sampler)

    def received(self, logits: mx.array) -> mx.array:
        logits = super().received(logits)
        self._tell("gather", self.number)
        return self.gathered(logits)

    def choose(
        self,
        logits: mx.array,
        processed: mx.array,
        *,
        allowed: NDArray[np.bool_] | None = None,
        check_all: bool = False,
    ) -> tuple[mx.array, mx.array]:
        return self._alone.choose(logits, processed, allowed=allowed, check_all=check_all)

    def check(self, logits: mx.array) -> mx.array:
        return self._alone.check(logits)

    def logprobs(self, logits: mx.array, tokens: mx.array, top: int) -> tuple[mx.array, ...]:
        return self._alone.logprobs(logits, tokens, top)


def _told(row: RowTokens) -> list[Any]:
    """A row's next tokens as the others are told of them: its entry, who gets its logits, and the tokens."""
    entry, tokens, chooser = row
    assert isinstance(chooser, LeadingChooser)
    return [entry.number, chooser.number, chooser.known(tokens)]


def _packed(mask: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 1)).decode()
