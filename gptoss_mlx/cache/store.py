"""What one conversation has already computed, by token ids, and how to come back to any point of it.

Harmony drops a finished turn's analysis, so the next prompt leaves the cached tokens right after
``<|start|>assistant``. The cache is marked at such boundaries; a new prompt goes back to the last mark that
it shares, and only what comes after is computed. Knows nothing of harmony: boundaries are positions.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence

import mlx.core as mx

from .layered import PromptCache, Snapshot

__all__ = ["PrefixCache", "PrefixPool"]

MAX_MARKS = 32
MAX_MARK_BYTES = 128 * 2**20


class PrefixCache:
    """A prompt cache that knows which tokens are in it.

    Args:
        cache: empty.

    ``tokens`` are those that the cache holds, in order.
    """

    def __init__(self, cache: PromptCache) -> None:
        self.cache = cache
        self.tokens: list[int] = []
        self._marks: dict[int, Snapshot] = {}  # by position, ascending

    def reuse(self, prompt: Sequence[int]) -> int:
        """Goes back to the longest known beginning of the prompt.

        Returns:
            How many of its tokens need not be computed; at least the last one does.
        """
        shared = common_length(self.tokens, prompt[:-1])
        if shared < len(self.tokens):
            self._rewind(max((mark for mark in self._marks if mark <= shared), default=0))
        return len(self.tokens)

    def known(self, prompt: Sequence[int]) -> int:
        """What :meth:`reuse` would return; nothing is changed. May be called from any thread."""
        # Copies: the worker may be at them.
        tokens, marks = list(self.tokens), tuple(self._marks)
        shared = common_length(tokens, prompt[:-1])
        if shared == len(tokens):
            return shared
        return max((mark for mark in marks if mark <= shared), default=0)

    def extend(self, tokens: Sequence[int]) -> None:
        """Notes tokens that the transformer has added to the cache."""
        self.tokens.extend(tokens)

    def mark(self) -> None:
        """Makes this point one to come back to. Of old marks the first one and the latest are kept."""
        position = len(self.tokens)
        if position and position not in self._marks:
            self._marks[position] = self.cache.snapshot()
        first = next(iter(self._marks), None)
        while len(self._marks) > 2 and self._exceeds_bounds():
            oldest = next(mark for mark in self._marks if mark != first)
            del self._marks[oldest]

    def forget(self) -> None:
        """Gives all memory back. What it knew is computed again when it is asked for."""
        self.cache, self.tokens, self._marks = self.cache.emptied(), [], {}

    def restore(self, tokens: Sequence[int], snapshots: Mapping[int, Snapshot]) -> None:
        """Takes over what another one had in it; the cache holds those tokens already.

        Args:
            tokens: as many as the cache has positions.
            snapshots: by position, ascending.
        """
        self.tokens, self._marks = list(tokens), dict(snapshots)

    def fork(self) -> PrefixCache:
        """An independent one with the same content, sharing memory until one of the two writes."""
        twin = PrefixCache(self.cache.fork())
        twin.tokens = list(self.tokens)
        twin._marks = dict(self._marks)
        return twin

    @property
    def marks(self) -> tuple[int, ...]:
        """The positions that can be gone back to, ascending."""
        return tuple(self._marks)

    @property
    def snapshots(self) -> Mapping[int, Snapshot]:
        """The marks, by position."""
        return self._marks

    @property
    def nbytes(self) -> int:
        """Bytes held, those of the marks included."""
        return self.cache.nbytes + self.mark_bytes

    @property
    def mark_bytes(self) -> int:
        """Bytes that the marks hold."""
        return sum(snapshot.nbytes for snapshot in self._marks.values())

    def _exceeds_bounds(self) -> bool:
        return len(self._marks) > MAX_MARKS or self.mark_bytes > MAX_MARK_BYTES

    def _rewind(self, position: int) -> None:
        if position:
            self.cache.rewind(self._marks[position])
        else:
            self.cache.clear()
        del self.tokens[position:]
        self._marks = {mark: snapshot for mark, snapshot in self._marks.items() if mark <= position}


class PrefixPool:
    """The prefixes of all conversations of one model, under one bound. Touched by the worker alone."""

    def __init__(self) -> None:
        # In the order of their last use. A conversation that is gone takes its prefix with it.
        self._prefixes: weakref.WeakKeyDictionary[PrefixCache, None] = weakref.WeakKeyDictionary()

    def make_room(self, prefix: PrefixCache, nbytes: int, limit: int) -> None:
        """Before a prefix grows: lets others forget, the one used longest ago first, until it fits beside them.

        Args:
            prefix: the one in use.
            nbytes: what it is to hold, its marks not counted.
            limit: the bytes that all may hold together.
        """
        self._prefixes.pop(prefix, None)
        others = list(self._prefixes)
        self._prefixes[prefix] = None
        left = limit - max(nbytes, prefix.cache.nbytes) - prefix.mark_bytes
        for oldest in others:
            if sum(other.nbytes for other in others) <= left:
                return
            oldest.forget()
            mx.clear_cache()


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share from their beginning."""
    limit = min(len(left), len(right))
    # Comparing slices runs in C; most prompts share all or nearly all of the shorter one.
    if list(left[:limit]) == list(right[:limit]):
        return limit
    return next(n for n in range(limit) if left[n] != right[n])
