"""The prompt caches that requests compute into: taken, computed, grown and kept within the bound of bytes.

Runs in the thread that owns MLX. Knows tokens, caches and memory; knows nothing of queues and of what decodes
together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from ..cache.entry import CacheEntry
from ..cache.store import CacheStore
from ..memory.budget import Budget
from .generate import Request, prefill
from .steps import Steps

__all__ = ["Computing", "Entries"]

Computing: TypeAlias = Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]]
"""Surrounds a computation: :func:`.generate.computing`, or of several machines :meth:`.group.Team.computing`."""


class Entries:
    """The entries of a store, as requests use them.

    ``spare`` is always the bytes of buffers that entries share and that belong to none of them.

    Args:
        store: the prompt caches.
        budget: the bytes that all of them may hold.
        computing: surrounds what is computed into one.
    """

    def __init__(self, store: CacheStore, budget: Budget, computing: Computing) -> None:
        self.store = store
        self.computing = computing
        self._budget = budget

    def take(
        self,
        prompt: Sequence[int],
        boundaries: Sequence[int],
        *,
        room: int = 0,
        idle: bool = False,
        spare: int = 0,
        may_wait: bool = False,
    ) -> CacheEntry | None:
        """The entry that a request computes into, with what is cached of its prompt.

        Args:
            prompt, boundaries, room, idle: see :meth:`CacheStore.plan`.
            spare: bytes.
            may_wait: whether the request can wait for memory that others use.

        Returns:
            None if it waits.

        Raises:
            NotEnoughMemory: a copy does not fit after all; its source stays.
        """
        limit = self._budget.cache_limit - spare
        plan = self.store.plan(prompt, boundaries, limit, room=room, idle=idle)
        if may_wait and not plan.fits:
            return None
        with self.computing(lambda: None):
            return self.store.carry_out(plan)

    def prefill(self, steps: Steps, prompt: list[int], entry: CacheEntry, request: Request) -> bool:
        """:func:`.generate.prefill` in chunks that there is memory for. If it fails, the entry is evicted."""
        request = replace(request, max_chunk=self._budget.chunk_limit(len(prompt)))
        with self.computing(lambda: self.evict(entry)):
            return prefill(steps, prompt, entry, request)

    def make_place(self, entry: CacheEntry, length: int, spare: int) -> bool:
        """Evicts what nobody uses, so that an entry may have so many positions.

        Returns:
            Whether the bound of bytes holds then.
        """
        evict, fits = self.store.plan_growth(entry, length, self._budget.cache_limit - spare)
        self.store.evict(evict)
        return fits

    def keep(self, steps: Steps, entry: CacheEntry, spare: int) -> bool:
        """Takes an entry out of the buffers that it shares; evicts others for it, or itself if that is not enough.

        Returns:
            False if it was evicted.

        Raises:
            NotEnoughMemory: its copy does not fit after all; it was evicted.
        """
        evict, fits = self.store.plan_growth(entry, len(entry.tokens) + 1, self._budget.cache_limit - spare)
        if not fits:
            self.evict(entry)
            return False
        self.store.evict(evict)
        with self.computing(lambda: self.evict(entry)):
            steps.leave(entry, len(entry.tokens))
        return True

    def evict(self, entry: CacheEntry) -> None:
        """Drops an entry from the store; what it holds is computed again when it is asked for."""
        self.store.evict([entry.number])
