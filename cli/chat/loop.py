"""The loop of ``gptoss chat``: reads a question or a command, handles it, and reads the next."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import nullcontext

import typer

from ..errors import INTERRUPTED, error_line, is_exit, origin
from ..screen.keyboard import keys_as_sent
from ..screen.spans import YELLOW
from ..screen.terminal import Terminal
from ..settings import Settings, data_path
from .commands import Commands
from .first_start import choose_model
from .input import ChatPrompt, LineReader, Reader
from .loading import Loader
from .saved import find_chat
from .session import ChatSession

__all__ = ["start_chat", "talk"]

_TWICE_SECONDS = 2.0
"""A second Ctrl-C within this time leaves."""


def start_chat(settings: Settings, resume: str | None) -> None:
    """Chat until the user leaves.

    Args:
        resume: the name of a saved chat to go on with; empty: the last one; None: a new chat.
    """
    terminal = Terminal(sys.stdout)
    path = find_chat(resume) if resume is not None else None
    interactive = terminal.interactive and sys.stdin.isatty()
    model = settings.url or choose_model(settings.model, terminal, interactive)
    session = ChatSession(terminal, Loader(model, settings.loading), settings, interactive)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with keys_as_sent() if interactive else nullcontext():
            if settings.warning:
                session.say(settings.warning, YELLOW)
            if path is not None:
                session.open_chat(path)
            raise typer.Exit(talk(session))
    finally:
        session.loader.close()


def _terminated(_signal: int, _frame: object) -> None:
    """Exit through an exception, so that the terminal is restored."""
    sys.exit(128 + signal.SIGTERM)


def talk(session: ChatSession) -> int:
    """Handle questions and commands until the user leaves; returns the exit code."""
    commands = Commands(session)
    reader = _reader(session, commands)
    if session.interactive:
        session.say(f"{session.loader.reference} · /help for commands · Ctrl-D leaves")
        session.terminal.line()
    while not session.leaving:
        try:
            typed, session.typed, keys, session.keys = session.typed, "", session.keys, ""
            line = reader.read(typed, keys)
        except EOFError:
            break
        except KeyboardInterrupt:
            if session.editing:
                session.stop_editing()
                session.say("no longer editing; the last question stays as it was")
                continue
            if _interrupted_twice(session):
                return INTERRUPTED
            session.say("Ctrl-C again, or Ctrl-D, leaves")
            continue
        try:
            _handle(session, commands, line)
        except KeyboardInterrupt:
            if _interrupted_twice(session):
                return INTERRUPTED
            session.typed = session.typed or line
    return 0


def _handle(session: ChatSession, commands: Commands, line: str) -> None:
    """Handle one line: a command or a question. An error is reported and does not end the chat, unless the model
    could not be loaded, or the lines come from a script."""
    try:
        if line.startswith("/") and not line.startswith("//"):
            commands.handle(line)
        elif line.strip():
            session.ask(line.removeprefix("/") if line.startswith("//") else line)
    except Exception as error:
        if is_exit(error) or error is session.loader.error or not session.interactive:
            raise
        session.complain(error_line(error))
        session.terminal.write(origin(error))


def _reader(session: ChatSession, commands: Commands) -> Reader:
    if not session.interactive:
        return LineReader(lambda: session.errors.write("› ") if sys.stdin.isatty() else None)
    prompt = ChatPrompt(
        commands,
        data_path("history"),
        toolbar=session.status,
        toggle_thinking=session.toggle_thinking,
        editing=lambda: session.editing,
        when_ready=lambda: session.loader.start(when_failed=prompt.fail),
    )
    return prompt


def _interrupted_twice(session: ChatSession) -> bool:
    now = time.monotonic()
    twice, session.interrupted_at = now - session.interrupted_at < _TWICE_SECONDS, now
    return twice
