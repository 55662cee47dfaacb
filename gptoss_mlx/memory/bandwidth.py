"""The bandwidth of this machine's memory, which bounds the speed of decoding.

Apple states it for every chip; on other machines it is measured by copying. Knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import mlx.core as mx

__all__ = ["CHIPS", "Bandwidth", "copy_bandwidth", "memory_bandwidth", "stated_bandwidth"]

CHIPS: Mapping[str, int] = MappingProxyType(
    {
        "M1": 68,
        "M1 Pro": 200,
        "M1 Max": 400,
        "M1 Ultra": 800,
        "M2": 100,
        "M2 Pro": 200,
        "M2 Max": 400,
        "M2 Ultra": 800,
        "M3": 100,
        "M3 Pro": 150,
        "M3 Max": 400,
        "M3 Ultra": 819,
        "M4": 120,
        "M4 Pro": 273,
        "M4 Max": 546,
        "M5": 153,
        "M5 Pro": 307,
        "M5 Max": 614,
    }
)
"""GB/s by chip, from Apple's specifications of the Macs that have it (for the M5 Pro and Max, from press reports
of the announcement). Where a chip is sold with two bandwidths, the larger: no share of it is overstated."""

_COPY_BYTES = 256 * 2**20  # far beyond any cache
_COPIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """The bandwidth of a machine's memory."""

    bytes_per_second: float
    source: str
    """The origin of the figure, for the user."""


def stated_bandwidth(device_name: str) -> float | None:
    """Bytes a second of one of Apple's chips; None for any other chip."""
    gigabytes = CHIPS.get(device_name.removeprefix("Apple").strip())
    return gigabytes * 1e9 if gigabytes is not None else None


def memory_bandwidth(device_name: str) -> Bandwidth:
    """The bandwidth that Apple states for a chip; on any other machine, the one that copying reaches."""
    stated = stated_bandwidth(device_name)
    if stated is not None:
        return Bandwidth(bytes_per_second=stated, source="stated by Apple")
    return Bandwidth(bytes_per_second=copy_bandwidth(), source="measured by copying")


def copy_bandwidth(nbytes: int = _COPY_BYTES) -> float:
    """Bytes read and written a second while MLX copies an array on its default device; the best of five copies."""
    source = mx.ones((nbytes // 4,), dtype=mx.float32)
    mx.eval(source)
    best = float("inf")
    for _ in range(_COPIES):
        began = time.perf_counter()
        mx.eval(mx.negative(source))
        best = min(best, time.perf_counter() - began)
    return 2 * source.nbytes / best
