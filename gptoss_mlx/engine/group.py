"""A model that several machines compute: the leader takes the steps of its requests, and the others take the same.

Everything that the leader decides is sent as plain values, before it does it itself: which prompt caches are taken
over, copied and evicted, each chunk and each token. The others decide nothing. Each has the same prompt caches by
number, with its own part of their keys and values.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..cache.layered import PromptCache
from ..cache.store import CacheEntry, CachePlan, CacheStore
from ..distributed.group import Group
from ..distributed.link import Message
from ..distributed.split import divide
from ..errors import InvalidRequest, MachineLost
from ..memory.budget import Budget
from ..model.peers import Peers
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from ..share import Share, Split
from .sampler import Sampler
from .steps import Pace, Steps
from .vocabulary import SplitVocabulary

__all__ = ["FollowingSteps", "LeadingSteps", "LeadingStore", "Team"]

Tell: TypeAlias = Callable[..., None]
"""Sends the name of a step and its arguments to all other machines."""
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
        self.pace = Pace(check_seconds=_CHUNK_SECONDS / layers)
        """A request can be cancelled between two chunks: each takes half a second, on all machines together."""

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
        return LeadingSteps(transformer, self.peers, self._group.tell)

    def follow(self, load: Callable[[], Transformer], budget: Budget) -> NoReturn:
        """Loads this machine's share and takes the leader's steps until it closes the model, and ends the process.

        Raises:
            SystemExit: always.
        """
        try:
            budget.check_load()
            transformer = load()
            self._group.wait_until_ready()
            make_cache = partial(PromptCache, budget.part, budget.kv_bits)
            store = CacheStore(make_cache, budget.cache_bytes, 0)
            FollowingSteps(transformer, self.peers, store, make_cache).follow(self._group.heard())
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
        """Does what was planned, on all machines."""
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


class _GroupSteps(Steps):
    """Steps on one machine of several. What they return is being computed already, in the same order on all."""

    def __init__(self, transformer: Transformer, peers: Peers) -> None:
        self._peers = peers
        super().__init__(transformer, SplitVocabulary(peers, transformer.config.vocab_size))

    def chunk(self, entry: CacheEntry, tokens: list[int], pace: Pace, cancelled: Callable[[], bool]) -> bool:
        return super().chunk(entry, tokens, pace, _never)

    def forward(self, entry: CacheEntry, tokens: mx.array) -> mx.array:
        logits = super().forward(entry, tokens)
        mx.async_eval(logits)
        return logits

    def choose(
        self,
        sampler: Sampler,
        logits: mx.array,
        processed: mx.array,
        *,
        allowed: NDArray[np.bool_] | None = None,
        check_all: bool = False,
    ) -> tuple[mx.array, mx.array]:
        chosen = super().choose(sampler, logits, processed, allowed=allowed, check_all=check_all)
        mx.async_eval(*chosen)
        return chosen

    def check(self, logits: mx.array) -> mx.array:
        check = super().check(logits)
        mx.async_eval(check)
        return check

    def logprobs(self, logits: mx.array, tokens: mx.array, top: int) -> tuple[mx.array, ...]:
        logprobs = super().logprobs(logits, tokens, top)
        mx.async_eval(*logprobs)
        return logprobs

    def all_logits(self, logits: mx.array) -> mx.array:
        """See :meth:`Vocabulary.all`."""
        found = self.vocabulary.all(logits)
        mx.async_eval(found)
        return found


class LeadingSteps(_GroupSteps):
    """Takes the steps of requests, and tells the other machines about each before it takes it.

    Args:
        transformer: this machine's share.
        peers: the machines.
        tell: tells the others.
    """

    def __init__(self, transformer: Transformer, peers: Peers, tell: Tell) -> None:
        super().__init__(transformer, peers)
        self.tell = tell
        self._chosen: mx.array | None = None

    def sampler(self, params: SamplingParams, control_tokens: Collection[int] = ()) -> Sampler:
        if params.seed is None:
            params = replace(params, seed=secrets.randbits(63))
        self.tell("sampler", asdict(params), sorted(control_tokens))
        return super().sampler(params, control_tokens)

    def warm_up(self, cache: PromptCache, pace: Pace, cancelled: Callable[[], bool]) -> None:
        if not cancelled():
            self.tell("warm_up")
            super().warm_up(cache, pace, _never)

    def chunk(self, entry: CacheEntry, tokens: list[int], pace: Pace, cancelled: Callable[[], bool]) -> bool:
        if cancelled():
            return False
        self.tell("chunk", entry.number, tokens)
        return super().chunk(entry, tokens, pace, _never)

    def forward(self, entry: CacheEntry, tokens: mx.array) -> mx.array:
        # The token that was chosen last is on all machines before it is known here.
        known = None if tokens is self._chosen else tokens.tolist()
        self.tell("forward", entry.number, known)
        return super().forward(entry, tokens)

    def choose(
        self,
        sampler: Sampler,
        logits: mx.array,
        processed: mx.array,
        *,
        allowed: NDArray[np.bool_] | None = None,
        check_all: bool = False,
    ) -> tuple[mx.array, mx.array]:
        self.tell("choose", None if allowed is None else _packed(allowed), check_all)
        chosen, check = super().choose(sampler, logits, processed, allowed=allowed, check_all=check_all)
        self._chosen = chosen
        return chosen, check

    def check(self, logits: mx.array) -> mx.array:
        self.tell("check")
        return super().check(logits)

    def logprobs(self, logits: mx.array, tokens: mx.array, top: int) -> tuple[mx.array, ...]:
        self.tell("logprobs", None if tokens is self._chosen else tokens.tolist(), top)
        return super().logprobs(logits, tokens, top)

    def all_logits(self, logits: mx.array) -> mx.array:
        self.tell("all_logits")
        return super().all_logits(logits)

    def with_all_logits(self) -> Steps:
        return _GatheringSteps(self)


class _GatheringSteps(Steps):
    """Steps of a request whose logits are gathered on the leader, which then chooses the tokens by itself.

    Args:
        steps: the leader's.
    """

    def __init__(self, steps: LeadingSteps) -> None:
        super().__init__(steps.transformer)
        self._steps = steps

    def chunk(self, entry: CacheEntry, tokens: list[int], pace: Pace, cancelled: Callable[[], bool]) -> bool:
        return self._steps.chunk(entry, tokens, pace, cancelled)

    def forward(self, entry: CacheEntry, tokens: mx.array) -> mx.array:
        return self._steps.all_logits(self._steps.forward(entry, tokens))


class FollowingSteps(_GroupSteps):
    """Takes the steps that the leader takes.

    Args:
        transformer: this machine's share.
        peers: the machines.
        store: this machine's part of the prompt caches.
        make_cache: makes an empty prompt cache.
    """

    def __init__(
        self, transformer: Transformer, peers: Peers, store: CacheStore, make_cache: Callable[[], PromptCache]
    ) -> None:
        super().__init__(transformer, peers)
        self._store, self._make_cache = store, make_cache
        self._pace = Pace()
        self._sampler: Sampler | None = None
        self._logits = self._chosen = mx.array([])

    def follow(self, told: Iterable[Message]) -> None:
        """Takes one step after another until there are no more."""
        steps: dict[str, Callable[..., object]] = {
            "carry_out": self._carry_out,
            "evict": self._store.evict,
            "warm_up": lambda: self.warm_up(self._make_cache(), self._pace, _never),
            "sampler": self._make_sampler,
            "chunk": lambda number, tokens: self.chunk(self._entry(number), tokens, self._pace, _never),
            "forward": self._forward,
            "choose": self._choose,
            "check": lambda: self.check(self._logits),
            "logprobs": lambda tokens, top: self.logprobs(self._logits, self._tokens(tokens), top),
            "all_logits": lambda: self.all_logits(self._logits),
        }
        for name, *arguments in told:
            steps[name](*arguments)

    def _carry_out(self, plan: dict[str, Any]) -> None:
        listed = {name: tuple(plan[name]) for name in ("snapshots", "evict")}
        entry = self._store.carry_out(CachePlan(**{**plan, **listed}))
        entry.cache.reserve(plan["length"])

    def _make_sampler(self, params: dict[str, Any], control_tokens: list[int]) -> None:
        self._sampler = self.sampler(SamplingParams(**params), control_tokens)

    def _forward(self, number: int, tokens: list[int] | None) -> None:
        entry, ids = self._entry(number), self._tokens(tokens)
        self._logits = self.forward(entry, ids)
        # Only their number matters here: the leader compares prompts.
        entry.extend(tokens or [0])

    def _choose(self, allowed: str | None, check_all: bool) -> None:
        assert self._sampler is not None
        mask = None if allowed is None else _unpacked(allowed, self.vocabulary.size(self._logits))
        self._chosen, _ = self.choose(self._sampler, self._logits, self._logits, allowed=mask, check_all=check_all)

    def _tokens(self, tokens: list[int] | None) -> mx.array:
        return self._chosen if tokens is None else mx.array(tokens)

    def _entry(self, number: int) -> CacheEntry:
        return next(entry for entry in self._store.entries if entry.number == number)


def _never() -> bool:
    return False


def _packed(mask: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 1)).decode()


def _unpacked(text: str, size: int) -> NDArray[np.bool_]:
    """The mask over ``size`` tokens; no more than its bytes are decompressed."""
    packed = zlib.decompressobj().decompress(base64.b64decode(text), -(-size // 8))
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=size).view(np.bool_)
