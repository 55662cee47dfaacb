"""Which model to use when none is named, and what a first start says. Nothing is downloaded unasked."""

from __future__ import annotations

from ..errors import ModelNotFound
from .spans import BOLD, CYAN, DIM, Span, wrap
from .terminal import Terminal

__all__ = ["choose_model"]

_HOW = "get it with: gptoss convert 20b; or try the small demonstration model: --model demo"


def choose_model(named: str | None, terminal: Terminal, interactive: bool) -> str:
    """The model that was named, else the converted one used last, else what the user answers.

    Raises:
        ModelNotFound: there is none, and nobody to ask or nothing chosen.
    """
    if named == "demo":  # without looking: the prompt should be up at once
        return named
    if named:
        from ..hub import resolve

        resolve(named)
        return named
    from ..hub import list_models

    converted = [model.name for model in list_models() if model.converted]
    if converted:
        return converted[0]
    if not interactive:
        raise ModelNotFound(f"no model on this machine yet; {_HOW}")
    return _ask(terminal)


def _ask(terminal: Terminal) -> str:
    """Say what is missing and what it would take; the user chooses."""
    terminal.line("No gpt-oss model is on this machine yet.", BOLD)
    terminal.line()
    for line in _offers():
        rows = wrap((Span(line),), max(terminal.width - 5, 10))
        terminal.rows([(Span("  " if row is rows[0] else "    "), *row.row) for row in rows])
    terminal.line()
    terminal.rows(
        [
            (Span("  1  ", CYAN), Span("download and convert gpt-oss-20b now")),
            (Span("  2  ", CYAN), Span("try the demonstration model that comes with this program")),
            (Span("  q  ", CYAN), Span("leave")),
        ]
    )
    while True:
        choice = _read_choice()
        if choice == "1":
            return _convert(terminal)
        if choice == "2":
            return "demo"
        if choice in ("q", ""):
            raise ModelNotFound(f"no model was chosen; {_HOW}")
        terminal.line("1, 2 or q", DIM)


def _offers() -> list[str]:
    """One line a released model: its size, and whether this machine holds it."""
    from ..fit import KNOWN, DeviceInfo, choose_precision, weight_bytes

    device = DeviceInfo.current()
    lines = []
    for name, config in KNOWN.items():
        choice = choose_precision(config, device)
        download = weight_bytes(config, "bf16") / 1e9
        lines.append(f"gpt-oss-{name}: {download:.1f} GB to download; {choice.reason}")
        if choice.fit.remedy and not choice.fit.fits:
            lines.append(f"It fits after: {choice.fit.remedy}")
    return lines


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
        raise ModelNotFound("the conversion did not finish; gptoss convert 20b takes it up again")
    terminal.line()
    return "20b"
