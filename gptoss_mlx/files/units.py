"""Numbers of bytes in words. Every size that a user reads is written here."""

from __future__ import annotations

__all__ = ["format_bytes"]


def format_bytes(count: float) -> str:
    """A size in decimal units, as disks and downloads are counted: one decimal, two below ten.

    Example:
        >>> [format_bytes(count) for count in (13_761_264_768, 3.71e9, 512e6, 2**20, 0)]
        ['13.8 GB', '3.71 GB', '512.0 MB', '1.05 MB', '0 bytes']
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            # 9.996 has two decimals as 10.00 and one as 10.0.
            return f"{value:.2f} {unit}" if value < 9.995 else f"{value:.1f} {unit}"
    return f"{count:.0f} bytes"
