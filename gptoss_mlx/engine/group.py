"""A model that several machines compute: the leader takes the steps of its requests, and the others take the same.

Everything that the leader decides is sent as plain values, before it does it itself: which prompt caches are taken
over, copied and evicted, which rows decode together, each chunk and each token. The others decide nothing. Each
has the same prompt caches by number, with its own part of their keys and values.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn

from ..cache.layered import PromptCache
from ..cache.store import CacheStore
from ..distributed.group import Group
from ..distributed.split import divide
from ..errors import MachineLost
from ..memory.budget import Budget
from ..model.peers import Peers
from ..model.transformer import Transformer
from ..share import Share, Split
from .following import FollowingSteps
from .leading import LeadingSteps, LeadingStore
from .steps import Pace

__all__ = ["Team"]

_CHUNK_SECONDS: Final = 0.5


class Team:
    """This machine's place among those that compute one model.

    Args:
        group: the machines.
        share: what this one has of the model.
        layers: of the whole model.
    """

    def __init__(self, group: Group, share: Share, layers: int) -> None:
        self._group = group
        self.peers = Peers(share=share, group=group.arrays)
        self._layers = layers

    @classmethod
    def form(cls, group: Group, split: Split, facts: Mapping[str, Any], budget: Budget) -> tuple[Team, Budget]:
        """Meets the other machines and divides the model.

        Args:
            group: the machines.
            split: how to divide it.
            facts: what has to be the same on all machines, by name.
            budget: of this machine, as if it had all of the model.

        Returns:
            Its place, and its budget, which promises nothing that does not fit all machines.

        Raises:
            InvalidRequest: the machines differ in a fact, or are more than the model has parts.
            MachineLost: they do not find each other.
        """
        devices = group.meet(facts, budget.device)
        shares = divide(budget.config, split, [device.gpu_bytes for device in devices])
        budgets = [
            replace(budget, device=device, share=share) for device, share in zip(devices, shares, strict=True)
        ]
        others = tuple(other for rank, other in enumerate(budgets) if rank != group.rank)
        team = cls(group, shares[group.rank], budget.config.num_hidden_layers)
        return team, replace(budgets[group.rank], others=others)

    @property
    def leads(self) -> bool:
        """Whether this machine decides and speaks."""
        return self._group.leads

    @property
    def is_lost(self) -> bool:
        """Whether a machine was lost, so that nothing can be computed any more."""
        return self._group.is_lost

    def store(
        self, make_cache: Callable[[], PromptCache], cache_bytes: Callable[[int], int], snapshot_bytes: int
    ) -> CacheStore:
        """The leader's store of prompt caches."""
        return LeadingStore(self._group.tell, make_cache, cache_bytes, snapshot_bytes)

    def lead(self, transformer: Transformer, on_lost: Callable[[MachineLost], None]) -> LeadingSteps:
        """Waits until all machines have loaded their share.

        Args:
            transformer: this machine's share.
            on_lost: is called when a machine is lost later, from any thread.

        Raises:
            MachineLost: one cannot load it.
        """
        self._group.on_lost = on_lost
        self._group.wait_until_ready()
        # A request can be cancelled between two chunks: each takes half a second, on all machines together.
        pace = Pace(check_seconds=_CHUNK_SECONDS / self._layers)
        return LeadingSteps(transformer, self.peers, self._group.tell, pace)

    def follow(self, load: Callable[[], Transformer], budget: Budget, parallel: int) -> NoReturn:
        """Loads this machine's share and takes the leader's steps until it closes the model, and ends the process.

        Args:
            load: loads it.
            budget: of this machine.
            parallel: the most requests at a time.

        Raises:
            SystemExit: always.
        """
        try:
            budget.check_load()
            transformer = load()
            self._group.wait_until_ready()
            make_cache = partial(PromptCache, budget.part, budget.kv_bits)
            store = CacheStore(make_cache, budget.cache_bytes, 0)
            FollowingSteps(transformer, self.peers, store, make_cache, parallel).follow(self._group.heard())
            self._group.close()
        except Exception as error:
            self._group.failed(error)
            raise
        sys.exit(0)

    def computing(self, on_failure: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Surrounds what the machines compute together; see :meth:`Group.computing`."""
        return self._group.computing(on_failure)

    def close(self) -> None:
        """Ends the other machines."""
        self._group.close()
