"""``gptoss doctor``, ``--version`` and ``config``: what this installation is, and whether it works."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import typer

from ..files.units import format_bytes
from .screen.spans import DIM, GREEN, RED, YELLOW, Span
from .screen.terminal import Terminal
from .settings import config_path, data_path, explain_settings

__all__ = ["examine", "show_config", "show_config_path", "show_version"]

_MARKS = {"ok": Span("✓ ", GREEN), "note": Span("· ", YELLOW), "bad": Span("✗ ", RED)}

Finding = tuple[str, str, str]
"""State (ok, note or bad), text, and a remedy, which may be empty."""


def show_version() -> None:
    """This program, MLX, and the device they run on."""
    from ..memory.device import DeviceInfo

    version, mlx = metadata.version("gptoss-mlx"), metadata.version("mlx")
    Terminal(sys.stdout).line(f"gptoss {version} · mlx {mlx} · {_device()} ({DeviceInfo.current().name})")


def show_config_path() -> None:
    """Where the settings file is, or would be."""
    Terminal(sys.stdout).line(str(config_path()))


def show_config() -> None:
    """Every setting as TOML, with its source as a comment."""
    terminal = Terminal(sys.stdout)
    for name, value, source in explain_settings():
        shown = "unset" if value is None else f'"{value}"' if isinstance(value, str) else str(value)
        comment = "# " if value is None else ""
        terminal.rows([(Span(f"{comment}{name} = {shown}"), Span(f"  # {source}", DIM))])


def examine() -> None:
    """Print every finding; exit code 1 if something must be repaired."""
    terminal = Terminal(sys.stdout)
    bad = 0
    for check in (_versions, _machine, _models, _places, _self_test):
        for state, text, remedy in check():
            bad += state == "bad"
            terminal.paragraph(_MARKS[state], Span(text))
            if remedy:
                terminal.paragraph(Span(f"  {remedy}", DIM))
    if bad:
        raise typer.Exit(1)


def _device() -> str:
    import mlx.core as mx

    return "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


def _versions() -> Iterator[Finding]:
    names = ("gptoss-mlx", "mlx", "mlx-lm", "huggingface_hub", "typer", "prompt_toolkit")
    yield "ok", ", ".join(f"{name} {metadata.version(name)}" for name in names), ""
    yield "ok", f"Python {platform.python_version()} on {platform.platform()}", ""
    if sys.platform == "darwin" and platform.machine() != "arm64":
        yield "bad", "this Python runs under Rosetta", "install a native arm64 Python: MLX needs it for the GPU"


def _machine() -> Iterator[Finding]:
    from ..config import RELEASED
    from ..memory.device import DeviceInfo
    from ..memory.precision import choose_precision

    device = DeviceInfo.current()
    memory = f"{format_bytes(device.memory_bytes)} of memory, {format_bytes(device.gpu_bytes)} of it for models"
    yield "ok", f"{device.name}: {memory}", ""
    if _device() == "cpu":
        yield "note", "MLX runs on the CPU", "on Apple silicon it would use the GPU" if not device.is_mac else ""
    for name, config in RELEASED.items():
        choice = choose_precision(config, device)
        state, verdict = ("ok", "fits") if choice.budget.fits else ("note", "does not fit")
        command = choice.budget.wired_limit_command
        yield state, f"{name} {verdict}: {choice.reason}", f"it fits after: {command}" if command else ""


def _models() -> Iterator[Finding]:
    from ..hub.models import list_converted

    converted = list_converted()
    if converted:
        yield "ok", f"converted models: {', '.join(model.name for model in converted)}", ""
    else:
        yield "note", "no model but the demo", "gptoss convert 20b gets one"


def _places() -> Iterator[Finding]:
    from huggingface_hub import constants

    from ..hub.models import data_directory

    places = {
        "models": data_directory(),
        "chats": data_path("chats"),
        "settings": config_path(),
        "Hub cache": Path(constants.HF_HUB_CACHE),
    }
    for name, path in places.items():
        there = next(place for place in (path, *path.parents) if place.exists())
        if os.access(there, os.W_OK):
            yield "ok", f"{name}: {path}{'' if path.exists() else ' (not there yet)'}", ""
        else:
            yield "bad", f"{name}: {path}: no permission to write in {there}", "make it writable for you"
    try:
        explain_settings()
    except Exception as error:
        yield "bad", str(error), "correct that setting"


def _self_test() -> Iterator[Finding]:
    """The demo model answers a question; whatever goes wrong is a finding, not a crash."""
    began = time.monotonic()
    try:
        from .. import load
        from ..sampling import SamplingParams

        with load("demo") as model:
            reply = model.ask("Hello", effort="low", sampling=SamplingParams(temperature=0, max_tokens=64))
    except Exception as error:
        yield (
            "bad",
            f"self-test: {type(error).__name__}: {error}",
            "install gptoss-mlx again",
        )
        return
    seconds = time.monotonic() - began
    if reply.usage.completion_tokens == 0:
        yield (
            "bad",
            "self-test: the demo model said nothing",
            "install gptoss-mlx again",
        )
        return
    yield "ok", f"self-test: the demo model gave {reply.usage.completion_tokens} tokens in {seconds:.1f} s", ""
