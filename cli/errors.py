"""The one place where errors become a line on standard error and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import shlex
import sys
import threading
import traceback
from typing import Any

import typer

from ..errors import (
    CheckpointError,
    ConversionError,
    DownloadError,
    FileWriteError,
    GptOssError,
    InvalidRequest,
    MachineLost,
    ModelNotFound,
    NotEnoughDisk,
    NotEnoughMemory,
)
from .parameters import CommandGroup

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

INTERRUPTED = 130
_TYPO = 0.8
"""An unknown command as similar as this to a command is one that was mistyped, not a question."""
NO_ANSWER = 5
"""Cut short before any text, or empty."""
MACHINE_LOST = 6
"""Of several that compute the model together."""

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
    (MachineLost, MACHINE_LOST),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code(error: BaseException) -> int:
    """The exit code for ``error``."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def error_line(error: BaseException) -> str:
    """``error`` in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, GptOssError | OSError):
        return text
    return f"{type(error).__name__}: {text} (this is a bug; GPTOSS_DEBUG=1 shows where)"


def is_exit(error: BaseException) -> bool:
    """Whether ``error`` is one of Typer's own, which carry an exit code."""
    return isinstance(error, typer.Abort) or hasattr(error, "exit_code")


def origin(error: BaseException) -> str:
    """The traceback of ``error`` if ``GPTOSS_DEBUG`` is set; else nothing."""
    return "".join(traceback.format_exception(error)) if os.environ.get("GPTOSS_DEBUG") else ""


class EdgeGroup(CommandGroup):
    """The group of all subcommands: reports every error that one raises, and exits with its code."""

    def main(self, *args: Any, **options: Any) -> Any:
        standalone = options.pop("standalone_mode", True)
        options["standalone_mode"] = False  # else Typer would print errors itself
        try:
            code = super().main(*args, **options)
        except Exception as error:
            if not standalone or not is_exit(error):
                raise
            _report_usage(error)
            code = getattr(error, "exit_code", 1)
        return sys.exit(code) if standalone else code

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except Exception:  # Typer's, whose class is private
            words = list(itertools.takewhile(lambda word: not word.startswith("-"), args))
            if not words or difflib.get_close_matches(words[0], self.commands, n=1, cutoff=_TYPO):
                raise
            question = shlex.quote(" ".join(words))
            raise InvalidRequest(
                f"No such command {words[0]!r}; to ask a question: gptoss run {question}; see gptoss --help"
            ) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of our output closed it. Python would report that again while it closes standard output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if is_exit(error):
                raise
            if isinstance(error.__cause__, KeyboardInterrupt):  # MLX turns it into an ImportError while it loads
                raise typer.Exit(INTERRUPTED) from None
            _report(error)
            raise typer.Exit(exit_code(error)) from None
        return result


def open_missing_streams() -> None:
    """Open /dev/null for every standard stream that was closed when the program began (``<&-``).

    Python has None there, and the next file to be opened would take its number.
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

    A thread may still be importing MLX or loading a model, and a thread that is inside MLX while the interpreter
    shuts down aborts the process with a message of its own. Everything that must be closed is closed by now, so
    the rest of the shutdown is skipped then.
    """
    # While MLX is imported it is not among the modules yet.
    if "mlx.core" not in sys.modules and threading.active_count() == 1:
        raise ended
    code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _report_usage(error: Exception) -> None:
    """Report a wrong use of the command line, unless help has been shown instead."""
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else ""
    if getattr(error, "option_name", None) == "--python":
        from ..tools.python import missing_command

        _report(missing_command())
    elif message and type(error).__name__ != "NoArgsIsHelpError":
        message = message.replace("Value error, ", "").rstrip(".")
        see = " See" if message.endswith("?") else "; see"
        help_ = f"{see} {context.command_path} --help" if context is not None else ""
        _report(InvalidRequest(message + help_))


def _report(error: Exception) -> None:
    from .screen.spans import RED, Span
    from .screen.terminal import Terminal

    terminal = Terminal(sys.stderr)
    terminal.paragraph(Span("error: ", RED), Span(error_line(error)))
    terminal.write(origin(error))
