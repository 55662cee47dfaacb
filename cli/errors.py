"""The one place where errors become a line on standard error and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import (
    CheckpointError,
    ConversionError,
    DownloadError,
    FileWriteError,
    GptOssError,
    InvalidRequest,
    ModelNotFound,
    NotEnoughDisk,
    NotEnoughMemory,
)
from .parameters import unconverted

__all__ = [
    "INTERRUPTED",
    "NO_ANSWER",
    "EdgeGroup",
    "error_line",
    "exit_code",
    "is_exit",
    "leave",
    "open_missing_streams",
    "origin",
]

NO_ANSWER = 5
INTERRUPTED = 130

_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidRequest, 2),
    (ModelNotFound, 3),
    (CheckpointError, 3),
    (ConversionError, 3),
    (DownloadError, 3),
    (NotEnoughMemory, 4),
    (NotEnoughDisk, 4),
    (FileWriteError, 4),
    (MemoryError, 4),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code(error: BaseException) -> int:
    """The exit code for ``error``."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def error_line(error: BaseException) -> str:
    """The message of ``error`` in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, GptOssError | OSError):
        return text
    return f"{type(error).__name__}: {text} (this is a bug; GPTOSS_DEBUG=1 shows where)"


def is_exit(error: BaseException) -> bool:
    """Whether ``error`` is one of Typer's own, which have their own message and exit code."""
    return isinstance(error, typer.Abort) or hasattr(error, "exit_code")


def origin(error: BaseException) -> str:
    """The traceback of ``error`` if ``GPTOSS_DEBUG`` is set; else nothing."""
    return "".join(traceback.format_exception(error)) if os.environ.get("GPTOSS_DEBUG") else ""


class EdgeGroup(TyperGroup):
    """The group of all subcommands; reports their errors and turns them into exit codes."""

    def get_params(self, ctx: Any) -> list[Any]:
        return unconverted(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of our output has ended. /dev/null, because Python would fail again when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if is_exit(error):
                raise
            if isinstance(error.__cause__, KeyboardInterrupt):  # MLX turns one into an ImportError while it loads
                raise typer.Exit(INTERRUPTED) from None
            _report(error)
            raise typer.Exit(exit_code(error)) from None
        return result


def open_missing_streams() -> None:
    """Opens /dev/null for each standard stream that was closed when the program began (``<&-``).

    Python has None for such a stream, and a file that is opened later would take its number.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def leave(ended: SystemExit) -> None:
    """End the process.

    A model may still be loading in a thread, and a thread that is inside MLX while the interpreter is torn down
    aborts the process. Everything that needs closing is closed by now, so the teardown is skipped.
    """
    if "mlx.core" not in sys.modules:
        raise ended
    code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _report(error: Exception) -> None:
    from .screen.spans import RED, Span
    from .screen.terminal import Terminal

    terminal = Terminal(sys.stderr)
    terminal.paragraph(Span("error: ", RED), Span(error_line(error)))
    terminal.write(origin(error))
