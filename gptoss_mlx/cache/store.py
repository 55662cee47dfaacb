"""One store of the prompt caches of a model, keyed by token ids, under one bound of bytes.

Every request finds the longest beginning of its prompt that is already computed, whoever computed it. Harmony
drops the analysis of a finished turn and two prompts usually part inside a user's message, so a cache has
snapshots to go back to: at harmony's boundaries and every 512 tokens.

The store decides with plain values (:class:`CachePlan`) and carries a decision out in a second step, so that
several machines can carry out the same one. It knows nothing of harmony: boundaries are positions. Only the
worker's thread changes the entries; any thread may ask for a cached length and reserve an entry.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx

from .entry import CacheEntry
from .layered import PromptCache, Snapshot

__all__ = ["MAX_SNAPSHOTS", "MAX_SNAPSHOT_BYTES", "CachePlan", "CacheStore", "Reservation"]

_LOGGER: Final = logging.getLogger(__name__)
MAX_ENTRIES: Final = 64
MAX_SNAPSHOTS: Final = 32
"""Of one entry."""
MAX_SNAPSHOT_BYTES: Final = 128 * 2**20
"""Of one entry."""
SNAPSHOT_SPACING: Final = 512
"""Tokens between two snapshots that no boundary asks for, while the prompt is short enough for so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """What the store does for one request, as plain values."""

    entry: int
    """The number of the entry that the request computes into."""
    source: int | None
    """The entry whose beginning the request uses; None starts an empty one."""
    copy: bool
    """Whether the beginning is copied and the source stays; otherwise the source is rewound and becomes the
    entry."""
    cached: int
    """Tokens that need not be computed: the entry is rewound to them."""
    length: int
    """Positions that the entry shall have place for."""
    snapshots: tuple[int, ...]
    """The positions, ascending, at which the entry has snapshots once the prompt is computed."""
    request_length: int
    """The prompt's length of the last request on the entry; a later request that shares this much takes it
    over."""
    evict: tuple[int, ...]
    """The entries that are evicted first."""
    fits: bool = True
    """Whether the bound of bytes holds then."""


class Reservation:
    """What a queued request will use: until its turn comes, no other request rewinds that entry. From any thread.

    Args:
        entry: that one; None if there is none.
        lock: of the store.
    """

    def __init__(self, entry: CacheEntry | None, lock: threading.Lock) -> None:
        self._entry, self._lock = entry, lock
        if entry is not None:
            with lock:
                entry.waiting += 1

    def end(self) -> None:
        """Its turn has come, or never will. A second time does nothing."""
        with self._lock:
            if self._entry is not None:
                self._entry.waiting -= 1
                self._entry = None


class CacheStore:
    """The prompt caches of one model.

    Args:
        make_cache: makes an empty prompt cache.
        cache_bytes: the bytes that a prompt cache of so many positions takes.
        snapshot_bytes: the bytes of one snapshot.
    """

    def __init__(
        self, make_cache: Callable[[], PromptCache], cache_bytes: Callable[[int], int], snapshot_bytes: int
    ) -> None:
        self._make_cache = make_cache
        self._cache_bytes = cache_bytes
        self._snapshot_bytes = snapshot_bytes
        self._entries: dict[int, CacheEntry] = {}  # the least recently used first
        self._next_number = 0
        self._waiting_lock = threading.Lock()

    @property
    def entries(self) -> tuple[CacheEntry, ...]:
        """The least recently used first."""
        return tuple(self._entries.values())

    @property
    def nbytes(self) -> int:
        """Bytes that all entries hold."""
        return sum(entry.nbytes for entry in self.entries)

    def cached_length(self, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt need not be computed. May be called from any thread."""
        return max((entry.usable_length(prompt) for entry in self.entries), default=0)

    def reserve(self, prompt: Sequence[int]) -> Reservation:
        """Notes that a request waits. From any thread."""
        return Reservation(self._best(prompt), self._waiting_lock)

    def plan(
        self,
        prompt: Sequence[int],
        boundaries: Iterable[int],
        limit: int,
        *,
        room: int = 0,
        idle: bool = False,
    ) -> CachePlan:
        """Decides what a request uses and what is evicted for it. Changes nothing.

        A request takes an entry over if it shares at least the whole prompt of the last request on it, since then
        only generated tokens are lost. Otherwise it gets a copy of the shared part, where both fit the bound.

        Args:
            prompt: the request's tokens; all but the last one are to be computed.
            boundaries: positions of the prompt that shall have snapshots.
            limit: bytes that all entries together may hold.
            room: tokens after the prompt that the entry has place for too.
            idle: the work was not asked for by a request, so that a request may rewind it.
        """
        source = self._best(prompt)
        length = len(prompt) + room
        snapshots = self._snapshots(source, prompt, boundaries, length, limit)
        copy = source is not None and (
            source.running or bool(source.waiting) or not source.may_be_taken_over(prompt)
        )
        evict: tuple[int, ...] | None = None
        if source is not None and copy:
            needed = self._grown_bytes(None, length, len(snapshots)) + self._counted_bytes(source)
            evict = self._evicted_for(needed, limit, spared=source, added=1)
            copy = evict is not None
            if evict is None and source.running:
                source = None
                snapshots = self._snapshots(source, prompt, boundaries, length, limit)
        cached = source.usable_length(prompt) if source else 0
        if evict is None:
            needed = self._grown_bytes(source, length, len(snapshots))
            evict = self._evicted_for(needed, limit, spared=source, added=int(source is None))
        continued = None if copy else source
        return CachePlan(
            entry=self._next_number if continued is None else continued.number,
            source=None if source is None else source.number,
            copy=copy,
            cached=cached,
            length=length,
            snapshots=snapshots,
            request_length=continued.request_length if continued is not None and idle else len(prompt),
            # Where evicting all others is not enough, the request is alone with what it needs.
            evict=self._others(source) if evict is None else evict,
            fits=evict is not None,
        )

    def carry_out(self, plan: CachePlan) -> CacheEntry:
        """Does what was planned.

        Returns:
            The entry that the request computes into; its tokens are the cached ones.
        """
        self.evict(plan.evict)
        source = None if plan.source is None else self._entries.pop(plan.source)
        if source is None:
            entry = CacheEntry(plan.entry, self._make_cache())
        elif plan.copy:
            self._entries[source.number] = source  # used now
            cache = source.cache.copied(source.snapshot_at(plan.cached), plan.length)
            entry = CacheEntry(plan.entry, cache, source.tokens[: plan.cached], source.snapshots.values())
        else:
            entry = source
            entry.rewind(plan.cached)
        entry.length, entry.request_length = plan.length, plan.request_length
        entry.keep_snapshots(plan.snapshots)
        self._add(entry)
        return entry

    def plan_growth(self, entry: CacheEntry, length: int, limit: int) -> tuple[tuple[int, ...], bool]:
        """Decides which entries are evicted before one grows to ``length`` positions; also returns whether the
        bound of bytes holds then."""
        needed = self._grown_bytes(entry, length, len(entry.snapshots))
        evict = self._evicted_for(needed, limit, spared=entry)
        return (self._others(entry), False) if evict is None else (evict, True)

    def evict(self, numbers: Iterable[int]) -> None:
        """Drops entries; what they hold is computed again when it is asked for."""
        evicted = [self._entries.pop(number, None) for number in numbers]
        if any(evicted):
            _LOGGER.debug("evicted %d prompt caches", sum(entry is not None for entry in evicted))
            evicted.clear()
            mx.clear_cache()

    def clear(self) -> None:
        """Drops all entries."""
        self.evict(tuple(self._entries))

    def furthest(self, prompt: Sequence[int]) -> CacheEntry | None:
        """The longest computed beginning of a prompt, and nothing that another prompt has after it; None if there
        is none."""
        wanted = [*prompt, 0]  # the last token of a prompt is never cached
        best = max(self.entries, key=lambda entry: entry.usable_length(wanted), default=None)
        length = 0 if best is None else best.usable_length(wanted)
        if best is None or not length:
            return None
        if length == len(best.tokens):
            return best
        snapshots = [snapshot for snapshot in best.snapshots.values() if snapshot.offset <= length]
        cache = best.cache.copied(best.snapshot_at(length), length)
        return CacheEntry(best.number, cache, best.tokens[:length], snapshots)

    def admit(self, tokens: Sequence[int], nbytes: int, limit: int) -> bool:
        """Evicts others until a prompt cache that another process computed fits. False, and nothing is evicted, if
        its tokens are cached already."""
        if self.cached_length([*tokens, 0]) == len(tokens):
            return False
        self.evict(self._evicted_for(nbytes, limit, spared=None, added=1) or ())
        return True

    def adopt(self, cache: PromptCache, tokens: Sequence[int], snapshots: Iterable[Snapshot]) -> None:
        """Adds a prompt cache that was admitted."""
        self._add(CacheEntry(self._next_number, cache, tokens, snapshots))

    def _add(self, entry: CacheEntry) -> None:
        """Makes an entry the most recently used one."""
        self._entries[entry.number] = entry
        self._next_number = max(self._next_number, entry.number + 1)

    def _best(self, prompt: Sequence[int]) -> CacheEntry | None:
        """The entry that saves the most tokens of a prompt; of equal ones, one that can be taken over, then the
        most recently used."""
        usable = [(length, entry) for entry in self.entries if (length := entry.usable_length(prompt))]
        most = max((length for length, _ in usable), default=0)
        equal = [entry for length, entry in usable if length == most]
        free = [
            entry for entry in equal if not entry.waiting and not entry.running and entry.may_be_taken_over(prompt)
        ]
        return next(reversed(free or equal), None)

    def _grown_bytes(self, entry: CacheEntry | None, length: int, snapshots: int) -> int:
        """Bytes of an entry, or of a new one, once it has so many positions and snapshots. Its buffers never
        shrink."""
        buffers = 0 if entry is None else entry.cache_bytes
        return max(self._cache_bytes(length), buffers) + snapshots * self._snapshot_bytes

    def _counted_bytes(self, entry: CacheEntry) -> int:
        """Bytes of an entry; of one that a request computes into, those that it may hold before the request asks
        for more."""
        return self._grown_bytes(entry, entry.length, entry.most_snapshots) if entry.running else entry.nbytes

    def _evicted_for(
        self, needed: int, limit: int, *, spared: CacheEntry | None, added: int = 0
    ) -> tuple[int, ...] | None:
        """The entries to evict, least recently used first and those that a request waits for last, so that
        ``needed`` bytes fit beside the rest.

        Args:
            needed: bytes, those of ``spared`` included.
            limit: bytes that all entries together may hold.
            spared: is not evicted.
            added: how many entries come to the store.

        Returns:
            None if evicting all others is not enough.
        """
        others = sorted(
            (entry for entry in self.entries if entry is not spared), key=lambda entry: entry.waiting > 0
        )
        held, count = sum(map(self._counted_bytes, others)), len(self._entries) + added
        evicted: list[int] = []
        for entry in others:
            if entry.running:
                continue
            if needed + held <= limit and count <= MAX_ENTRIES:
                break
            held -= entry.nbytes
            count -= 1
            evicted.append(entry.number)
        return tuple(evicted) if needed + held <= limit else None

    def _most_snapshots(self, length: int, limit: int) -> int:
        """How many snapshots an entry of that many positions may have."""
        nbytes = min(MAX_SNAPSHOT_BYTES, limit - self._cache_bytes(length))
        return max(2, min(MAX_SNAPSHOTS, nbytes // max(1, self._snapshot_bytes)))

    def _others(self, entry: CacheEntry | None) -> tuple[int, ...]:
        return tuple(other.number for other in self.entries if other is not entry and not other.running)

    def _snapshots(
        self,
        source: CacheEntry | None,
        prompt: Sequence[int],
        boundaries: Iterable[int],
        length: int,
        limit: int,
    ) -> tuple[int, ...]:
        """The positions of the snapshots of a prompt that continues an entry."""
        cached = source.usable_length(prompt) if source else 0
        positions = _snapshot_positions(source, cached, len(prompt), boundaries)
        return thinned(positions, self._most_snapshots(length, limit))


def _snapshot_positions(
    source: CacheEntry | None, cached: int, length: int, boundaries: Iterable[int]
) -> list[int]:
    """The positions where a prompt's entry may have snapshots."""
    kept = [position for position in (source.snapshots if source else ()) if position <= cached]
    # The prompt's own end is one token early: the same prompt again needs that token's logits.
    asked = [position for boundary in boundaries if (position := min(boundary, length - 1)) >= cached]
    grid = range(cached - cached % SNAPSHOT_SPACING + SNAPSHOT_SPACING, length, SNAPSHOT_SPACING)
    return [*kept, *asked, *grid]


def thinned(positions: Iterable[int], most: int) -> tuple[int, ...]:
    """At most ``most`` of the positions, ascending: the first, the last quarter, and the others evenly spread."""
    kept = sorted(set(positions) - {0})
    protected = {*kept[:1], *kept[-max(1, most // 4) :]}
    spacing = 1
    while len(kept) > most:
        spacing *= 2
        before = [-1, *kept]
        kept = [
            position
            for position, previous in zip(kept, before, strict=False)
            if position in protected or position // spacing != previous // spacing
        ]
    return tuple(kept)
