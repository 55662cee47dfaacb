"""The prompt caches that requests compute into: taken, computed, grown and kept within the bound of bytes.

Runs in the thread that owns MLX. Knows tokens, caches and memory; knows nothing of rows or queues.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..cache.entry import CacheEntry
from ..cache.store import CachePlan, CacheStore
from ..memory.budget import Budget
from .generate import Request, prefill
from .steps import Steps

__all__ = ["Computing", "Entries"]

Computing: TypeAlias = Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]]
"""Surrounds a computation; see :func:`computing`."""


class Entries:
    """The entries of a store, as requests use them.

    Args:
        store: the prompt caches.
        budget: the bytes that all of them may hold.
        computing: surrounds what is computed into one.
    """

    def __init__(self, store: CacheStore, budget: Budget, computing: Computing) -> None:
        self.store = store
        self.computing = computing
        self._budget = budget

    def plan(
        self,
        prompt: Sequence[int],
        boundaries: Sequence[int],
        *,
        room: int = 0,
        idle: bool = False,
        spare: int = 0,
    ) -> CachePlan:
        """What a request uses and what is evicted for it; see :meth:`CacheStore.plan`.

        Args:
            prompt, boundaries, room, idle: as there.
            spare: bytes of shared buffers that belong to no entry.
        """
        return self.store.plan(prompt, boundaries, self._budget.cache_limit - spare, room=room, idle=idle)

    def take(self, plan: CachePlan) -> CacheEntry:
        """The entry of a plan, which is carried out.

        Raises:
            NotEnoughMemory: a copy does not fit after all; its source stays.
        """
        with self.computing(lambda: None):
            return self.store.carry_out(plan)

    def prefill(self, steps: Steps, prompt: list[int], entry: CacheEntry, request: Request) -> bool:
        """Computes a prompt up to its last token; see :func:`prefill`. An entry whose computation fails is
        dropped."""
        with self.computing(lambda: self.drop(entry)):
            return prefill(steps, prompt, entry, request)

    def make_place(self, entry: CacheEntry, length: int, spare: int) -> bool:
        """Evicts what nobody uses, so that an entry may grow.

        Args:
            entry: it.
            length: the positions that it is to have memory for.
            spare: bytes of shared buffers that belong to no entry then.

        Returns:
            Whether the bound of bytes holds.
        """
        evict, fits = self.store.plan_growth(entry, length, self._budget.cache_limit - spare)
        self.store.evict(evict)
        return fits

    def keep(self, steps: Steps, entry: CacheEntry, spare: int) -> bool:
        """Takes an entry out of the buffers of the batch; evicts others for it, or itself if that is not enough.

        Args:
            steps: that compute it.
            entry: it.
            spare: bytes of shared buffers that belong to no entry then.

        Returns:
            False if it was evicted.

        Raises:
            NotEnoughMemory: its copy does not fit after all; it was evicted.
        """
        evict, fits = self.store.plan_growth(entry, len(entry.tokens) + 1, self._budget.cache_limit - spare)
        if not fits:
            self.drop(entry)
            return False
        self.store.evict(evict)
        with self.computing(lambda: self.drop(entry)):
            steps.leave(entry, len(entry.tokens))
        return True

    def drop(self, entry: CacheEntry) -> None:
        """Evicts an entry whose content is not whole."""
        self.store.evict([entry.number])
