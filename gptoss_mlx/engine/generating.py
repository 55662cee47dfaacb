"""A request for tokens, as a row of the batch: takes its entry, computes its prompt and decodes.

Runs in the thread that owns MLX.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ..cache.store import Reservation
from .batch import Batch
from .chooser import Chooser
from .entries import Entries
from .generate import GROWTH, Decoding, Request, decode
from .generation import TokenChannel
from .row import Row
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
        make_chooser: makes who chooses its tokens.
        entries: the prompt caches.
        batch: the rows that it runs beside.
        channel: its reader's.
        reservation: ends when its turn comes.
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
        reservation: Reservation,
    ) -> None:
        super().__init__(steps)
        self._prompt = prompt
        self._boundaries = (*boundaries, len(prompt))
        self._request = replace(request, on_pause=batch.turn)
        self._make_chooser = make_chooser
        self._entries = entries
        self._batch = batch
        self._channel = channel
        self._reservation = reservation
        self._to_prefill = prompt

    @property
    def cancelled(self) -> bool:
        return self._channel.cancelled.is_set()

    @property
    def to_compute(self) -> int:
        return len(self._to_prefill) - self._entries.store.cached_length(self._to_prefill)

    def prepare(self, may_wait: bool) -> bool:
        self._reservation.end()
        return self.cancelled or self._take_entry(self._prompt, self._boundaries, may_wait)

    def restore(self, may_wait: bool) -> bool:
        computed, positions = self.known
        tokens = [*computed, 0]
        if not self._take_entry(tokens, positions, may_wait):
            return False
        assert self.entry is not None
        # Its reader has seen the prompt read. If it is cancelled here, it ends after one more token.
        quiet = replace(self._request, on_prefill=lambda done, total: None)
        self._entries.prefill(self.steps, tokens, self.entry, quiet)
        return True

    def fits(self) -> bool:
        assert self.entry is not None
        return self._entries.make_place(self.entry, self.length, self._batch.spare_bytes(self, self.length))

    def decoded(self) -> Decoding:
        if self.entry is None:
            return  # it was cancelled before its turn
        self._channel.cached_tokens = len(self.entry.tokens)
        self.chooser = self._make_chooser()
        _LOGGER.debug("prefill of %d tokens, %d of them cached", len(self._prompt), self._channel.cached_tokens)
        try:
            if self._entries.prefill(self.steps, self._prompt, self.entry, self._request):
                request = replace(self._request, on_growth=self._grow, on_token=self.read)
                with self._entries.computing(self._evict):
                    yield from decode(self._prompt, request, self.chooser)
        finally:
            self.chooser.close()

    def read(self, token: int) -> None:
        super().read(token)
        self._channel.items.put(token)

    def complete(self, error: BaseException | None) -> None:
        self._reservation.end()
        super().complete(error)

    def _take_entry(self, tokens: list[int], boundaries: Sequence[int], may_wait: bool) -> bool:
        """Takes an entry to compute tokens into; returns False if it waits for memory.

        Args:
            tokens: all but the last one are to be computed.
            boundaries: positions that shall have snapshots.
            may_wait: whether it may wait.
        """
        request = self._request
        room = min(request.max_tokens or GROWTH, GROWTH, request.max_positions - len(tokens))
        spare = self._batch.spare_bytes(self, len(tokens) + room)
        self._to_prefill = tokens
        self.entry = self._entries.take(tokens, boundaries, room=room, spare=spare, may_wait=may_wait)
        if self.entry is None:
            return False
        self.entry.request_length = len(self._prompt)
        self.entry.running = True
        return True

    def _grow(self, length: int) -> None:
        """Makes place for more positions; if there is none, the youngest row is suspended."""
        assert self.entry is not None
        self.grow(length)
        if not self.fits():
            self._batch.crowded.append(self)

    def _evict(self) -> None:
        if self.entry is not None:
            self._entries.evict(self.entry)
