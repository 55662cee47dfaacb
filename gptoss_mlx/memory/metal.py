"""The memory settings of a Mac while models are loaded.

Wired memory is never paged out or compressed: without it, weights that were not used for a second may have to be
read again, and the first token after a pause waits for them. The settings belong to the process, not to a model:
loading the first model makes them, closing the last one restores the earlier values.
"""

from __future__ import annotations

import threading
import traceback
from typing import Final, Protocol, cast

import mlx.core as mx

from ..errors import NotEnoughMemory
from .device import DeviceInfo

__all__ = ["MLX_MEMORY", "Allocator", "MemorySettings", "clear_frames", "is_out_of_memory"]

_CACHE_SHARE: Final = 16
_MAX_CACHE_BYTES: Final = 2**31


# Out of memory, in the words of MLX's allocator, of Metal's command buffers and of CUDA.
_OUT_OF_MEMORY: Final = ("malloc", "insufficient memory", "out of memory", "outofmemory", "unable to allocate")


class Allocator(Protocol):
    """The part of MLX's memory management that is used here; ``mlx.core`` has it."""

    def set_wired_limit(self, limit: int, /) -> int:
        """Sets how many bytes may be wired; returns the value before."""

    def set_cache_limit(self, limit: int, /) -> int:
        """Sets how many freed bytes are kept for reuse; returns the value before."""


class MemorySettings:
    """Keeps the settings from :meth:`hold` to :meth:`release`, for any number of models.

    Args:
        allocator: the memory management to set.
    """

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._lock = threading.RLock()  # the garbage collector may release one model while another is loaded
        self._holders = 0
        self._before = (0, 0)

    def hold(self, device: DeviceInfo) -> None:
        """Called before a model is loaded. On other machines than Macs it does nothing."""
        if not device.is_mac:
            return
        with self._lock:
            self._holders += 1
            if self._holders > 1:
                return
            # Freed buffers are kept for the next step, within a bound: the memory is needed by those in use.
            kept = min(_MAX_CACHE_BYTES, device.gpu_bytes // _CACHE_SHARE)
            self._before = (
                self._allocator.set_wired_limit(device.gpu_bytes),
                self._allocator.set_cache_limit(kept),
            )

    def release(self, device: DeviceInfo) -> None:
        """Called after a model was closed or collected."""
        if not device.is_mac:
            return
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                wired, kept = self._before
                self._allocator.set_wired_limit(wired)
                self._allocator.set_cache_limit(kept)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device has no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def clear_frames(error: BaseException) -> None:
    """Lets go of the arrays that the functions hold in which the memory ran out: it is free while the error is
    handled. Other errors keep their frames, for debuggers."""
    if isinstance(error, NotEnoughMemory):
        for part in filter(None, (error, error.__cause__)):
            traceback.clear_frames(part.__traceback__)


MLX_MEMORY: Final = MemorySettings(cast(Allocator, mx))
