"""An entry of the store: a prompt cache with the tokens in it, and snapshots to go back to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mlx.core as mx

from .batch import BatchCache, RowCache
from .layered import PromptCache, Snapshot

__all__ = ["CacheEntry", "common_length"]


class CacheEntry:
    """A prompt cache, the tokens in it, and its snapshots by position.

    Args:
        number: its name in the store.
        cache: holds ``tokens``.
        tokens: those in the cache, in order.
        snapshots: by position, ascending.
    """

    def __init__(
        self,
        number: int,
        cache: PromptCache,
        tokens: Sequence[int] = (),
        snapshots: Iterable[Snapshot] = (),
    ) -> None:
        self.number = number
        self._cache: PromptCache | None = cache
        self.tokens = list(tokens)
        self.snapshots = {snapshot.offset: snapshot for snapshot in snapshots}
        self.length = len(self.tokens)
        """Positions that there is memory for while a request computes into it."""
        self.request_length = len(self.tokens)
        self.waiting = 0
        """Requests that wait for their turn and will use this entry."""
        self.running = False
        """Whether a request computes into it: it is neither rewound nor evicted then."""
        self.row: RowCache | None = None
        """Where its keys and values are while it decodes together with others."""
        self._wanted: frozenset[int] = frozenset()
        self._in_chunk = False

    @property
    def cache(self) -> PromptCache:
        """Its keys and values; of a row of a batch see :meth:`RowCache.view`."""
        if self.row is not None:
            return self.row.view()
        assert self._cache is not None
        return self._cache

    @property
    def cache_bytes(self) -> int:
        """Bytes held, without snapshots."""
        return self.cache.nbytes if self.row is None else self.row.nbytes

    @property
    def most_snapshots(self) -> int:
        """How many snapshots it will have once its prompt is computed."""
        return max(len(self.snapshots), len(self._wanted))

    @property
    def nbytes(self) -> int:
        """Bytes held, snapshots included."""
        first = next(iter(self.snapshots.values()), None)
        return self.cache_bytes + (0 if first is None else first.nbytes * len(self.snapshots))

    def enter(self, batch: BatchCache, length: int) -> None:
        """Becomes a row of a batch, with memory for ``length`` positions."""
        assert self._cache is not None
        self.row = batch.enter(self._cache, length)
        self._cache = None

    def leave(self, room: int) -> None:
        """Becomes a prompt cache of its own again, with place for ``room`` positions."""
        assert self.row is not None
        self._cache = self.row.leave(room)
        self.row = None

    def drop(self) -> None:
        """Ends the row, and with it what it has computed. The entry must not be used any more."""
        assert self.row is not None
        self.row.drop()
        self.row, self._cache = None, None

    def usable_length(self, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt the entry saves: the last token is always computed, for its logits."""
        # Copied, because the worker may be changing them.
        tokens, positions = list(self.tokens), tuple(self.snapshots)
        shared = common_length(tokens, prompt[:-1])
        if shared == len(tokens) and not self._in_chunk:
            return shared
        return max((position for position in positions if position <= shared), default=0)

    def may_be_taken_over(self, prompt: Sequence[int]) -> bool:
        """Whether rewinding the entry to a prompt loses generated tokens only."""
        return common_length(self.tokens, prompt) >= min(self.request_length, len(self.tokens))

    def snapshot_at(self, position: int) -> Snapshot:
        """The snapshot at a position; at the end of the tokens one is made, if there is none."""
        # In a chunk, some layers are ahead of the tokens: then there is one.
        return self.snapshots.get(position) or self.cache.snapshot()

    def rewind(self, position: int) -> None:
        """Drops every token after a position that has a snapshot, or that is 0 or the end."""
        if position == 0:
            self.cache.clear()
        elif position < len(self.tokens):
            self.cache.rewind(self.snapshots[position])
        del self.tokens[position:]

    def keep_snapshots(self, positions: Iterable[int]) -> None:
        """Sets the positions that shall have a snapshot; those ahead are taken while the prompt is computed."""
        self._wanted = frozenset(positions)
        self.snapshots = {
            position: snapshot
            for position, snapshot in self.snapshots.items()
            if position in self._wanted and position <= len(self.tokens)
        }
        self._take_snapshot()

    def begin_chunk(self, length: int) -> Snapshot:
        """Prepares the forward pass over the next tokens.

        Returns:
            Where the chunk begins, to rewind the cache to if the pass is given up.
        """
        begin = len(self.tokens)
        self._in_chunk = True
        self.cache.watch(sorted(position for position in self._wanted if begin < position < begin + length))
        return self.cache.snapshot()

    def end_chunk(self, tokens: Sequence[int]) -> None:
        """Adds the tokens that a forward pass has computed, and their snapshots."""
        taken = self.cache.passed()
        mx.eval([array for snapshot in taken for array in snapshot.arrays()])
        self.tokens.extend(tokens)
        self._in_chunk = False
        self.snapshots |= {snapshot.offset: snapshot for snapshot in taken}
        self._take_snapshot()

    def give_up_chunk(self, before: Snapshot) -> None:
        """Leaves the entry as it was before :meth:`begin_chunk`, which returned ``before``."""
        # Windows of before the chunk, and full layers trimmed.
        self.cache.rewind(before)
        self._in_chunk = False

    def extend(self, tokens: Sequence[int]) -> None:
        """Adds tokens that decoding has computed."""
        self.tokens.extend(tokens)

    def _take_snapshot(self) -> None:
        position = len(self.tokens)
        if position in self._wanted and position not in self.snapshots:
            self.snapshots[position] = self.cache.snapshot()


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share from their beginning."""
    low, high = 0, min(len(left), len(right))
    # Halved again and again, because slices are compared in C and tokens one by one are not.
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
