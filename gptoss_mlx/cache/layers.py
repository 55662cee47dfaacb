"""Keys and values of the positions that one layer has seen.

A full layer keeps every position and only appends, so going back is setting an offset. A sliding layer keeps the
last ``window`` positions in a ring: going back needs a copy of the ring, which costs nothing until the ring is
written again, because MLX copies a shared buffer on the next write. Knows nothing of tokens or of other layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import mlx.core as mx

from .quantized import QuantizedStates

__all__ = [
    "FullKVCache",
    "GrowingKVCache",
    "LayerCache",
    "QuantizedKVCache",
    "SlidingKVCache",
    "capacity",
    "most_capacity",
]

_GROWTH_MIN = 256
_GROWTH_SHARE = 16  # a sixteenth: copies stay rare and at most 6 % of the memory is unused


def capacity(length: int) -> int:
    """The positions that a full layer's buffers have after growing to hold ``length``."""
    step = _step(length)
    return -(-length // step) * step


def most_capacity(length: int) -> int:
    """The largest :func:`capacity` of any length up to this one."""
    return length + _step(length)


def _step(length: int) -> int:
    return max(_GROWTH_MIN, length // _GROWTH_SHARE)


class LayerCache(Protocol):
    """A layer's cache as attention sees it. Arrays are [B, K, L, D]: batch, key-value heads, length, head dim."""

    offset: int
    """Positions seen so far, which is the position of the next token."""

    def append(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array] | tuple[QuantizedStates, QuantizedStates]:
        """Adds L positions and returns the keys and values that the newest ones may attend to."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def arrays(self) -> list[mx.array]:
        """For evaluation."""
        ...


class _Buffers:
    """The state of both kinds of cache: an offset, and arrays [B, K, capacity, ...] once something was appended,
    keys first, then values."""

    def __init__(self) -> None:
        self.offset = 0
        self._parts: tuple[mx.array, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes held, the unused end of the buffers included."""
        return sum(part.nbytes for part in self._parts)

    def arrays(self) -> list[mx.array]:
        """For evaluation."""
        return list(self._parts)

    def restore(self, offset: int, parts: Sequence[mx.array]) -> None:
        """Sets the content that ``content()`` of another cache returned at ``offset``."""
        self.offset = offset
        self._parts = tuple(parts)


class GrowingKVCache(_Buffers):
    """Every position, in buffers that grow by max(256, 1/16 of the length)."""

    def __init__(self) -> None:
        super().__init__()
        self._reserved = 0

    def content(self) -> list[mx.array]:
        """The arrays without the unused end of the buffers."""
        return [part[..., : self.offset, :] for part in self._parts] if self.offset else []

    def _append(self, parts: tuple[mx.array, ...]) -> list[mx.array]:
        begin, end = self.offset, self.offset + parts[0].shape[2]
        self._grow(max(end, self._reserved), like=parts)
        for buffer, part in zip(self._parts, parts, strict=True):
            buffer[..., begin:end, :] = part
        self.offset = end
        return [buffer[..., :end, :] for buffer in self._parts]

    def reserve(self, length: int) -> None:
        """Makes the next growth reach ``length`` positions, so that the chunks of a long prompt copy nothing."""
        self._reserved = length

    def copied(self, length: int, room: int) -> Self:
        """An independent cache of the first ``length`` positions, with buffers for ``room`` positions.

        It shares no memory: MLX would copy a shared buffer whole at the first write to it.
        """
        twin = type(self)()
        if length:
            twin.restore(length, [part[..., :length, :] for part in self._parts])
            twin._grow(max(room, length + 1), like=self._parts)
        return twin

    def _grow(self, length: int, like: tuple[mx.array, ...]) -> None:
        if self._parts and length <= self._parts[0].shape[2]:
            return
        unused = capacity(length) - self.offset
        held = self.content()
        grown = []
        for n, part in enumerate(like):
            batch, heads, _, dim = part.shape
            empty = mx.zeros((batch, heads, unused, dim), dtype=part.dtype)
            grown.append(mx.concatenate([held[n], empty], axis=2) if held else empty)
        self._parts = tuple(grown)

    def trim(self, offset: int) -> None:
        """Drops everything after ``offset`` positions."""
        self.offset = offset


class FullKVCache(GrowingKVCache):
    """Every position, unquantised."""

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Adds L positions; returns all positions, oldest first."""
        keys, values = self._append((keys, values))
        return keys, values


class QuantizedKVCache(GrowingKVCache):
    """Every position in 8 bits, which takes 0.56 of the bytes of bfloat16."""

    def append(self, keys: mx.array, values: mx.array) -> tuple[QuantizedStates, QuantizedStates]:
        """Adds L positions; returns all positions, oldest first."""
        parts = self._append((*QuantizedStates.of(keys).parts, *QuantizedStates.of(values).parts))
        return QuantizedStates(*parts[:3]), QuantizedStates(*parts[3:])


class SlidingKVCache(_Buffers):
    """The last ``window`` positions.

    Decoding writes into a ring. Attention does not depend on the order of keys, because their rotation holds
    their positions.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self._watched: tuple[int, ...] = ()
        self._passed: list[SlidingKVCache] = []

    @property
    def length(self) -> int:
        """Positions held: at most the window."""
        return min(self.offset, self.window)

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Adds L positions.

        Returns:
            For L = 1, the keys and values in the window, in the ring's order. For L > 1, those of the window
            before and the new ones, oldest first: up to window + L.
        """
        if keys.shape[2] == 1:
            return self._append_one(keys, values)
        before, begin = self._ordered(), self.offset
        if before is not None:
            keys = mx.concatenate([before[0], keys], axis=2)
            values = mx.concatenate([before[1], values], axis=2)
        end = begin + keys.shape[2] - min(begin, self.window)
        self._passed = [
            self._at(position, keys, values, end) for position in self._watched if begin < position < end
        ]
        self._watched = ()
        self.restore(end, self._at(end, keys, values, end)._parts)
        return keys, values

    def watch(self, positions: Sequence[int]) -> None:
        """Makes the next append of several positions keep the windows at ``positions`` inside it."""
        self._watched, self._passed = tuple(positions), []

    def passed(self) -> list[SlidingKVCache]:
        """The windows that :meth:`watch` asked for, in the order of their positions; they are returned once."""
        passed, self._passed = self._passed, []
        return passed

    def content(self) -> list[mx.array]:
        """The two rings."""
        return self.arrays()

    def _at(self, position: int, keys: mx.array, values: mx.array, end: int) -> SlidingKVCache:
        """The window at a position, taken out of keys and values that end at position ``end``."""
        window = SlidingKVCache(self.window)
        window.offset = position
        upto = keys.shape[2] - (end - position)
        window._parts = (window._ring(keys[..., :upto, :]), window._ring(values[..., :upto, :]))
        return window

    def _append_one(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        slot = self.offset % self.window
        self.offset += 1
        if not self._parts:
            self._parts = (self._ring(keys), self._ring(values))
        else:
            for ring, state in zip(self._parts, (keys, values), strict=True):
                ring[..., slot : slot + 1, :] = state
        keys, values = self._parts
        if self.length == self.window:
            return keys, values
        return keys[..., : self.length, :], values[..., : self.length, :]

    def _ordered(self) -> tuple[mx.array, mx.array] | None:
        """The window's keys and values, oldest first."""
        if not self._parts:
            return None
        keys, values = (self._in_order(ring) for ring in self._parts)
        return keys, values

    def _in_order(self, ring: mx.array) -> mx.array:
        if self.offset <= self.window:
            return ring[..., : self.offset, :]
        oldest = self.offset % self.window
        return mx.concatenate([ring[..., oldest:, :], ring[..., :oldest, :]], axis=2) if oldest else ring

    def _ring(self, states: mx.array) -> mx.array:
        """A ring that holds the last positions of ``states`` where :meth:`_append_one` expects them."""
        batch, heads, _, dim = states.shape
        length = self.length
        latest = states[..., states.shape[2] - length :, :]
        # Position p is in slot p % window.
        shift = (self.offset - length) % self.window
        if shift:
            cut = self.window - shift
            latest = mx.concatenate([latest[..., cut:, :], latest[..., :cut, :]], axis=2)
        # Copied into its own buffer, because a slice would keep the whole chunk alive. Writing all of a ring with
        # a slice would too, since MLX then uses the slice as the ring.
        if length == self.window:
            return mx.contiguous(latest)
        ring = mx.zeros((batch, heads, self.window, dim), dtype=states.dtype)
        ring[..., :length, :] = latest
        return ring

    def fork(self) -> SlidingKVCache:
        """An independent cache with the same content; the buffers are shared until one of the two is written.

        mx.array makes a second reference to a buffer, and MLX copies a buffer of two references on a write.
        """
        twin = SlidingKVCache(self.window)
        twin.restore(self.offset, [mx.array(part) for part in self._parts])
        return twin
