"""The machine: how much memory it has, how much of that the GPU may use, and how to raise this limit.

Knows nothing of models.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["DeviceInfo", "wired_limit_command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """What matters of a machine."""

    name: str
    memory_bytes: int
    """Of the whole machine."""
    gpu_bytes: int
    """How much of it the GPU may use: on a Mac two thirds to three quarters unless raised."""
    is_mac: bool = False

    @classmethod
    def current(cls) -> DeviceInfo:
        """The machine this runs on."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        info = _mlx_device_info()
        return cls(
            name=str(info.get("device_name") or info.get("architecture") or "this machine"),
            memory_bytes=int(info.get("memory_size", memory)),
            gpu_bytes=int(info.get("max_recommended_working_set_size", memory)),
            is_mac=sys.platform == "darwin",
        )


def _mlx_device_info() -> dict[str, Any]:
    import mlx.core as mx

    return dict(mx.device_info()) if mx.metal.is_available() else {}


def wired_limit_command(device: DeviceInfo, needed_bytes: int) -> str | None:
    """The command that lets a Mac's GPU use so much; None if the machine does not have it to give."""
    spare = max(3 * 10**9, device.memory_bytes // 8)
    if not device.is_mac or needed_bytes > device.memory_bytes - spare:
        return None
    return f"sudo sysctl iogpu.wired_limit_mb={math.ceil(needed_bytes / 2**20 / 256) * 256}"
