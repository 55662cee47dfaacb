"""The settings of a Mac's memory that hold while models are loaded.

Wired memory is never paged out or compressed: without it, weights that were not used for a second may have to be
read again, and the first token after a pause waits for them. They are settings of the process, not of a model:
the first model that is loaded makes them, the last that is closed takes them back.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol, cast

import mlx.core as mx

from .device import DeviceInfo

__all__ = ["MLX_MEMORY", "Allocator", "MemorySettings", "is_out_of_memory"]

_CACHE_SHARE: Final = 16
_MAX_CACHE_BYTES: Final = 2**31


# How MLX says that there is no memory: its own allocator, Metal's command buffers, CUDA.
_OUT_OF_MEMORY: Final = ("malloc", "insufficient memory", "out of memory", "outofmemory", "unable to allocate")


class Allocator(Protocol):
    """What of MLX's memory management is used; ``mlx.core`` is one."""

    def set_wired_limit(self, limit: int, /) -> int:
        """Sets how much may be wired; gives what it was before."""

    def set_cache_limit(self, limit: int, /) -> int:
        """Sets how much freed memory is kept for reuse; gives what it was before."""


class MemorySettings:
    """Holds the settings from :meth:`hold` to :meth:`release`, for any number of models.

    Args:
        allocator: whose settings they are.
    """

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._lock = threading.RLock()  # the garbage collector may release one model while another is loaded
        self._holders = 0
        self._before = (0, 0)

    def hold(self, device: DeviceInfo) -> None:
        """A model is being loaded. Elsewhere than on a Mac nothing is changed."""
        if not device.is_mac:
            return
        with self._lock:
            self._holders += 1
            if self._holders > 1:
                return
            # Freed buffers are kept for the next step, but not so many that they crowd out what is in use.
            kept = min(_MAX_CACHE_BYTES, device.gpu_bytes // _CACHE_SHARE)
            self._before = (
                self._allocator.set_wired_limit(device.gpu_bytes),
                self._allocator.set_cache_limit(kept),
            )

    def release(self, device: DeviceInfo) -> None:
        """A model was closed or forgotten."""
        if not device.is_mac:
            return
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                wired, kept = self._before
                self._allocator.set_wired_limit(wired)
                self._allocator.set_cache_limit(kept)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no more memory to give."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


MLX_MEMORY: Final = MemorySettings(cast(Allocator, mx))
