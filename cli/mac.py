"""What ``gptoss doctor`` checks on a Mac, from facts that tests inject."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

__all__ = ["Finding", "MacFacts", "check_mac"]

Finding = tuple[Literal["ok", "note", "bad"], str, str]
"""The state, what was found, and a remedy or nothing."""

_OLDEST_MACOS = (14, 0)
"""MLX has no wheels for older ones."""
_NEURAL_MACOS = (26, 2)
"""The first macOS, and the first wheel by its major number, with kernels for the neural accelerators."""
_MIN_SPARE_MB = 2048

Version = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MacFacts:
    """A Mac, its Python and its MLX."""

    macos: Version
    python: str
    """The architecture that Python runs as: ``arm64``, or ``x86_64``."""
    translated: bool
    """Whether Python runs under Rosetta."""
    wheel: Version | None
    """The macOS that the installed MLX was built for; None if it did not come as a wheel."""
    gpu: str
    """The GPU's architecture, such as ``applegpu_g17s``; empty if MLX finds no Metal device."""
    memory_mb: int
    wired_limit_mb: int
    """The GPU's limit as set by the user; 0 is the default of the system."""
    low_power: bool

    @classmethod
    def current(cls) -> MacFacts:
        """The Mac that this process runs on."""
        return cls(
            macos=_version(platform.mac_ver()[0]) or (0, 0),
            python=platform.machine(),
            translated=_sysctl("sysctl.proc_translated") == 1,
            wheel=_wheel(),
            gpu=_gpu(),
            memory_mb=_sysctl("hw.memsize") // 2**20,
            wired_limit_mb=_sysctl("iogpu.wired_limit_mb"),
            low_power=re.search(r"lowpowermode\s+1", _output("pmset", "-g")) is not None,
        )


def check_mac(facts: MacFacts) -> Iterator[Finding]:
    """Everything that differs from one Mac to another and matters to MLX."""
    yield from _check_system(facts)
    yield from _check_gpu(facts)
    yield from _check_wired_limit(facts)
    if facts.low_power:
        yield "note", "Low Power Mode is on: answers are slower", "turn it off in System Settings, Battery"


def _check_system(facts: MacFacts) -> Iterator[Finding]:
    if facts.macos < _OLDEST_MACOS:
        yield "bad", f"macOS {_text(facts.macos)} is too old for MLX", "update to macOS 14 or newer"
    if facts.translated:
        yield "bad", "this Python runs under Rosetta", "install a native arm64 Python: MLX needs it for the GPU"
    elif facts.python != "arm64":
        yield "bad", "this Mac has an Intel processor", "MLX needs a Mac with Apple silicon"


def _check_gpu(facts: MacFacts) -> Iterator[Finding]:
    if not facts.gpu:
        yield (
            "bad",
            "MLX finds no Metal device: this is probably a virtual machine without a GPU",
            "run gptoss outside of it, or choose a virtual machine that shares the GPU",
        )
    elif not _has_neural_accelerators(facts.gpu):
        return
    elif facts.macos < _NEURAL_MACOS:
        yield (
            "note",
            f"prompts are read 2 to 4 times slower than this chip can: macOS is {_text(facts.macos)}",
            f"update to macOS {_text(_NEURAL_MACOS)} or newer, then install MLX again",
        )
    elif facts.wheel is not None and facts.wheel < (_NEURAL_MACOS[0], 0):
        yield (
            "note",
            f"prompts are read 2 to 4 times slower than this chip can: MLX is for macOS {_text(facts.wheel)}",
            "pip install --upgrade pip && pip install --force-reinstall --no-deps --no-cache-dir mlx mlx-metal",
        )


def _has_neural_accelerators(gpu: str) -> bool:
    """Whether MLX has kernels for the neural accelerators of this GPU: M5 and A19 have the first that it uses."""
    found = re.fullmatch(r"applegpu_g(\d+)([a-z])", gpu)
    return found is not None and int(found[1]) >= (18 if found[2] == "p" else 17)


def _check_wired_limit(facts: MacFacts) -> Iterator[Finding]:
    if not facts.wired_limit_mb:
        return
    if facts.wired_limit_mb > facts.memory_mb - _MIN_SPARE_MB:
        yield (
            "note",
            f"iogpu.wired_limit_mb is {facts.wired_limit_mb}: it leaves macOS less than 2 GB of memory",
            "sudo sysctl iogpu.wired_limit_mb=0 restores the default",
        )
    else:
        yield "ok", f"iogpu.wired_limit_mb is {facts.wired_limit_mb}, until the next start of macOS", ""


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _version(text: str) -> Version | None:
    found = re.match(r"(\d+)(?:[._](\d+))?", text)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _wheel() -> Version | None:
    """The macOS in the tag of the wheel that holds MLX's Metal kernels."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        tags = metadata.distribution("mlx-metal").read_text("WHEEL") or ""
        found = re.search(r"^Tag: .*-macosx_(\d+_\d+)_", tags, re.MULTILINE)
        return _version(found[1]) if found else None
    return None


def _gpu() -> str:
    import mlx.core as mx

    try:
        return str(mx.device_info().get("architecture", "")) if mx.metal.is_available() else ""
    except RuntimeError:  # in a virtual machine without a GPU
        return ""


def _sysctl(name: str) -> int:
    text = _output("sysctl", "-n", name).strip()
    return int(text) if text.isdigit() else 0


def _output(*command: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    return ""
