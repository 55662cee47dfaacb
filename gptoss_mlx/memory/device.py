"""The machine: how much memory it has, how much of that the GPU may use, and how to raise this limit.

Knows nothing of models.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["DeviceInfo", "wired_limit_command"]

_MIB: Final = 2**20
_LIMIT_STEP: Final = 256 * _MIB
_MIN_SPARE: Final = 3 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """The facts about a machine that decide whether a model fits."""

    name: str
    memory_bytes: int
    """All memory of the machine, or of the graphics card that has its own."""
    gpu_bytes: int
    """The part that the GPU may use: on a Mac two thirds to three quarters, unless the limit was raised."""
    is_mac: bool = False

    @classmethod
    def current(cls) -> DeviceInfo:
        """The machine that this process runs on."""
        info = _mlx_device_info()
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = int(info.get("memory_size") or info.get("total_memory") or installed)
        return cls(
            name=str(info.get("device_name") or info.get("architecture") or "this machine"),
            memory_bytes=memory,
            gpu_bytes=int(info.get("max_recommended_working_set_size") or memory),
            is_mac=sys.platform == "darwin",
        )

    def with_raised_limit(self, needed_bytes: int) -> DeviceInfo | None:
        """A Mac after its GPU's limit was raised to at least ``needed_bytes``.

        An eighth of the memory, at least 3 GB, stays with everything else.

        Returns:
            None if the machine is not a Mac or has too little memory.
        """
        spare = max(_MIN_SPARE, self.memory_bytes // 8)
        if not self.is_mac or needed_bytes > self.memory_bytes - spare:
            return None
        return dataclasses.replace(self, gpu_bytes=math.ceil(needed_bytes / _LIMIT_STEP) * _LIMIT_STEP)


def wired_limit_command(device: DeviceInfo) -> str:
    """The command that gives a Mac's GPU the limit that ``device`` has."""
    return f"sudo sysctl iogpu.wired_limit_mb={device.gpu_bytes // _MIB}"


def _mlx_device_info() -> dict[str, Any]:
    """MLX's description of the GPU; empty without one."""
    import mlx.core as mx

    if not (mx.metal.is_available() or mx.cuda.is_available()):
        return {}
    try:
        return dict(mx.device_info(mx.gpu))
    except RuntimeError:  # a headless virtual machine has Metal and no device
        return {}
