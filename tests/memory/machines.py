"""Machines to ask about: every memory size that Apple sells with its chips, and a PC."""

from __future__ import annotations

from gptoss_mlx.memory.device import DeviceInfo

__all__ = ["MACS", "mac", "pc"]

MACS = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
"""In GiB."""


def mac(memory: int) -> DeviceInfo:
    """A Mac as macOS divides its memory: the GPU may use two thirds of it up to 36 GiB, three quarters above."""
    nbytes = memory * 2**30
    return DeviceInfo(
        name=f"Mac {memory}",
        memory_bytes=nbytes,
        gpu_bytes=nbytes * 3 // 4 if memory > 36 else nbytes * 2 // 3,
        is_mac=True,
    )


def pc(memory: int) -> DeviceInfo:
    """A machine without a limit of its own for models."""
    return DeviceInfo(name="PC", memory_bytes=memory * 2**30, gpu_bytes=memory * 2**30)
