"""The prompt cache: the caches of all layers of a model, and snapshots to go back to.

Knows layers and positions; knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..config import ModelConfig
from ..errors import InvalidRequest
from ..files.read import short_repr
from .layers import FullKVCache, GrowingKVCache, QuantizedKVCache, SlidingKVCache
from .quantized import KV_BITS, group_size_of

__all__ = ["PromptCache", "Snapshot", "check_kv_bits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A position to go back to, with the windows of the sliding layers there."""

    offset: int
    windows: tuple[SlidingKVCache, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the windows hold once the cache has moved on."""
        return sum(window.nbytes for window in self.windows)

    def arrays(self) -> list[mx.array]:
        """For evaluation."""
        return [array for window in self.windows for array in window.arrays()]


class PromptCache:
    """The caches of all layers, in their order.

    Args:
        config: says which layers slide and how wide the window is.
        kv_bits: 8 keeps the keys and values of full layers in 8 bits; None keeps them unquantised.

    Raises:
        InvalidRequest: another ``kv_bits``, or a head dim without a factor 32.
    """

    _watched: tuple[int, ...] = ()

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
        """Bytes held by all layers, without snapshots."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def windows(self) -> tuple[SlidingKVCache, ...]:
        """The caches of the sliding layers."""
        return tuple(layer for layer in self.layers if isinstance(layer, SlidingKVCache))

    def arrays(self) -> list[mx.array]:
        """All arrays, for evaluation."""
        return [array for layer in self.layers for array in layer.arrays()]

    def snapshot(self) -> Snapshot:
        """A snapshot of this position. It costs no copy until the windows are written again."""
        return Snapshot(offset=self.offset, windows=tuple(window.fork() for window in self.windows))

    def watch(self, positions: Sequence[int]) -> None:
        """Makes the next forward pass of several tokens take snapshots at positions inside it.

        Args:
            positions: ascending.
        """
        self._watched = tuple(positions)
        for window in self.windows:
            window.watch(positions)

    def passed(self) -> list[Snapshot]:
        """The snapshots that :meth:`watch` asked for, in order; they are returned once."""
        positions, self._watched = self._watched, ()
        # One machine of several may have full layers only: its snapshots are positions without windows.
        windows = [window.passed() for window in self.windows]
        return [
            Snapshot(offset=position, windows=tuple(passed[n] for passed in windows))
            for n, position in enumerate(positions)
        ]

    def rewind(self, snapshot: Snapshot) -> None:
        """Drops everything after the snapshot.

        Raises:
            InvalidRequest: the snapshot is ahead of the cache, or of another model.
        """
        sliding = [n for n, layer in enumerate(self.layers) if isinstance(layer, SlidingKVCache)]
        if snapshot.offset > self.offset or len(snapshot.windows) != len(sliding):
            raise InvalidRequest(
                f"snapshot of {len(snapshot.windows)} windows at {snapshot.offset} does not fit "
                f"a cache of {len(sliding)} at {self.offset}"
            )
        for layer in self.layers:
            if isinstance(layer, GrowingKVCache):
                layer.trim(snapshot.offset)
        for n, window in zip(sliding, snapshot.windows, strict=True):
            self.layers[n] = window.fork()

    def clear(self) -> None:
        """Drops everything; the full layers keep their buffers for the next prompt."""
        for n, layer in enumerate(self.layers):
            if isinstance(layer, GrowingKVCache):
                layer.trim(0)
            else:
                self.layers[n] = SlidingKVCache(layer.window)

    def copied(self, snapshot: Snapshot, room: int) -> PromptCache:
        """An independent cache that holds the positions before a snapshot, evaluated.

        Args:
            snapshot: of this cache.
            room: positions that the full layers' buffers shall have place for.
        """
        windows = iter(snapshot.windows)
        twin = PromptCache.__new__(PromptCache)
        twin.layers = [
            layer.copied(snapshot.offset, room) if isinstance(layer, GrowingKVCache) else next(windows).fork()
            for layer in self.layers
        ]
        mx.eval(twin.arrays())
        return twin

    def reserve(self, length: int) -> None:
        """Makes the full layers' next growth reach ``length`` positions at once."""
        for layer in self.layers:
            if isinstance(layer, GrowingKVCache):
                layer.reserve(length)


def check_kv_bits(kv_bits: int | None, config: ModelConfig) -> None:
    """Checks ``kv_bits`` before any work.

    Raises:
        InvalidRequest: the keys and values of this model cannot be kept in that many bits.
    """
    if kv_bits is None:
        return
    if type(kv_bits) is not int or kv_bits != KV_BITS:
        raise InvalidRequest(
            f"kv_bits is {short_repr(kv_bits)}; give {KV_BITS}, or leave it out for keys and values as computed"
        )
    if group_size_of(config.head_dim) is None:
        raise InvalidRequest(
            f"kv_bits is {kv_bits}, but the heads have {config.head_dim} values, which is not a multiple of 32; "
            "leave kv_bits out"
        )
