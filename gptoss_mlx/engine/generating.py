"""A request for tokens, as a row of the batch: finds its entry, computes its prompt and decodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ..cache.entry import CacheEntry
from .batch import Batch, Row
from .chooser import Chooser
from .entries import Entries
from .generate import GROWTH, Decoding, Request, decode
from .generation import TokenChannel
from .steps import Steps

__all__ = ["GeneratingRow"]

_LOGGER: Final = logging.getLogger(__name__)


class GeneratingRow(Row):
    """A request for tokens.

    Args:
        steps: see :class:`Row`.
        prompt: its tokens.
        boundaries: positions of the prompt to go back to later, ascending.
        request: its settings.
        make_chooser: makes who chooses its tokens, in the worker's thread.
        entries: the prompt caches.
        batch: the rows that it runs beside.
        channel: its reader's.
        reserved: the entry that no other request rewinds until its turn comes.
    """

    def __init__(
        self,
        steps: Steps,
        prompt: list[int],
        boundaries: Sequence[int],
        request: Request,
        make_chooser: Callable[[], Chooser],
        *,
        entries: Entries,
        batch: Batch,
        channel: TokenChannel,
        reserved: CacheEntry | None,
    ) -> None:
        super().__init__(steps)
        self._prompt = prompt
        self._boundaries = (*boundaries, len(prompt))
        self._request = request
        self._make_chooser = make_chooser
        self._entries = entries
        self._batch = batch
        self._channel = channel
        self._reserved = reserved

    @property
    def cancelled(self) -> bool:
        return self._channel.cancelled.is_set()

    @property
    def to_compute(self) -> int:
        return len(self._prompt) - self._entries.store.cached_length(self._prompt)

    def prepare(self, may_wait: bool) -> bool:
        self._entries.store.release(self._reserved)
        self._reserved = None
        if self.cancelled:
            return True
        room = min(self._request.max_tokens or GROWTH, GROWTH)
        return self._take_entry(self._prompt, self._boundaries, room, may_wait)

    def restore(self, may_wait: bool) -> bool:
        computed, positions = self.known
        tokens = [*computed, 0]
        if not self._take_entry(tokens, positions, GROWTH, may_wait):
            return False
        assert self.entry is not None
        self._entries.prefill(self.steps, tokens, self.entry, self._request)
        return True

    def decoded(self) -> Decoding:
        if self.entry is None:
            return  # it was cancelled before its turn
        self._channel.cached_tokens = len(self.entry.tokens)
        self.chooser = self._make_chooser()
        _LOGGER.debug("prefill of %d tokens, %d of them cached", len(self._prompt), self._channel.cached_tokens)
        try:
            if self._entries.prefill(self.steps, self._prompt, self.entry, self._request):
                request = replace(self._request, on_growth=self._grow, on_token=self.read)
                with self._entries.computing(self._drop):
                    yield from decode(self._prompt, request, self.chooser)
        finally:
            self.chooser.close()

    def read(self, token: int) -> None:
        super().read(token)
        self._channel.items.put(token)

    def _take_entry(self, tokens: list[int], boundaries: Sequence[int], room: int, may_wait: bool) -> bool:
        """Takes an entry to compute tokens into; returns False if it waits for memory.

        Args:
            tokens: all but the last one are to be computed.
            boundaries: positions that shall have snapshots.
            room: tokens after them that there is place for from the beginning.
            may_wait: whether it may wait.
        """
        spare = self._batch.spare_bytes(self, len(tokens) + room)
        plan = self._entries.plan(tokens, boundaries, room=room, spare=spare)
        if may_wait and not plan.fits:
            return False
        self.entry = self._entries.take(plan)
        self.entry.running = True
        return True

    def _grow(self, length: int) -> None:
        """Makes place for more positions, or else has the youngest row suspended."""
        assert self.entry is not None
        fits = self._entries.make_place(self.entry, length, self._batch.spare_bytes(self, length))
        self.grow(length)
        self._batch.crowded |= not fits

    def _drop(self) -> None:
        if self.entry is not None:
            self._entries.drop(self.entry)
