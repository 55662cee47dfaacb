"""Keys and values of several rows that decode together: each layer has them in buffers of one slot a row.

Full layers have one set of buffers for each class of length, so that a short row does not pay for a long one;
sliding layers have one ring a row. A row that leaves leaves its slot empty for the next one that enters. Knows
nothing of tokens or of the store.

B rows, K key-value heads, D head dim, A query heads, S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import mlx.core as mx

from .layered import PromptCache
from .layers import GrowingKVCache, QuantizedKVCache, SlidingKVCache, capacity
from .quantized import QuantizedStates

__all__ = ["BatchCache", "BatchLayer", "BatchPart", "RowCache"]

_SHORTEST_CLASS: Final = 512
_CLASS_FACTOR: Final = 4


class RowCache:
    """One row of a batch.

    Args:
        batch: has its keys and values.
        offset: positions seen so far.
    """

    def __init__(self, batch: BatchCache, offset: int) -> None:
        self.offset = offset
        self._batch = batch

    @property
    def nbytes(self) -> int:
        """Bytes of its slots."""
        return sum(slots.slot_bytes for slots in self._batch.slots if self in slots.rows)

    def view(self) -> PromptCache:
        """The row as a prompt cache: full layers are views into the buffers, windows are copies. Drop it before
        the next step, which would copy the buffers otherwise."""
        return self._batch.view(self)

    def leave(self, room: int) -> PromptCache:
        """See :meth:`BatchCache.leave`."""
        return self._batch.leave(self, room)

    def drop(self) -> None:
        """See :meth:`BatchCache.drop`."""
        self._batch.drop(self)


class _Slots:
    """Buffers [slots, K, capacity, D] of a few layers, and the row in each slot.

    Args:
        layers: their number.
        window: of sliding layers, whose buffers are rings; None for full layers.
    """

    def __init__(self, layers: int, window: int | None = None) -> None:
        self.rows: list[RowCache | None] = []
        self.buffers: list[tuple[mx.array, ...]] = [()] * layers
        self.window = window
        self._capacity = window or 0

    @property
    def nbytes(self) -> int:
        """Bytes held, those of empty slots included."""
        return sum(buffer.nbytes for buffer in chain(*self.buffers))

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self.nbytes // max(1, len(self.rows))

    def grown(self, entering: Iterable[int], positions: Callable[[int], int]) -> int:
        """Bytes after rows of so many positions have entered.

        Args:
            entering: the positions of each.
            positions: positions to bytes, of one slot.
        """
        lengths = list(entering)
        slots = _slots_for(len(self.rows), sum(row is not None for row in self.rows) + len(lengths))
        return slots * positions(max([self._capacity, *map(capacity, lengths)] if self.window is None else [0]))

    def enter(self, row: RowCache, layers: Sequence[Sequence[mx.array]]) -> None:
        """Copies a row into a free slot, layer by layer.

        Args:
            row: whose offset is set.
            layers: for each layer the arrays of its content, [1, K, S, ...].
        """
        needed = _slots_for(len(self.rows), 1 + sum(held is not None for held in self.rows))
        self._resize(needed, self._capacity if self.window else capacity(row.offset + 1), like=layers)
        slot = self.rows.index(None)
        self.rows[slot] = row
        for buffers, parts in zip(self.buffers, layers, strict=True):
            for buffer, part in zip(buffers, parts, strict=True):
                buffer[slot : slot + 1, :, : part.shape[2]] = part
            mx.eval(buffers)

    def leave(self, row: RowCache) -> None:
        """Empties the row's slot."""
        self.rows[self.rows.index(row)] = None

    def content(self, row: RowCache) -> list[list[mx.array]]:
        """Views of the row's slot, for each layer."""
        slot = self.rows.index(row)
        return [[buffer[slot : slot + 1] for buffer in buffers] for buffers in self.buffers]

    def reserve(self, length: int) -> None:
        """Makes place for ``length`` positions in each slot of full layers."""
        self._resize(len(self.rows), capacity(length), like=self.buffers)

    def _resize(self, slots: int, size: int, like: Sequence[Sequence[mx.array]]) -> None:
        size = max(size, self._capacity)
        more = (0, slots - len(self.rows)), (0, size - self._capacity if self.rows else 0)
        if not any(map(any, more)):
            return
        for n, parts in enumerate(like):
            if self.rows:
                held = self.buffers[n]
                self.buffers[n] = tuple(mx.pad(part, [more[0], (0, 0), more[1], (0, 0)]) for part in held)
                del held
            else:
                shapes = [(slots, part.shape[1], size, part.shape[3]) for part in parts]
                self.buffers[n] = tuple(
                    mx.zeros(shape, part.dtype) for shape, part in zip(shapes, parts, strict=True)
                )
            mx.eval(self.buffers[n])  # one layer after the other, so that little is held twice
        self.rows += [None] * (slots - len(self.rows))
        self._capacity = size

    def plan(self, numbers: dict[RowCache, int]) -> _Plan:
        """What a step needs to know of these slots.

        Args:
            numbers: the rows of the batch with their numbers.
        """
        window = self.window
        rows = [None if row is None else numbers[row] for row in self.rows]
        used = max(slot for slot, number in enumerate(rows) if number is not None) + 1
        offsets = [0 if row is None else row.offset for row in self.rows]
        lengths = [
            0 if row is None else row.offset + 1 if window is None else min(row.offset + 1, window)
            for row in self.rows[:used]
        ]
        # An empty slot computes what another row does; it attends to nothing, and its output is dropped.
        filled = [number if number is not None else next(iter(numbers.values())) for number in rows]
        places = offsets if window is None else [offset % window for offset in offsets]
        longest = max(lengths)
        mask = None
        if min(lengths) < longest:
            mask = (mx.arange(longest) < mx.array(lengths)[:, None])[:, None, None]
        return _Plan(
            rows=None if filled == list(range(len(numbers))) else mx.array(filled),
            queries=None if filled[:used] == list(range(len(numbers))) else mx.array(filled[:used]),
            places=mx.array(places)[:, None, None, None],
            used=used,
            longest=longest,
            mask=mask,
            numbers=[number if number is not None else -1 for number in rows[:used]],
        )


def _slots_for(slots: int, rows: int) -> int:
    """How many slots there are once so many rows need one: they are doubled, so that entering rarely copies."""
    slots = max(2, slots)
    while slots < rows:
        slots *= 2
    return slots


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One step of the rows in some slots."""

    rows: mx.array | None
    """The row whose keys and values each slot takes; None if slot n takes those of row n."""
    queries: mx.array | None
    """The same of the slots up to the last that has a row."""
    places: mx.array
    """[slots, 1, 1, 1], the position in each slot that is written."""
    used: int
    """The slots up to the last that has a row."""
    longest: int
    """Positions of the longest row."""
    mask: mx.array | None
    """bool, [used, 1, 1, longest]; None if all rows have the same length."""
    numbers: list[int]
    """The row in each of the ``used`` slots; -1 for none."""


@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """Keys and values that a few of the rows attend to, and the rows."""

    rows: mx.array | None
    """The number of each; None if they are all rows, in order."""
    keys: mx.array | QuantizedStates
    values: mx.array | QuantizedStates
    mask: mx.array | None
    """bool, [rows, 1, 1, S]."""


class BatchLayer:
    """A layer of a batch, as attention sees it."""

    def __init__(self, number: int, quantized: bool) -> None:
        self._number = number
        self._quantized = quantized
        self.steps: list[tuple[_Slots, _Plan]] = []
        """Set by the batch before each step."""
        self._order: mx.array | None = None

    def plan(self, steps: list[tuple[_Slots, _Plan]], order: mx.array | None) -> None:
        """Sets the slots of the next step, and where each row's output is among theirs."""
        self.steps, self._order = steps, order

    def append(self, keys: mx.array, values: mx.array) -> list[BatchPart]:
        """Adds one position to each row, [B, K, 1, D]; returns what they attend to."""
        states: tuple[mx.array, ...] = (keys, values)
        if self._quantized:
            states = (*QuantizedStates.of(keys).parts, *QuantizedStates.of(values).parts)
        return [self._append(slots, plan, states) for slots, plan in self.steps]

    def _append(self, slots: _Slots, plan: _Plan, states: tuple[mx.array, ...]) -> BatchPart:
        new = states if plan.rows is None else tuple(state[plan.rows] for state in states)
        buffers = slots.buffers[self._number]
        buffers = tuple(
            mx.put_along_axis(buffer, plan.places, state, axis=2)
            for buffer, state in zip(buffers, new, strict=True)
        )
        slots.buffers[self._number] = buffers
        held = [buffer[: plan.used, :, : plan.longest] for buffer in buffers]
        half = len(held) // 2
        return BatchPart(
            rows=plan.queries,
            keys=QuantizedStates(*held[:half]) if self._quantized else held[0],
            values=QuantizedStates(*held[half:]) if self._quantized else held[1],
            mask=plan.mask,
        )

    def in_order(self, outputs: list[mx.array]) -> mx.array:
        """The outputs of all parts, [rows of the part, A, 1, D] -> [B, A, 1, D], in the order of the rows."""
        joined = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=0)
        return joined if self._order is None else joined[self._order]


class BatchCache:
    """The caches of several rows in all layers.

    Args:
        like: a prompt cache of the same model, which says what layers there are.
    """

    def __init__(self, like: PromptCache) -> None:
        self._kinds = list(like.layers)
        self._full = [n for n, layer in enumerate(self._kinds) if isinstance(layer, GrowingKVCache)]
        self._sliding = [n for n, layer in enumerate(self._kinds) if isinstance(layer, SlidingKVCache)]
        window = next((layer.window for layer in self._kinds if isinstance(layer, SlidingKVCache)), None)
        self._rings = None if window is None else _Slots(len(self._sliding), window)
        self._buckets: dict[int, _Slots] = {}
        self.rows: list[RowCache] = []
        """In the order of the batch."""
        self.layers = [
            BatchLayer(
                (self._full if n in self._full else self._sliding).index(n), isinstance(kind, QuantizedKVCache)
            )
            for n, kind in enumerate(self._kinds)
        ]

    @property
    def slots(self) -> list[_Slots]:
        """All buffers."""
        return [*self._buckets.values(), *([] if self._rings is None else [self._rings])]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(slots.nbytes for slots in self.slots)

    def arrays(self) -> list[mx.array]:
        """All arrays, for evaluation."""
        return [buffer for slots in self.slots for buffers in slots.buffers for buffer in buffers]

    def enter(self, cache: PromptCache) -> RowCache:
        """Copies a prompt cache into a new row. The caller drops the cache.

        Args:
            cache: of at least one position.
        """
        row = RowCache(self, cache.offset)
        if self._rings is not None:
            self._rings.enter(row, [cache.layers[n].content() for n in self._sliding])
        self._bucket(cache.offset + 1).enter(row, [cache.layers[n].content() for n in self._full])
        self.rows.append(row)
        self._sort()
        return row

    def leave(self, row: RowCache, room: int) -> PromptCache:
        """Ends a row.

        Args:
            row: of this batch.
            room: positions that the buffers of full layers shall have place for.

        Returns:
            An independent copy of it.
        """
        view = self.view(row)
        cache = view.copied(view.snapshot(), max(room, row.offset + 1))
        self.drop(row)
        return cache

    def drop(self, row: RowCache) -> None:
        """Ends a row that nobody needs any more."""
        for slots in self.slots:
            if row in slots.rows:
                slots.leave(row)
        self.rows.remove(row)
        self._buckets = {length: slots for length, slots in self._buckets.items() if any(slots.rows)}

    def view(self, row: RowCache) -> PromptCache:
        """See :meth:`RowCache.view`."""
        cache = PromptCache.__new__(PromptCache)
        cache.layers = [
            type(kind)(kind.window) if isinstance(kind, SlidingKVCache) else type(kind)() for kind in self._kinds
        ]
        for slots, numbers in [(self._bucket_of(row), self._full), (self._rings, self._sliding)]:
            if slots is not None:
                for n, parts in zip(numbers, slots.content(row), strict=True):
                    # A slice of a ring would keep the rings of all rows.
                    own = [mx.contiguous(part) for part in parts] if slots.window else parts
                    cache.layers[n].restore(row.offset, own)
        mx.eval([array for window in cache.windows for array in window.arrays()])
        return cache

    def prepare(self) -> mx.array:
        """Makes place for one more position in each row.

        Returns:
            The positions of the next tokens, [B].
        """
        for row in self.rows:
            bucket, length = self._bucket_of(row), row.offset + 1
            if bucket is not self._buckets.get(_class_of(length)):
                layers = [[part[..., : row.offset, :] for part in parts] for parts in bucket.content(row)]
                bucket.leave(row)
                self._bucket(length).enter(row, layers)
            self._bucket(length).reserve(length)
        self._buckets = {length: slots for length, slots in self._buckets.items() if any(slots.rows)}
        numbers = {row: n for n, row in enumerate(self.rows)}
        for numbered, slots in [
            (self._full, list(self._buckets.values())),
            (self._sliding, [] if self._rings is None else [self._rings]),
        ]:
            steps = [(each, each.plan(numbers)) for each in slots]
            joined = list(chain(*(plan.numbers for _, plan in steps)))
            wanted = [joined.index(number) for number in range(len(numbers))] if numbered else []
            order = None if joined == list(range(len(numbers))) else mx.array(wanted)
            for n in numbered:
                self.layers[n].plan(steps, order)
        return mx.array([row.offset for row in self.rows])

    def advance(self) -> None:
        """Notes that a step has been added to every row."""
        for row in self.rows:
            row.offset += 1

    def grown_bytes(self, entering: Sequence[int], position_bytes: int, window_bytes: int) -> int:
        """Bytes held after rows have entered.

        Args:
            entering: the positions of each.
            position_bytes: of one position in all full layers.
            window_bytes: of one row in all sliding layers.
        """
        total = 0
        classes = {_class_of(length) for length in entering}
        for limit in {*classes, *self._buckets}:
            bucket = self._buckets.get(limit) or _Slots(0)
            lengths = [length for length in entering if _class_of(length) == limit]
            total += bucket.grown(lengths, lambda size: size * position_bytes)
        rings = self._rings or _Slots(0, 1)
        return total + rings.grown(entering, lambda size: window_bytes)

    def growth_bytes(self, row: RowCache, length: int, position_bytes: int) -> int:
        """Bytes by which the buffers grow when a row grows to ``length`` positions: all slots grow with it, or it
        moves to longer ones."""
        bucket, target = self._bucket_of(row), self._buckets.get(_class_of(length)) or _Slots(0)
        if target is bucket:
            return max(0, len(bucket.rows) * capacity(length) * position_bytes - bucket.nbytes)
        return target.grown([length], lambda size: size * position_bytes) - target.nbytes

    def _sort(self) -> None:
        """Puts the rows into the order of their rings, so that sliding layers need not reorder them."""
        if self._rings is not None:
            self.rows = [row for row in self._rings.rows if row is not None]

    def _bucket(self, length: int) -> _Slots:
        return self._buckets.setdefault(_class_of(length), _Slots(len(self._full)))

    def _bucket_of(self, row: RowCache) -> _Slots:
        return next(slots for slots in self._buckets.values() if row in slots.rows)


def _class_of(length: int) -> int:
    """The longest length of the class that a length belongs to."""
    longest = _SHORTEST_CLASS
    while longest < length:
        longest *= _CLASS_FACTOR
    return longest
