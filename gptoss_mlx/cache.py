"""Keys and values of the positions a model has seen: one cache per layer, and the cache of a whole prompt.

A full layer keeps every position and only ever appends, so going back is setting an offset. A sliding layer
keeps the last ``window`` positions in a ring: going back needs a copy of the ring, which costs nothing until
the ring is written again, because MLX copies a shared buffer on the next write. Knows nothing of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from .config import ModelConfig
from .errors import InvalidRequest

__all__ = ["FullKVCache", "LayerCache", "PromptCache", "SlidingKVCache", "Snapshot"]

_GROWTH_MIN = 256
_GROWTH_SHARE = 16  # a sixteenth: copies stay rare and at most 6 % of the memory is unused


class LayerCache(Protocol):
    """What attention needs of a layer's cache. Arrays are [B, K, L, D]: batch, key-value heads, length, dim."""

    offset: int
    """Positions seen so far: where the next token stands."""

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
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
    """What both kinds of cache have: where they stand, and two arrays once there is anything to hold."""

    def __init__(self) -> None:
        self.offset = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def _share(self, twin: _Buffers) -> None:
        """Gives ``twin`` the same content. mx.array makes a name of its own for the buffer: MLX copies a buffer
        of two names when one of them is written."""
        twin.offset = self.offset
        if self._keys is not None and self._values is not None:
            twin._keys, twin._values = mx.array(self._keys), mx.array(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes held, the unused end of the buffers included."""
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[mx.array]:
        """For evaluation."""
        return [array for array in (self._keys, self._values) if array is not None]


class FullKVCache(_Buffers):
    """Every position, in buffers that grow by max(256, 1/16 of the length)."""

    def __init__(self) -> None:
        super().__init__()
        self._reserved = 0

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Adds L positions; gives all of them, oldest first."""
        begin, end = self.offset, self.offset + keys.shape[2]
        self._grow(max(end, self._reserved), like=keys)
        assert self._keys is not None
        assert self._values is not None
        self._keys[..., begin:end, :] = keys
        self._values[..., begin:end, :] = values
        self.offset = end
        return self._keys[..., :end, :], self._values[..., :end, :]

    def reserve(self, length: int) -> None:
        """Lets the next growth reach ``length`` positions, so that a long prompt's chunks copy nothing."""
        self._reserved = length

    def _grow(self, length: int, like: mx.array) -> None:
        capacity = 0 if self._keys is None else self._keys.shape[2]
        if length <= capacity:
            return
        step = max(_GROWTH_MIN, length // _GROWTH_SHARE)
        batch, heads, _, dim = like.shape
        room = mx.zeros((batch, heads, -(-length // step) * step - self.offset, dim), dtype=like.dtype)
        self._keys = self._grown(self._keys, room)
        self._values = self._grown(self._values, room)

    def _grown(self, buffer: mx.array | None, room: mx.array) -> mx.array:
        # A copy of its own for each: two names of one array would both be written.
        if buffer is None or self.offset == 0:
            return mx.array(room)
        return mx.concatenate([buffer[..., : self.offset, :], room], axis=2)

    def trim(self, offset: int) -> None:
        """Forgets what comes after ``offset`` positions."""
        self.offset = offset

    def fork(self) -> FullKVCache:
        """An independent cache with the same content; the buffers are shared until one of the two writes."""
        twin = FullKVCache()
        self._share(twin)
        return twin


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
        self._keys, self._values = self._ring(keys), self._ring(values)
        return keys, values

    def _append_one(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self._keys is None or self._values is None:
            self.offset += 1
            self._keys, self._values = self._ring(keys), self._ring(values)
        else:
            slot = self.offset % self.window
            self._keys[..., slot : slot + 1, :] = keys
            self._values[..., slot : slot + 1, :] = values
            self.offset += 1
        if self.length == self.window:
            return self._keys, self._values
        return self._keys[..., : self.length, :], self._values[..., : self.length, :]

    def _ordered(self) -> tuple[mx.array, mx.array] | None:
        """The window's keys and values, oldest first."""
        if self._keys is None or self._values is None:
            return None
        if self.offset <= self.window:
            return self._keys[..., : self.offset, :], self._values[..., : self.offset, :]
        oldest = self.offset % self.window
        if oldest == 0:
            return self._keys, self._values
        keys, values = (
            mx.concatenate([buffer[..., oldest:, :], buffer[..., :oldest, :]], axis=2)
            for buffer in (self._keys, self._values)
        )
        return keys, values

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
        # Written into a buffer of its own: a slice would keep the whole chunk alive.
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
    """

    def __init__(self, config: ModelConfig) -> None:
        self.layers: list[FullKVCache | SlidingKVCache] = [
            SlidingKVCache(config.sliding_window) if kind == "sliding_attention" else FullKVCache()
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
            if isinstance(layer, FullKVCache):
                layer.trim(snapshot.offset)
        for n, window in zip(sliding, snapshot.windows, strict=True):
            self.layers[n] = window.fork()

    def clear(self) -> None:
        """Forgets everything; the full layers keep their buffers for what comes next."""
        for n, layer in enumerate(self.layers):
            if isinstance(layer, FullKVCache):
                layer.trim(0)
            else:
                self.layers[n] = SlidingKVCache(layer.window)

    def reserve(self, length: int) -> None:
        """Makes the full layers' next growth reach ``length`` positions at once."""
        for layer in self.layers:
            if isinstance(layer, FullKVCache):
                layer.reserve(length)

    def fork(self) -> PromptCache:
        """An independent cache with the same content; buffers are shared until one of the two writes."""
        twin = PromptCache.__new__(PromptCache)
        twin.layers = [layer.fork() for layer in self.layers]
        return twin
