"""One request that runs, as the batch sees it.

Runs in the thread that owns MLX. Knows its entry, the tokens to compute next and its result; knows nothing of
text or sampling.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from concurrent.futures import Future, InvalidStateError

import mlx.core as mx

from ..cache.batch import RowCache
from ..cache.entry import CacheEntry
from ..memory.metal import clear_frames
from .chooser import Chooser
from .generate import Decoding, Tokens
from .steps import RowTokens, Steps

__all__ = ["Row"]


class Row(ABC):
    """One request, from its turn to its last token.

    Args:
        steps: that compute it.
    """

    def __init__(self, steps: Steps) -> None:
        self.future: Future[None] | None = None
        """Gets the result of the request; set by the worker that queues it."""
        self.steps = steps
        self.chooser: Chooser | None = None
        """Gets the logits after its tokens."""
        self.tokens: Tokens = []
        """To compute next."""
        self.entry: CacheEntry | None = None
        """What is computed. Its tokens are those that were computed and are known."""
        self.known: tuple[list[int], tuple[int, ...]] = ([], ())
        """While it is suspended: its tokens, and the positions of its snapshots."""
        self.decoding = self.decoded()
        self._unread = False

    @property
    def runs(self) -> bool:
        """Whether it computes into its entry."""
        return self.entry is not None and self.entry.running

    @property
    def length(self) -> int:
        """The positions that there is memory for."""
        return 0 if self.entry is None else self.entry.length

    @property
    def slot(self) -> RowCache | None:
        """Where it is in the buffers of the batch."""
        return None if self.entry is None else self.entry.row

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""

    @property
    @abstractmethod
    def to_compute(self) -> int:
        """Tokens of its prompt that are not cached."""

    @abstractmethod
    def prepare(self, may_wait: bool) -> bool:
        """Decides what it computes into. Called before it begins; its turn has come.

        Args:
            may_wait: whether others run, so that it can wait until there is memory for it.

        Returns:
            False if it waits.
        """

    @abstractmethod
    def fits(self) -> bool:
        """Whether there is memory for it after it grew; what nobody uses is evicted for it."""

    @abstractmethod
    def decoded(self) -> Decoding:
        """Computes the prompt, then yields tokens to compute."""

    @abstractmethod
    def restore(self, may_wait: bool) -> bool:
        """Computes what was evicted while it was suspended; arguments and result as in :meth:`prepare`."""

    def complete(self, error: BaseException | None) -> None:
        """Gives the request its result, and lets go of what it has computed: whoever queued it still knows the
        row."""
        future, self.future, self.entry = self.future, None, None
        try:
            self.decoding.close()
        finally:
            if future is not None:
                with contextlib.suppress(InvalidStateError):  # the worker has failed
                    if error is None:
                        future.set_result(None)
                    else:
                        clear_frames(error)
                        future.set_exception(error)

    def suspend(self) -> None:
        """Lets go of its entry, which others may then use or evict."""
        assert self.entry is not None
        self.known = list(self.entry.tokens), tuple(self.entry.snapshots)
        self.entry.running = False
        self.entry = None

    def grow(self, length: int) -> None:
        """Notes that there is memory for so many positions."""
        assert self.entry is not None
        self.entry.length = length
        if self.slot is not None:
            self.steps.grow(self.entry, length)

    def take(self, count: int | None = None) -> RowTokens:
        """Takes tokens out of those that are to be computed next.

        Args:
            count: how many; by default all.
        """
        assert self.entry is not None
        assert self.chooser is not None
        if isinstance(self.tokens, mx.array):
            taken, self.tokens, self._unread = self.tokens, [], True
            return self.entry, taken, self.chooser
        known, self.tokens = self.tokens[:count], self.tokens[len(self.tokens[:count]) :]
        self.entry.extend(known)
        return self.entry, mx.array(known), self.chooser

    def read(self, token: int) -> None:
        """Notes the value of a token that was generated; the entry has it if it is being computed already."""
        if self._unread:
            assert self.entry is not None
            self.entry.extend([token])
            self._unread = False
