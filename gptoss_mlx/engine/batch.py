"""Several requests at once: rows that decode together, joined and left between two steps.

Runs in the thread that owns MLX. Knows steps, caches and their sizes; knows nothing of text, sampling or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import mlx.core as mx

from ..cache.batch import BatchCache
from ..cache.entry import CacheEntry
from ..errors import NotEnoughMemory
from .generate import GROWTH, CallersError, Tokens
from .row import Row
from .steps import Steps

__all__ = ["SHORT_PREFILL", "Batch"]

SHORT_PREFILL: Final = 512
"""A request with no more tokens to compute may begin while the prompt of another one is computed."""


class Batch:
    """The rows that run.

    Args:
        cache: an empty one, for their keys and values.
        most: rows at a time.
        following: the next request that may join, taken from the queue; None if there is none.
        keep: takes an entry out of the buffers, beside so many bytes of empty slots; returns False if there is no
            place for it, and the entry is then evicted.
        position_bytes: of one position in all full layers.
        window_bytes: of one row in all sliding layers.
    """

    def __init__(
        self,
        cache: BatchCache,
        most: int,
        following: Callable[[], Row | None],
        keep: Callable[[Steps, CacheEntry, int], bool],
        *,
        position_bytes: int,
        window_bytes: int,
    ) -> None:
        self.rows: list[Row] = []
        """The oldest first."""
        self.crowded: list[Row] = []
        """Those that grew although there was no memory for it: the youngest rows are then suspended."""
        self._cache = cache
        self._most = most
        self._following = following
        self._keep = keep
        self._position_bytes = position_bytes
        self._window_bytes = window_bytes
        self._suspended: list[Row] = []
        self._waiting: Row | None = None
        self._entering: list[Row] = []

    def run(self, first: Row) -> None:
        """Runs a request, and those that join it, until all of them have ended."""
        self._waiting = first
        try:
            while self.rows or self._suspended or self._waiting is not None:
                self._admit()
                if self.rows:
                    self.step()
        except BaseException as error:
            # Nobody may wait without end.
            self._fail_all(error)
            for row in [*self._suspended, *filter(None, [self._waiting])]:
                row.complete(error)
            self._suspended, self._waiting = [], None
            raise

    def decodes(self) -> bool:
        """Whether rows decode now."""
        return bool(self.rows)

    def turn(self) -> None:
        """A pause in the prefill of a row: the others take a step, and a short request may begin beside a long
        one."""
        if len(self._entering) == 1 and self._entering[0].to_compute > SHORT_PREFILL:
            self._admit(SHORT_PREFILL)
        if self.rows:
            self.step()
            mx.synchronize()  # what follows is timed

    def spare_bytes(self, row: Row, length: int) -> int:
        """Bytes of shared buffers that belong to no row once a row has so many positions: those of empty slots
        now and the one that this row leaves, and the buffers that are made for it and for those without a slot.

        Args:
            row: one that runs, or one that is to begin.
            length: its positions then.
        """
        if not self._others(row):
            return 0
        if row.slot is None:
            return self.unused_bytes + self._added_bytes(row, length)
        if row.slot.outgrows(length):
            return self.unused_bytes + row.slot.slot_bytes + self._added_bytes(row, length)
        return self.unused_bytes + self._added_bytes(row)

    def _others(self, row: Row) -> list[Row]:
        """The other rows that run."""
        return [other for other in (*self.rows, *self._entering) if other is not row and other.runs]

    def _added_bytes(self, row: Row, *lengths: int) -> int:
        """Bytes of the buffers that are made for the other rows without a slot, and for rows of these lengths."""
        entering = [other.length for other in self._others(row) if other.slot is None]
        return self._cache.added_bytes([*entering, *lengths], self._position_bytes, self._window_bytes)

    @property
    def unused_bytes(self) -> int:
        """Bytes of empty slots."""
        return self._cache.unused_bytes

    def step(self) -> None:
        """Computes one token of every row, or the known tokens of the only one."""
        try:
            if len(self.rows) == 1:
                computed = [self._forward_alone(self.rows[0])]
            else:
                computed = self._forward_together()
            for row, logits in computed:
                if len(row.tokens) == 0 and row in self.rows:
                    self._resume(row, logits)
            self._make_place()
        except BaseException as error:
            self._fail_all(error)
        finally:
            self.crowded.clear()

    def _make_place(self) -> None:
        """Suspends the youngest rows until there is memory for those that grew."""
        for row in self.crowded:
            while self.rows and len(self.rows) + len(self._entering) > 1 and row.runs and not row.fits():
                self._suspend(self.rows[-1])

    def _admit(self, most_tokens: int | None = None) -> None:
        """Begins the requests whose turn it is, as far as there is place and memory for them.

        Args:
            most_tokens: only those that have no more tokens to compute.
        """
        while len(self.rows) + len(self._entering) < self._most:
            may_wait = bool(self.rows or self._entering)
            self._end_cancelled()
            if self._suspended:
                if most_tokens is not None or not self._restored(may_wait):
                    return
                continue
            row = self._waiting or self._following()
            self._waiting = row
            if row is None or (most_tokens is not None and row.to_compute > most_tokens):
                return
            if not self._begun(row, may_wait):
                return

    def _end_cancelled(self) -> None:
        """Ends the suspended rows that nobody waits for, so that they wait for no memory."""
        for row in [row for row in self._suspended if row.cancelled and row not in self._entering]:
            self._suspended.remove(row)
            row.complete(None)

    def _begun(self, row: Row, may_wait: bool) -> bool:
        """Begins a request; returns False if it has to wait."""
        try:
            if not row.prepare(may_wait):
                return False
        except BaseException as error:
            self._waiting = None
            row.complete(error)
            return True
        self._waiting = None
        self._entering.append(row)
        try:
            self._advance(row, lambda: next(row.decoding))
        finally:
            self._entering.remove(row)
        return True

    def _restored(self, may_wait: bool) -> bool:
        """Goes on with the oldest suspended row; returns False if it has to wait."""
        row = self._suspended[0]
        self._entering.append(row)
        try:
            if not row.restore(may_wait):
                return False
            self._suspended.remove(row)
            self.rows.append(row)
        except BaseException as error:
            self._suspended.remove(row)
            self._throw(row, error)
        finally:
            self._entering.remove(row)
        return True

    def _advance(self, row: Row, go_on: Callable[[], Tokens]) -> None:
        """Lets a row say what it wants computed next; if nothing, it ends."""
        try:
            row.tokens = go_on()
        except StopIteration:
            self._end(row, None)
        except BaseException as error:
            decodes = row in self.rows
            self._end(row, error)
            if decodes and isinstance(error, NotEnoughMemory):
                # What the others wait for was not computed either.
                self._fail_all(error)
        else:
            if row not in self.rows:
                self.rows.append(row)

    def _resume(self, row: Row, logits: mx.array) -> None:
        self._advance(row, lambda: row.decoding.send(logits))

    def _throw(self, row: Row, error: BaseException) -> None:
        self._advance(row, lambda: row.decoding.throw(error))

    def _forward_alone(self, row: Row) -> tuple[Row, mx.array]:
        assert row.entry is not None
        if row.entry.row is not None:
            row.steps.leave(row.entry, len(row.entry.tokens) + GROWTH)
        return row, row.steps.forward(*row.take())

    def _forward_together(self) -> list[tuple[Row, mx.array]]:
        """One token of each row."""
        computed = []
        for row in self.rows:
            if row.entry is not None and row.entry.row is None:
                if not row.entry.cache.offset or len(row.tokens) > 1:
                    # The first token of all, or known tokens: the row enters with the next step.
                    computed.append((row, row.steps.forward(*row.take())))
                    continue
                row.steps.enter(row.entry, self._cache, row.length)
        if not self._cache.rows:
            return computed
        by_cache = {row.entry.row: row for row in self.rows if row.entry is not None}
        together = [by_cache[held] for held in self._cache.rows]
        logits = together[0].steps.forward_rows(self._cache, [row.take(1) for row in together])
        return computed + list(zip(together, logits, strict=True))

    def _take_out(self, row: Row, *, keep: bool) -> None:
        """Takes a row out of the buffers of the batch.

        Args:
            row: it.
            keep: whether what it has computed is kept, where there is memory for it.
        """
        entry = row.entry
        if entry is None or entry.row is None:
            return
        kept = False
        try:
            spare = self.unused_bytes + entry.row.shared_bytes + self._added_bytes(row)
            kept = keep and self._keep(row.steps, entry, spare)
        except NotEnoughMemory:
            pass  # its answer is complete
        finally:
            if not kept:
                row.steps.drop(entry)

    def _suspend(self, row: Row) -> None:
        """Stops a row until there is memory for it. What it has computed may be evicted."""
        self._take_out(row, keep=True)
        self.rows.remove(row)
        row.suspend()
        self._suspended.insert(0, row)

    def _end(self, row: Row, error: BaseException | None) -> None:
        if isinstance(error, CallersError):
            error = error.args[0]
        if row in self.rows:
            self.rows.remove(row)
        if row.entry is not None:
            row.entry.running = False
        try:
            self._take_out(row, keep=error is None)
        finally:
            row.complete(error)

    def _fail_all(self, error: BaseException) -> None:
        """Ends all rows with an error that is not one row's own."""
        rows, self.rows = self.rows, []
        for row in rows:
            self._take_out(row, keep=False)
        self._cache.clear()  # a row may have failed while it entered
        for row in rows:
            try:
                row.decoding.throw(error)
            except BaseException as own:
                self._end(row, own)
