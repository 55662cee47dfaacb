"""Keys and values of the positions a model has seen: one cache per layer, and the cache of a whole prompt.

A full layer keeps every position and only ever appends, so going back is setting an offset. A sliding layer
keeps the last ``window`` positions in a ring: going back needs a copy of the ring, which costs nothing until
the ring is written again, because MLX copies a shared buffer on the next write. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import mlx.core as mx

from ..config import ModelConfig
from ..errors import InvalidRequest
from ..files.read import short_repr
from .quantized import KV_BITS, QuantizedStates, group_size_of

__all__ = [
    "FullKVCache",
    "LayerCache",
    "PromptCache",
    "QuantizedKVCache",
    "SlidingKVCache",
    "Snapshot",
    "check_kv_bits",
]

_GROWTH_MIN = 256
_GROWTH_SHARE = 16  # a sixteenth: copies stay rare and at most 6 % of the memory is unused


def capacity(length: int) -> int:
    """Positions that a full layer's buffers have once they have grown to hold so many."""
    step = _step(length)
    return -(-length // step) * step


def most_capacity(length: int) -> int:
    """The most that :func:`capacity` is for any length up to this one."""
    return length + _step(length)


def _step(length: int) -> int:
    return max(_GROWTH_MIN, length // _GROWTH_SHARE)


class LayerCache(Protocol):
    """What attention needs of a layer's cache. Arrays are [B, K, L, D]: batch, key-value heads, length, dim."""

    offset: int
    """Positions seen so far: where the next token stands."""

    def append(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array] | tuple[QuantizedStates, QuantizedStates]:
        """Adds L positions and gives what the newest may attend to."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def arrays(self) -> list[mx.array]:
        """For evaluation."""
        ...


class _Buffers:
    """What both kinds of cache have: where they stand, and arrays [B, K, capacity, ...] once there is anything
    to hold: keys first, then values."""

    def __init__(self) -> None:
        self.offset = 0
        self._parts: tuple[mx.array, ...] = ()

    def _share(self, twin: _Buffers) -> None:
        """Gives ``twin`` the same content. mx.array makes a name of its own for the buffer: MLX copies a buffer
        of two names when one of them is written."""
        twin.offset = self.offset
        twin._parts = tuple(mx.array(part) for part in self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes held, the unused end of the buffers included."""
        return sum(part.nbytes for part in self._parts)

    def arrays(self) -> list[mx.array]:
        """For evaluation."""
        return list(self._parts)

    def restore(self, offset: int, parts: Sequence[mx.array]) -> None:
        """Takes over what ``content`` of such a cache gave at ``offset``."""
        self.offset = offset
        self._parts = tuple(parts)


class _GrowingCache(_Buffers):
    """Every position, in buffers that grow by max(256, 1/16 of the length)."""

    def __init__(self) -> None:
        super().__init__()
        self._reserved = 0

    def content(self) -> list[mx.array]:
        """What is held, without the unused end."""
        return [part[..., : self.offset, :] for part in self._parts] if self.offset else []

    def _append(self, parts: tuple[mx.array, ...]) -> list[mx.array]:
        begin, end = self.offset, self.offset + parts[0].shape[2]
        self._grow(max(end, self._reserved), like=parts)
        for buffer, part in zip(self._parts, parts, strict=True):
            buffer[..., begin:end, :] = part
        self.offset = end
        return [buffer[..., :end, :] for buffer in self._parts]

    def reserve(self, length: int) -> None:
        """Lets the next growth reach ``length`` positions, so that a long prompt's chunks copy nothing."""
        self._reserved = length

    def _grow(self, length: int, like: tuple[mx.array, ...]) -> None:
        if self._parts and length <= self._parts[0].shape[2]:
            return
        room = capacity(length) - self.offset
        held = self.content()
        grown = []
        for n, part in enumerate(like):
            batch, heads, _, dim = part.shape
            empty = mx.zeros((batch, heads, room, dim), dtype=part.dtype)
            grown.append(mx.concatenate([held[n], empty], axis=2) if held else empty)
        self._parts = tuple(grown)

    def trim(self, offset: int) -> None:
        """Forgets what comes after ``offset`` positions."""
        self.offset = offset

    def fork(self) -> Self:
        """An independent cache with the same content; the buffers are shared until one of the two writes."""
        twin = type(self)()
        self._share(twin)
        return twin


class FullKVCache(_GrowingCache):
    """Every position, as it is."""

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Adds L positions; gives all of them, oldest first."""
        keys, values = self._append((keys, values))
        return keys, values


class QuantizedKVCache(_GrowingCache):
    """Every position, in 8 bits: 0.56 of the bytes of bfloat16."""

    def append(self, keys: mx.array, values: mx.array) -> tuple[QuantizedStates, QuantizedStates]:
        """Adds L positions; gives all of them, oldest first."""
        parts = self._append((*QuantizedStates.of(keys).parts, *QuantizedStates.of(values).parts))
        return QuantizedStates(*parts[:3]), QuantizedStates(*parts[3:])


class SlidingKVCache(_Buffers):
    """The last ``window`` positions.

    Decoding writes into a ring: the order of keys does not matter to attention, their rotation tells where
    they stand. A longer append leaves the ring in order.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    @property
    def length(self) -> int:
        """Positions held: at most the window."""
        return min(self.offset, self.window)

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Adds L positions.

        Returns:
            For L = 1, the keys and values in the window, in the ring's order. For L > 1, those that were
            in the window before and the new ones, oldest first: up to window + L.
        """
        if keys.shape[2] == 1:
            return self._append_one(keys, values)
        before = self._ordered()
        self.offset += keys.shape[2]
        if before is not None:
            keys = mx.concatenate([before[0], keys], axis=2)
            values = mx.concatenate([before[1], values], axis=2)
        self._parts = (self._ring(keys), self._ring(values))
        return keys, values

    def content(self) -> list[mx.array]:
        """The two rings."""
        return self.arrays()

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
        # Position p lies in slot p % window.
        shift = (self.offset - length) % self.window
        if shift:
            cut = self.window - shift
            latest = mx.concatenate([latest[..., cut:, :], latest[..., :cut, :]], axis=2)
        # In a buffer of its own: a slice would keep the whole chunk alive. So would writing all of a ring with it,
        # since MLX then takes the slice for the ring.
        if length == self.window:
            return mx.contiguous(latest)
        ring = mx.zeros((batch, heads, self.window, dim), dtype=states.dtype)
        ring[..., :length, :] = latest
        return ring

    def fork(self) -> SlidingKVCache:
        """The same content; the buffers are shared until one of the two writes."""
        twin = SlidingKVCache(self.window)
        self._share(twin)
        return twin


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A point to come back to: where it stands, and the windows of the sliding layers there."""

    offset: int
    windows: tuple[SlidingKVCache, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the windows hold once the cache has moved on."""
        return sum(window.nbytes for window in self.windows)


class PromptCache:
    """The caches of all layers, in their order.

    Args:
        config: tells which layers slide and how wide the window is.
        kv_bits: 8 to keep the full layers' keys and values in 8 bits; by default they are kept as they are.

    Raises:
        InvalidRequest: another ``kv_bits``, or heads whose size has no factor 32.
    """

    def __init__(self, config: ModelConfig, kv_bits: int | None = None) -> None:
        check_kv_bits(kv_bits, config)
        full = FullKVCache if kv_bits is None else QuantizedKVCache
        self.layers: list[FullKVCache | QuantizedKVCache | SlidingKVCache] = [
            SlidingKVCache(config.sliding_window) if kind == "sliding_attention" else full()
            for kind in config.layer_types
        ]

    @property
    def offset(self) -> int:
        """Positions seen so far."""
        return self.layers[0].offset

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers, snapshots not counted."""
        return sum(layer.nbytes for layer in self.layers)

    def arrays(self) -> list[mx.array]:
        """Everything to evaluate after a prefill chunk."""
        return [array for layer in self.layers for array in layer.arrays()]

    def snapshot(self) -> Snapshot:
        """Remembers this point. Costs no copy until the windows are written again."""
        windows = tuple(layer.fork() for layer in self.layers if isinstance(layer, SlidingKVCache))
        return Snapshot(offset=self.offset, windows=windows)

    def rewind(self, snapshot: Snapshot) -> None:
        """Forgets everything after the snapshot.

        Raises:
            InvalidRequest: the snapshot lies ahead, or belongs to another model.
        """
        sliding = [n for n, layer in enumerate(self.layers) if isinstance(layer, SlidingKVCache)]
        if snapshot.offset > self.offset or len(snapshot.windows) != len(sliding):
            raise InvalidRequest(
                f"snapshot of {len(snapshot.windows)} windows at {snapshot.offset} does not fit "
                f"a cache of {len(sliding)} at {self.offset}"
            )
        for layer in self.layers:
            if isinstance(layer, _GrowingCache):
                layer.trim(snapshot.offset)
        for n, window in zip(sliding, snapshot.windows, strict=True):
            self.layers[n] = window.fork()

    def clear(self) -> None:
        """Forgets everything; the full layers keep their buffers for what comes next."""
        for n, layer in enumerate(self.layers):
            if isinstance(layer, _GrowingCache):
                layer.trim(0)
            else:
                self.layers[n] = SlidingKVCache(layer.window)

    def emptied(self) -> PromptCache:
        """A cache of the same kind that holds nothing."""
        twin = PromptCache.__new__(PromptCache)
        twin.layers = [
            SlidingKVCache(layer.window) if isinstance(layer, SlidingKVCache) else type(layer)()
            for layer in self.layers
        ]
        return twin

    def reserve(self, length: int) -> None:
        """Makes the full layers' next growth reach ``length`` positions at once."""
        for layer in self.layers:
            if isinstance(layer, _GrowingCache):
                layer.reserve(length)

    def fork(self) -> PromptCache:
        """An independent cache with the same content; buffers are shared until one of the two writes."""
        twin = PromptCache.__new__(PromptCache)
        twin.layers = [layer.fork() for layer in self.layers]
        return twin


def check_kv_bits(kv_bits: int | None, config: ModelConfig) -> None:
    """Before any work.

    Raises:
        InvalidRequest: the keys and values of this model cannot be kept in so many bits.
    """
    if kv_bits is None:
        return
    if type(kv_bits) is not int or kv_bits != KV_BITS:
        raise InvalidRequest(
            f"kv_bits is {short_repr(kv_bits)}; {KV_BITS}, or None to keep keys and values as they are"
        )
    if group_size_of(config.head_dim) is None:
        raise InvalidRequest(
            f"kv_bits is {kv_bits}, but the heads have {config.head_dim} values, no multiple of 32; leave it out"
        )
