"""The edge of the command line: the one place where errors become a line on standard error and an exit code."""

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
    "EdgeGroup",
    "error_line",
    "exit_code",
    "is_exit",
    "leave",
    "open_missing_streams",
    "origin",
]

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
    """The exit code that stands for ``error``."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def error_line(error: BaseException) -> str:
    """``error`` in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, GptOssError | OSError):
        return text
    return f"{type(error).__name__}: {text} (this is a bug; GPTOSS_DEBUG=1 shows where)"


def is_exit(error: BaseException) -> bool:
    """Whether ``error`` is one of Typer's own, which carry their message and exit code."""
    return isinstance(error, typer.Abort) or hasattr(error, "exit_code")


def origin(error: BaseException) -> str:
    """Where ``error`` came from, if ``GPTOSS_DEBUG`` asks for it; else nothing."""
    return "".join(traceback.format_exception(error)) if os.environ.get("GPTOSS_DEBUG") else ""


class EdgeGroup(TyperGroup):
    """The group of all subcommands: whatever one raises is reported here and becomes an exit code."""

    def get_params(self, ctx: Any) -> list[Any]:
        return unconverted(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our output has what was wanted. Python would complain again while closing it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if is_exit(error):
                raise
            if isinstance(error.__cause__, KeyboardInterrupt):  # MLX makes an ImportError of one while it loads
                raise typer.Exit(INTERRUPTED) from None
            _report(error)
            raise typer.Exit(exit_code(error)) from None
        return result


def open_missing_streams() -> None:
    """Python has None for a standard stream that was closed when the program began (``<&-``): nothing is read or
    written there, as with /dev/null. Also no file that is opened later takes its number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def leave(ended: SystemExit) -> None:
    """End the process.

    A model may still be loading in a thread, and a thread inside MLX when the interpreter is torn down aborts
    the process with a message of its own. What needs closing is closed by now: the rest of the teardown is
    skipped.
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
