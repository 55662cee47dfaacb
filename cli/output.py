"""What commands print that read and write files: lines, tables, JSON, and bars while they do.

Results go to stdout, bars and remarks to stderr.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .screen.spans import Span
from .screen.terminal import Terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["print_json", "print_table", "progress_bars", "remark", "say", "stage", "warnings_as_remarks"]


def say(text: str, *, err: bool = False) -> None:
    """Prints one line, without the control characters that names of files may hold."""
    Terminal(sys.stderr if err else sys.stdout).line(text)


def remark(text: str) -> None:
    """The same on stderr."""
    say(text, err=True)


def print_json(content: dict[str, Any]) -> None:
    """Prints a result for programs."""
    say(json.dumps(content, indent=2))


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Prints two columns. Paths are never cut, so that they can be copied; sentences are, between words."""
    say(title)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        if " " in value and "/" not in value:
            Terminal(sys.stdout).paragraph(Span(value), mark=Span(f"  {name:<{width}}  "))
        else:
            say(f"  {name:<{width}}  {value}")


@contextlib.contextmanager
def warnings_as_remarks() -> Iterator[None]:
    """The library's warnings (a download that is tried again) as remarks."""

    class Remarks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            remark(record.getMessage())

    logger, handler = logging.getLogger("gptoss_mlx"), Remarks(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """Bars on stderr; None where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def stage(bars: Progress | None, description: str) -> Callable[[int, int], None]:
    """A bar that appears with its first bytes; without a terminal, no bar."""
    task: TaskID | None = None

    def advance(done: int, total: int) -> None:
        nonlocal task
        if bars is None:
            return
        if task is None:
            task = bars.add_task(description, total=total)
        bars.update(task, completed=done, total=total)

    return advance
