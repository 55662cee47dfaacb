"""Keys and values of several rows that decode together.

In full layers the rows of up to 1,024 positions share buffers of one slot a row, padded on the right. Slots of
256, 512 and 1,024 positions have buffers of their own, so that a short row does not pay for a long one. A longer
row keeps the buffers of its own prompt cache, since its attention takes much longer than the call. In sliding
layers each row has a slot in rings. Buffers never grow: a row that enters, leaves or outgrows its slot is
copied, and no other. Knows nothing of tokens or of the store.

B rows, K key-value heads, D head dim, A query heads, S positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol, TypeAlias

import mlx.core as mx

from .layered import PromptCache
from .layers import FullKVCache, QuantizedKVCache, SlidingKVCache
from .quantized import QuantizedStates

__all__ = ["BatchCache", "BatchLayer", "BatchPart", "RowCache"]

_SIZES: Final = (256, 512, 1024)
"""Positions of a slot in the classes of buffers."""
_SHARED: Final = 2048
"""Positions of all slots of a buffer: 8 slots of 256, 4 of 512, or 2 of 1,024."""
_RINGS: Final = 8
"""The most rings of a buffer."""
_FullLayer: TypeAlias = FullKVCache | QuantizedKVCache


class RowCache:
    """One row of a batch.

    Args:
        batch: has its keys and values.
        offset: positions seen so far.
        length: positions that there is memory for.
    """

    def __init__(self, batch: BatchCache, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self.slots: _Slots | None = None
        """Has its slot in full layers."""
        self.own: list[_FullLayer] = []
        """Its full layers, if it is longer than any slot."""
        self.rings: _Slots | None = None
        """Has its slot in sliding layers."""
        self._batch = batch

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.shared_bytes + sum(layer.nbytes for layer in self.own)

    @property
    def shared_bytes(self) -> int:
        """Bytes of its slots in the buffers of the batch, which stay there when it leaves."""
        return sum(slots.slot_bytes for slots in (self.slots, self.rings) if slots is not None)

    @property
    def slot_bytes(self) -> int:
        """Bytes of its slot in full layers."""
        return 0 if self.slots is None else self.slots.slot_bytes

    def outgrows(self, length: int) -> bool:
        """Whether it needs a larger slot for so many positions, or buffers of its own."""
        return self.slots is not None and length > self.slots.size

    def view(self) -> PromptCache:
        """The row as a prompt cache: full layers are views into the buffers, windows are copies. Drop it before
        the next step, which would copy the buffers otherwise."""
        return self._batch.view(self)

    def leave(self, room: int) -> PromptCache:
        """Ends the row, and returns an independent prompt cache with place for ``room`` positions."""
        return self._batch.leave(self, room)

    def drop(self) -> None:
        """Ends a row that nobody needs any more."""
        self._batch.drop(self)


class _Slots:
    """Buffers [slots, K, size, D] of a few layers, and the row in each slot.

    Args:
        count: slots.
        size: positions of a slot; of sliding layers the window, whose slots are rings.
        like: for each layer arrays of the same kind.
    """

    def __init__(self, count: int, size: int, like: Sequence[Sequence[mx.array]]) -> None:
        self.rows: list[RowCache | None] = [None] * count
        self.size = size
        self.buffers = [
            tuple(mx.zeros((count, part.shape[1], size, part.shape[3]), part.dtype) for part in parts)
            for parts in like
        ]
        self.nbytes = sum(buffer.nbytes for buffer in chain(*self.buffers))
        """Bytes held, those of empty slots included."""
        self.slot_bytes = self.nbytes // count
        """Bytes of one slot."""

    def enter(self, row: RowCache, layers: Sequence[Sequence[mx.array]]) -> None:
        """Copies a row into a free slot, for each layer the arrays of its content, [1, K, S, ...]."""
        slot = self.rows.index(None)
        self.rows[slot] = row
        for buffers, parts in zip(self.buffers, layers, strict=True):
            for buffer, part in zip(buffers, parts, strict=True):
                buffer[slot : slot + 1, :, : part.shape[2]] = part
            mx.eval(buffers)  # one layer after the other, so that little is held twice

    def leave(self, row: RowCache) -> None:
        """Empties the row's slot."""
        self.rows[self.rows.index(row)] = None

    def content(self, row: RowCache) -> list[list[mx.array]]:
        """Views of the row's slot, for each layer."""
        slot = self.rows.index(row)
        return [[buffer[slot : slot + 1] for buffer in buffers] for buffers in self.buffers]


@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """Keys and values that a few of the rows attend to, and the rows."""

    rows: mx.array | slice | None
    """The number of each; None if they are all rows, in order."""
    keys: mx.array | QuantizedStates
    values: mx.array | QuantizedStates
    mask: mx.array | None
    """bool, [rows, 1, 1, S]."""


class _Step(Protocol):
    """One step of a few rows in all layers of a kind."""

    numbers: list[int]
    """The rows, by their numbers in the batch."""

    def append(self, layer: int, keys: mx.array, values: mx.array) -> BatchPart:
        """See :meth:`BatchLayer.append`."""


class _OwnStep:
    """The step of a row that has buffers of its own."""

    def __init__(self, row: RowCache, number: int) -> None:
        self.numbers = [number]
        self._layers = row.own
        self._rows = slice(number, number + 1)

    def append(self, layer: int, keys: mx.array, values: mx.array) -> BatchPart:
        held = self._layers[layer].append(keys[self._rows], values[self._rows])
        return BatchPart(rows=self._rows, keys=held[0], values=held[1], mask=None)


class _SlotsStep:
    """The step of the rows in the slots of one buffer.

    An empty slot before a filled one computes what another row does, and its output is dropped.

    Args:
        slots: the buffer.
        numbers: the rows of the batch with their numbers.
        quantized: whether the buffers hold 8-bit states.
    """

    def __init__(self, slots: _Slots, numbers: dict[RowCache, int], quantized: bool) -> None:
        held = [-1 if row is None else numbers[row] for row in slots.rows]
        used = max(slot for slot, number in enumerate(held) if number >= 0) + 1
        offsets = [0 if row is None else row.offset for row in slots.rows]
        lengths = [min(offset + 1, slots.size) for offset in offsets[:used]]
        some_row = max(held)
        filled = [some_row if number < 0 else number for number in held]
        everything = list(range(len(numbers)))
        self.numbers = held[:used]
        self._slots = slots
        self._quantized = quantized
        self._longest = max(lengths)
        self._rows = None if filled == everything else mx.array(filled)
        self._queries = None if filled[:used] == everything else mx.array(filled[:used])
        self._places = mx.array([offset % slots.size for offset in offsets])[:, None, None, None]
        self._mask = None
        if min(lengths) < self._longest:
            self._mask = (mx.arange(self._longest) < mx.array(lengths)[:, None])[:, None, None]

    def append(self, layer: int, keys: mx.array, values: mx.array) -> BatchPart:
        if self._rows is not None:
            keys, values = keys[self._rows], values[self._rows]
        states: tuple[mx.array, ...] = (keys, values)
        if self._quantized:
            states = (*QuantizedStates.of(keys).parts, *QuantizedStates.of(values).parts)
        buffers = tuple(
            mx.put_along_axis(buffer, self._places, state, axis=2)
            for buffer, state in zip(self._slots.buffers[layer], states, strict=True)
        )
        self._slots.buffers[layer] = buffers
        held = [buffer[: len(self.numbers), :, : self._longest] for buffer in buffers]
        half = len(held) // 2
        return BatchPart(
            rows=self._queries,
            keys=QuantizedStates(*held[:half]) if self._quantized else held[0],
            values=QuantizedStates(*held[half:]) if self._quantized else held[1],
            mask=self._mask,
        )


class BatchLayer:
    """A layer of a batch, as attention sees it.

    Args:
        number: among the layers of its kind.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._steps: Sequence[_Step] = ()
        self._order: mx.array | None = None

    def plan(self, steps: Sequence[_Step], order: mx.array | None) -> None:
        """Sets the next step, and where each row's output is among those of all parts."""
        self._steps, self._order = steps, order

    def append(self, keys: mx.array, values: mx.array) -> list[BatchPart]:
        """Adds one position to each row, [B, K, 1, D]; returns what they attend to."""
        return [step.append(self._number, keys, values) for step in self._steps]

    def in_order(self, outputs: list[mx.array]) -> mx.array:
        """The outputs of all parts, [rows of the part, A, 1, D] -> [B, A, 1, D], in the order of the rows."""
        joined = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=0)
        return joined if self._order is None else joined[self._order]


class BatchCache:
    """The caches of several rows in all layers.

    Args:
        like: a prompt cache of the same model, which says what layers there are.
        most: rows at a time.
    """

    def __init__(self, like: PromptCache, most: int) -> None:
        self._kinds = list(like.layers)
        self._full = [n for n, layer in enumerate(self._kinds) if isinstance(layer, _FullLayer)]
        self._sliding = [n for n, layer in enumerate(self._kinds) if isinstance(layer, SlidingKVCache)]
        self._rings_of_buffer = min(most, _RINGS)
        self._shared: list[_Slots] = []
        self._rings: list[_Slots] = []
        self.rows: list[RowCache] = []
        """In the order of the batch."""
        numbers = {layer: n for kind in (self._full, self._sliding) for n, layer in enumerate(kind)}
        self.layers = [BatchLayer(numbers[n]) for n in range(len(self._kinds))]

    @property
    def unused_bytes(self) -> int:
        """Bytes of empty slots."""
        return sum(slots.slot_bytes * slots.rows.count(None) for slots in (*self._shared, *self._rings))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.unused_bytes + sum(row.nbytes for row in self.rows)

    def arrays(self) -> list[mx.array]:
        """All arrays, for evaluation."""
        buffers = [buffer for slots in (*self._shared, *self._rings) for buffer in chain(*slots.buffers)]
        return buffers + [array for row in self.rows for layer in row.own for array in layer.arrays()]

    def enter(self, cache: PromptCache, length: int) -> RowCache:
        """Makes a prompt cache a new row. The caller drops the cache.

        Args:
            cache: of at least one position.
            length: positions that there is memory for.
        """
        row = RowCache(self, cache.offset, max(length, cache.offset + 1))
        if self._sliding:
            windows = [cache.layers[n].content() for n in self._sliding]
            row.rings = _slot(row, self._rings, self._rings_of_buffer, cache.windows[0].window, windows)
        self._settle(row, [layer for layer in cache.layers if isinstance(layer, _FullLayer)])
        self.rows.append(row)
        # In the order of their rings, so that sliding layers need not reorder them.
        self.rows = [row for rings in self._rings for row in rings.rows if row is not None] or self.rows
        return row

    def order(self, rows: Sequence[RowCache | None]) -> None:
        """Sets the order of the rows in the next step. :meth:`enter` puts them in that of their rings, which a
        machine with full layers only does not have."""
        assert set(rows) == set(self.rows)
        self.rows = [row for row in rows if row is not None]

    def leave(self, row: RowCache, room: int) -> PromptCache:
        """See :meth:`RowCache.leave`."""
        cache = self.view(row)
        if row.slots is not None:
            cache = cache.copied(cache.snapshot(), max(room, row.offset + 1))
        self.drop(row)
        return cache

    def drop(self, row: RowCache) -> None:
        """See :meth:`RowCache.drop`."""
        self.rows.remove(row)
        for slots in (row.slots, row.rings):
            if slots is not None:
                slots.leave(row)
        self._drop_empty()

    def clear(self) -> None:
        """Ends all rows, one too that was only about to enter."""
        self.rows, self._shared, self._rings = [], [], []
        self._drop_empty()

    def view(self, row: RowCache) -> PromptCache:
        """See :meth:`RowCache.view`."""
        cache = PromptCache.__new__(PromptCache)
        cache.layers = [
            type(kind)(kind.window) if isinstance(kind, SlidingKVCache) else type(kind)() for kind in self._kinds
        ]
        for n, layer in zip(self._full, row.own, strict=False):
            cache.layers[n] = layer
        if row.slots is not None:
            for n, parts in zip(self._full, row.slots.content(row), strict=True):
                cache.layers[n].restore(row.offset, parts)
        if row.rings is not None:
            for n, parts in zip(self._sliding, row.rings.content(row), strict=True):
                # A slice of a ring would keep the rings of all rows.
                cache.layers[n].restore(row.offset, [mx.contiguous(part) for part in parts])
        mx.eval([array for window in cache.windows for array in window.arrays()])
        return cache

    def prepare(self) -> mx.array:
        """Makes place for one more position in each row.

        Returns:
            The positions of the next tokens, [B].
        """
        for row in self.rows:
            if row.outgrows(row.offset + 1):
                self._outgrow(row)
        numbers = {row: n for n, row in enumerate(self.rows)}
        quantized = any(isinstance(kind, QuantizedKVCache) for kind in self._kinds)
        full: list[_Step] = [_SlotsStep(slots, numbers, quantized) for slots in self._shared]
        full += [_OwnStep(row, n) for row, n in numbers.items() if row.slots is None]
        sliding = [_SlotsStep(slots, numbers, quantized=False) for slots in self._rings]
        self._plan(self._full, full)
        self._plan(self._sliding, sliding)
        return mx.array([row.offset for row in self.rows])

    def advance(self) -> None:
        """Notes that a step has been added to every row."""
        for row in self.rows:
            row.offset += 1

    def added_bytes(self, lengths: Iterable[int], position_bytes: int, window_bytes: int) -> int:
        """Bytes of the buffers that are made when more rows get slots.

        Args:
            lengths: the positions of each.
            position_bytes: of one position in all full layers.
            window_bytes: of one row in all sliding layers.
        """
        sizes = [_size_for(length) for length in lengths]
        total = 0
        for size, rows in Counter(size for size in sizes if size is not None).items():
            free = sum(slots.rows.count(None) for slots in self._shared if slots.size == size)
            buffers = -(-max(0, rows - free) // (_SHARED // size))
            total += buffers * _SHARED * position_bytes
        free = sum(rings.rows.count(None) for rings in self._rings)
        buffers = -(-max(0, len(sizes) - free) // self._rings_of_buffer)
        return total + buffers * self._rings_of_buffer * window_bytes

    def _settle(self, row: RowCache, layers: list[_FullLayer]) -> None:
        """Copies a row's full layers into a slot; those of a long row become its own."""
        size = _size_for(row.length)
        if size is None:
            row.own, row.slots = layers, None
        else:
            content = [layer.content() for layer in layers]
            row.slots = _slot(row, self._shared, _SHARED // size, size, content)

    def _outgrow(self, row: RowCache) -> None:
        """Moves a row to a larger slot, or to buffers of its own."""
        before, row.length = row.slots, max(row.length, row.offset + 1)
        assert before is not None
        layers = [layer for layer in self.view(row).layers if isinstance(layer, _FullLayer)]
        if _size_for(row.length) is None:
            layers = [layer.copied(row.offset, row.length) for layer in layers]
            mx.eval([array for layer in layers for array in layer.arrays()])
        self._settle(row, layers)
        before.leave(row)
        self._drop_empty()

    def _drop_empty(self) -> None:
        self._shared = [slots for slots in self._shared if any(slots.rows)]
        self._rings = [slots for slots in self._rings if any(slots.rows)]
        for layer in self.layers:
            layer.plan((), None)  # the last step refers to buffers

    def _plan(self, layers: list[int], steps: Sequence[_Step]) -> None:
        """Sets the next step of all layers of a kind."""
        if not layers:
            return
        joined = list(chain(*(step.numbers for step in steps)))
        rows = range(len(self.rows))
        order = None if joined == list(rows) else mx.array([joined.index(number) for number in rows])
        for n in layers:
            self.layers[n].plan(steps, order)


def _slot(
    row: RowCache, buffers: list[_Slots], count: int, size: int, layers: Sequence[Sequence[mx.array]]
) -> _Slots:
    """Copies a row into a free slot of that size, in a new buffer of ``count`` slots if there is none."""
    slots = next((each for each in buffers if each.size == size and None in each.rows), None)
    if slots is None:
        slots = _Slots(count, size, layers)
        buffers.append(slots)
    slots.enter(row, layers)
    return slots


def _size_for(length: int) -> int | None:
    """The slot that holds a row of so many positions; None if it has buffers of its own."""
    return next((size for size in _SIZES if length <= size), None)
