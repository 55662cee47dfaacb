"""``gptoss doctor``, ``--version`` and ``config``: this installation, and whether it works."""

from __future__ import annotations

import difflib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InvalidRequest
from ..files.read import short_repr
from ..files.units import format_bytes
from ..files.write import write_text
from .mac import Finding, MacFacts, check_mac
from .screen.spans import DIM, GREEN, RED, YELLOW, Span
from .screen.terminal import Terminal
from .settings import DEFAULTS, as_setting, config_path, data_path, explain_settings, toml_line, write_setting

if TYPE_CHECKING:
    from ..benchmark.agreement import Agreement

__all__ = ["change_config", "examine", "show_config", "show_config_path", "show_version"]

_MARKS = {"ok": Span("✓ ", GREEN), "note": Span("· ", YELLOW), "bad": Span("✗ ", RED)}

_DISTRIBUTIONS = ("gptoss-mlx", "mlx", "mlx-lm", "huggingface_hub", "typer", "prompt_toolkit")
_REINSTALL = "install gptoss-mlx again"
_INSTALL_CUDA = (
    "pip install 'gptoss-mlx[cuda]' && pip uninstall -y mlx-cpu && "
    "pip install --force-reinstall --no-deps mlx-cuda-13"
)
"""MLX's two backends for Linux own the same file, so the CPU's has to go."""
_SLOW_GIGAFLOPS = 15
"""Of the products of the reference BLAS, which MLX's wheel for Linux brings, or of a very old processor."""
_INSTALL_BLAS = (
    "OpenBLAS reads prompts up to twice as fast: sudo apt install libopenblas0, then begin your commands with "
    "LD_PRELOAD=libopenblas.so.0"
)


def show_version() -> None:
    """Prints the versions of this program and MLX, and the device."""
    from ..memory.device import DeviceInfo

    version, mlx = metadata.version("gptoss-mlx"), metadata.version("mlx")
    Terminal(sys.stdout).line(f"gptoss {version} · mlx {mlx} · {_device()} ({DeviceInfo.current().name})")


def show_config_path() -> None:
    """Prints the path of the settings file, which may not exist."""
    Terminal(sys.stdout).line(str(config_path()))


def show_config() -> None:
    """Prints every setting as TOML, with its source as a comment."""
    terminal = Terminal(sys.stdout)
    for setting in explain_settings():
        _show_setting(*setting, terminal)


def _show_setting(name: str, value: Any, source: str, terminal: Terminal) -> None:
    line = f"# {name} = unset" if value is None else toml_line(name, value)
    terminal.rows([(Span(line), Span(f"  # {source}", DIM))])


def change_config(key: str, text: str | None) -> None:
    """Writes a setting into the settings file and prints its line; None removes it.

    Raises:
        InvalidRequest: there is no such setting, or it cannot have that value.
    """
    name = key.replace("-", "_").lower()
    if name not in DEFAULTS:
        near = difflib.get_close_matches(name, DEFAULTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DEFAULTS)}"
        raise InvalidRequest(f"{short_repr(key)}: no such setting; {hint}")
    path = write_setting(name, None if text is None else as_setting(name, text, name))
    terminal = Terminal(sys.stdout)
    shown = next(entry for entry in explain_settings() if entry[0] == name)
    _show_setting(*shown, terminal)
    if shown[2] not in (str(path), "default"):
        terminal.line(f"{shown[2]} is set, and overrides {path}", YELLOW)


def examine(*, full: bool = False, report: Path | None = None) -> None:
    """Checks this installation and machine; exit code 1 if something is wrong.

    Args:
        full: whether to compute layers of the real widths too, which takes minutes.
        report: a file to write for an issue, as JSON: versions, machine and figures, without paths or names.
    """
    terminal = Terminal(sys.stdout)
    agreements: list[Agreement] = []
    checks = (
        _versions,
        _machine,
        _models,
        _directories,
        _self_test,
        lambda: _agreement(agreements, full=full),
    )
    bad = 0
    for check in checks:
        for state, text, remedy in check():
            bad += state == "bad"
            terminal.paragraph(Span(text), mark=_MARKS[state])
            if remedy:
                terminal.paragraph(Span(remedy, DIM), mark=Span("  "))
    if report is not None:
        write_text(report, json.dumps(_report(agreements), indent=2) + "\n")
        terminal.line(f"wrote {report}; it contains no paths or names")
    if bad:
        raise typer.Exit(1)


def _device() -> str:
    import mlx.core as mx

    return "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


def _versions() -> Iterator[Finding]:
    yield "ok", ", ".join(f"{name} {metadata.version(name)}" for name in _DISTRIBUTIONS), ""
    yield "ok", f"Python {platform.python_version()} on {platform.platform()}", ""
    if sys.platform == "darwin":
        yield from check_mac(MacFacts.current())


def _machine() -> Iterator[Finding]:
    from ..config import RELEASED
    from ..memory.device import DeviceInfo
    from ..memory.precision import choose_precision

    device = DeviceInfo.current()
    memory = f"{format_bytes(device.memory_bytes)} of memory, {format_bytes(device.gpu_bytes)} of it for models"
    yield "ok", f"{device.name}: {memory}", ""
    if _device() == "cpu" and not device.is_mac:
        yield "note", "MLX runs on the CPU", f"with an NVIDIA card: {_INSTALL_CUDA}"
        if (speed := _gigaflops()) < _SLOW_GIGAFLOPS:
            yield "note", f"MLX multiplies slowly here: {speed:.0f} GFLOPS in float32", _INSTALL_BLAS
    for name, config in RELEASED.items():
        choice = choose_precision(config, device)
        command = choice.budget.wired_limit_command
        if choice.budget.fits:
            yield "ok", f"{name} fits: {choice.reason}", ""
        else:
            yield "note", f"{name} does not fit: {choice.reason}", f"it fits after: {command}" if command else ""


def _gigaflops(size: int = 512) -> float:
    """Floating-point operations a second of a float32 product, in 10⁹: the best of three."""
    import mlx.core as mx

    matrix, seconds = mx.ones((size, size)), []
    mx.eval(matrix)
    for _ in range(3):
        began = time.perf_counter()
        mx.eval(matrix @ matrix)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e9


def _models() -> Iterator[Finding]:
    from ..hub.models import list_converted

    converted = list_converted()
    if converted:
        yield "ok", f"converted models: {', '.join(model.name for model in converted)}", ""
    else:
        yield "note", "no model but the demo", "gptoss convert 20b gets one"


def _directories() -> Iterator[Finding]:
    from huggingface_hub import constants

    from ..hub.models import data_directory

    directories = {
        "models": data_directory(),
        "chats": data_path("chats"),
        "settings": config_path(),
        "Hub cache": Path(constants.HF_HUB_CACHE),
    }
    for name, path in directories.items():
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        if os.access(existing, os.W_OK):
            yield "ok", f"{name}: {path}{'' if path.exists() else ' (does not exist yet)'}", ""
        else:
            yield (
                "bad",
                f"{name}: {path}: no permission to write in {existing}",
                "give yourself permission to write",
            )
    try:
        explain_settings()
    except Exception as error:
        yield "bad", str(error), "fix it in that file"


def _self_test() -> Iterator[Finding]:
    """Asks the demo model a question; reports any error as a finding."""
    began = time.monotonic()
    try:
        from .. import load
        from ..sampling import SamplingParams

        with load("demo") as model:
            reply = model.ask("Hello", effort="low", sampling=SamplingParams(temperature=0, max_tokens=64))
        tokens = reply.usage.completion_tokens
    except Exception as error:
        yield "bad", f"self-test: {type(error).__name__}: {error}", _REINSTALL
        return
    if tokens:
        yield "ok", f"self-test: the demo model answered {tokens} tokens in {time.monotonic() - began:.1f} s", ""
    else:
        yield "bad", "self-test: the demo model answered nothing", _REINSTALL


def _agreement(agreements: list[Agreement], *, full: bool) -> Iterator[Finding]:
    """Compares the logits of this device with a reference, and adds the results to ``agreements``.

    On a CPU alone real widths would say nothing: with q8 its bfloat16 is 34 % away from its float32.
    """
    from ..benchmark.agreement import runs

    run, reference = runs()
    two_devices = run.device != reference.device
    if two_devices:
        yield "ok", f"the next lines compare {run.name} with {reference.name}", ""
    else:
        yield "note", f"the next lines compare {run.name} with {reference.name}: there is no other device", ""
    if full and not two_devices:
        yield "note", "real widths: skipped, because MLX's CPU backend rounds every partial sum to bfloat16", ""
    try:
        for measured in _measured(full=full and two_devices):
            results = list(measured)
            agreements += results
            yield _judged(results)
    except Exception as error:
        yield "bad", f"logits: {type(error).__name__}: {error}", _REINSTALL


def _measured(*, full: bool) -> Iterator[Iterator[Agreement]]:
    """The comparisons of the demo in three forms; with ``full`` those of two layers of the real widths too."""
    from ..benchmark.agreement import measure_demo, measure_widths
    from ..convert import convert_checkpoint
    from ..hub.models import DEMO, resolve

    demo = resolve(DEMO)
    yield measure_demo("demo, bf16", demo)
    with tempfile.TemporaryDirectory() as directory:
        yield measure_demo("demo, q8", convert_checkpoint(demo, Path(directory) / "q8", dense="q8").destination)
    yield measure_demo("demo, kv_bits 8", demo, kv_bits=8)
    if full:
        yield measure_widths("real widths, bf16", "bf16")
        yield measure_widths("real widths, q8", "q8")
        yield measure_widths("real widths, kv_bits 8", "bf16", kv_bits=8)


def _judged(results: Sequence[Agreement]) -> Finding:
    """One finding for a model: how far its logits are from the reference, and what that changes."""
    from ..benchmark.agreement import MAX_LARGEST, MAX_RELATIVE

    worst = max(results, key=lambda result: (not result.ok, result.largest / result.largest_logit))
    share = worst.largest / worst.largest_logit
    relative = max(result.relative for result in results)
    parted = sum(len(result.partings) for result in results)
    text = (
        f"{worst.case}: logits differ by {relative:.1%} (limit {MAX_RELATIVE:.0%}), "
        f"one by {share:.0%} (limit {MAX_LARGEST:.0%})"
    )
    words = f"the likeliest token is another at {parted} of {sum(result.positions for result in results)} places"
    if all(result.ok for result in results):
        return "ok", text, f"{words}, as rounding does" if parted else ""
    places = ", ".join(f"{result.partings[0]} of prompt {result.prefill}" for result in results if result.partings)
    first = f"{words}, first at {places}; " if places else ""
    update = "macOS and MLX" if sys.platform == "darwin" else "MLX"
    remedy = f"this machine computes wrong results; update {update}, then report it with --report FILE"
    return "bad", text, first + remedy


def _report(agreements: Sequence[Agreement]) -> dict[str, Any]:
    """Versions, machine and figures as plain data, without paths or names."""
    from .bench import measure_demo_quickly

    return {
        "version": 1,
        "versions": {name: metadata.version(name) for name in _DISTRIBUTIONS},
        "mac": asdict(MacFacts.current()) if sys.platform == "darwin" else None,
        "agreement": [asdict(agreement) | {"ok": agreement.ok} for agreement in agreements],
        "bench": measure_demo_quickly(),
    }
