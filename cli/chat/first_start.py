"""The model to use when none is named, and the first start. Nothing is downloaded without being asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ModelNotFound
from ..screen.spans import BOLD, CYAN, DIM, GREEN, RED, YELLOW, Row, Span
from ..screen.terminal import Terminal

if TYPE_CHECKING:
    from ...memory.device import DeviceInfo

__all__ = ["choose_model", "offers"]

_HOW = "get it with: gptoss convert 20b; or try the small demonstration model: --model demo"


def choose_model(named: str | None, terminal: Terminal, interactive: bool) -> str:
    """The named model, else the default (see ``hub.models.default_model``), else the one that the user chooses.

    Raises:
        ModelNotFound: there is none, and no terminal to ask in, or the user chose none.
    """
    if named == "demo":  # not looked up, so that the prompt is ready at once
        return named
    if named:
        from ...hub.models import resolve

        resolve(named)
        return named
    from ...hub.models import default_model

    default = default_model()
    if default is not None:
        return default
    if not interactive:
        raise ModelNotFound(f"no model on this machine yet; {_HOW}")
    return _ask(terminal)


def _ask(terminal: Terminal) -> str:
    """Say which models there are and what they need; the user chooses."""
    from ...memory.device import DeviceInfo

    terminal.paragraph(Span("No gpt-oss model is on this machine yet.", BOLD))
    terminal.line()
    for row in offers(DeviceInfo.current()):
        terminal.paragraph(*row)
    terminal.line()
    terminal.paragraph(Span("download gpt-oss-20b and convert it now"), mark=Span("1  ", CYAN))
    terminal.paragraph(Span("try the demonstration model that comes with this program"), mark=Span("2  ", CYAN))
    terminal.paragraph(Span("leave"), mark=Span("q  ", CYAN))
    terminal.line()
    while True:
        choice = _read_choice()
        if choice == "1":
            return _convert(terminal)
        if choice == "2":
            return "demo"
        if choice in ("q", ""):
            raise ModelNotFound(f"no model was chosen; {_HOW}")
        terminal.line("please type 1, 2 or q", DIM)


def offers(device: DeviceInfo) -> list[Row]:
    """The released models: their sizes, and whether they fit the machine or what would make them fit."""
    from ...config import RELEASED
    from ...files.units import format_bytes
    from ...memory.precision import choose_precision
    from ...memory.sizes import weight_bytes

    rows: list[Row] = []
    for name, config in RELEASED.items():
        budget = choose_precision(config, device).budget
        download = format_bytes(weight_bytes(config, "bf16"))
        sizes = f"{download:>8} to download   {format_bytes(budget.needed_bytes()):>8} of memory   "
        verdict = Span("fits", GREEN) if budget.fits else Span("does not fit", RED)
        rows.append((Span(f"gpt-oss-{name:<5}"), Span(sizes), verdict))
        if budget.wired_limit_command is not None:
            rows.append((Span("it fits after: "), Span(budget.wired_limit_command, YELLOW)))
    rows.append((Span(f"Models may use {format_bytes(device.gpu_bytes)} of this machine's memory.", DIM),))
    return rows


def _read_choice() -> str:
    from prompt_toolkit import prompt

    try:
        return prompt("Your choice [1/2/q]: ").strip().lower()
    except EOFError:
        return "q"


def _convert(terminal: Terminal) -> str:
    """Download and convert the 20b, as ``gptoss convert 20b`` does."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "gptoss_mlx.cli", "convert", "20b"]
    if subprocess.run(command, check=False).returncode != 0:
        raise ModelNotFound("the conversion did not finish; run it again: gptoss convert 20b")
    terminal.line()
    return "20b"
