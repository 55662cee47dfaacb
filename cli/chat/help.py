"""What ``/help`` says of the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..screen.spans import CYAN, DIM, Row, Span, row_width, wrap

if TYPE_CHECKING:
    from .commands import Command

__all__ = ["KEYS", "MORE", "help_rows"]

KEYS = """Enter sends; Ctrl-J, Alt-Enter or a block in three quotes makes lines.
Ctrl-R searches what you asked before; Ctrl-X Ctrl-E opens $EDITOR.
Ctrl-T shows or hides thinking; Ctrl-C stops an answer; Ctrl-D leaves.
Paths with spaces stand in quotes. /help and a command tells more of it."""

MORE = {
    "effort": "It stands before all else that the model reads: after a change it reads the whole chat again.",
    "think": (
        "show writes it out, dim does so in grey, collapse shows it while it lasts, hide not at all. "
        "It is not trained to the safety standard of answers."
    ),
    "system": "After a change the model reads the whole chat again.",
    "retry": "An effort given here holds from now on.",
    "edit": "Without a text, the last question is put into the prompt to be changed.",
    "undo": "With a number, so many turns.",
    "file": "UTF-8 text, at most 4 MB each. Without a path, which files wait; /file clear sends none of them.",
    "copy": "With the system's own tool, or through the terminal (OSC 52).",
    "save": "/save! PATH also writes over a file that is already there.",
    "load": "Without a name, the last one. A part of its name is enough; so is the path of a chat's file.",
    "export": (
        "Markdown has questions and answers; JSON has everything, as saved chats do. "
        "/export! PATH also writes over a file that is already there."
    ),
    "fork": "The chat so far stays saved under its own name.",
    "compare": "Without a question, the last one. The chat itself stays as it is.",
    "trace": "Analysis is dropped once its turn is over, as gpt-oss was trained. What is cached costs nothing.",
    "model": "The conversation stays. Without a name, the models on this disk.",
}
"""What /help and the command say beyond its summary."""

_NARROWEST_SUMMARY = 24


def help_rows(commands: list[Command], width: int) -> list[Row]:
    """Usage and summary beside each other; below each other where the window is too narrow for that."""
    column = max(len(f"/{command.name} {command.usage}") for command in commands) + 2
    beside = width - 1 - column >= _NARROWEST_SUMMARY
    rows: list[Row] = []
    for command in commands:
        usage = (Span(f"/{command.name}", CYAN), Span(f" {command.usage}", DIM))
        summary = wrap((Span(command.summary),), width - 1 - column if beside else max(width - 5, 10))
        if beside:
            margins = [*usage, Span(" " * (column - row_width(usage)))], [Span(" " * column)]
            rows += [(*margins[number > 0], *wrapped.row) for number, wrapped in enumerate(summary)]
        else:
            rows += [usage, *((Span("    "), *wrapped.row) for wrapped in summary)]
    return rows
