"""The loop of ``gptoss chat``: reads a question or a command, handles it, and reads the next."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import typer

from ...errors import GptOssError, InvalidRequest
from ...files.write import as_path
from ..errors import INTERRUPTED, error_line, is_exit, origin
from ..screen.keyboard import keys_as_sent
from ..screen.spans import DIM, YELLOW
from ..screen.terminal import Terminal
from ..settings import Settings, data_path
from .chats import choose_chat
from .commands import Commands
from .first_start import choose_model
from .input import ChatPrompt, Line, LineReader, Reader
from .loading import Loader
from .saved import chat_names, chats_named, find_chat, saved_chat
from .session import ChatSession
from .tools import Tools

__all__ = ["Beginning", "start_chat", "talk"]

_TWICE_SECONDS = 2.0
"""A second Ctrl-C within this time leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How a chat begins, as the command line states it."""

    question: str = ""
    """The first question; empty: the user types it."""
    resume: str | None = None
    """The saved chat to go on with, by its name; empty: the user picks it; None: see ``last``."""
    last: bool = False
    """Whether to go on with the chat that was saved last."""
    model: str | None = None
    """The model that the command line names. A saved chat goes on with its own model unless another is named."""


def start_chat(settings: Settings, beginning: Beginning) -> None:
    """Chat until the user leaves."""
    signal.signal(signal.SIGTERM, _terminated)
    terminal = Terminal(sys.stdout)
    interactive = terminal.interactive and sys.stdin.isatty()
    path = _saved_chat(beginning, interactive)
    own = _own_model(path) if path is not None and beginning.model is None else None
    model = settings.url or choose_model(own or settings.model, terminal, interactive)
    tools = Tools(settings)
    session = ChatSession(terminal, Loader(model, settings.loading), settings, interactive, tools)
    try:
        with tools, keys_as_sent() if interactive else nullcontext():
            raise typer.Exit(talk(session, path, beginning.question))
    finally:
        session.loader.close()


def _saved_chat(beginning: Beginning, interactive: bool) -> Path | None:
    """The saved chat to go on with; None: a new one.

    Raises:
        typer.Exit: the user picked none.
    """
    name = beginning.resume
    if name is None and beginning.question and beginning.question in chat_names():
        raise InvalidRequest(f"to go on with this saved chat: gptoss chat --resume {beginning.question}")
    if name is None:
        return find_chat("") if beginning.last else None
    if not interactive or (name and (len(chats_named(name)) == 1 or as_path(name).is_file())):
        return find_chat(name)
    path = choose_chat(name)
    if path is None:
        raise typer.Exit
    return path


def _own_model(path: Path) -> str | None:
    """The model that a saved chat was last held with, if it is on this machine."""
    model = saved_chat(path).model
    if model in ("", "demo"):
        return model or None
    from ...hub.models import resolve

    try:
        resolve(model)
    except GptOssError:
        return None
    return model


def _terminated(_signal: int, _frame: object) -> None:
    """Exit through an exception, so that the terminal is restored."""
    sys.exit(128 + signal.SIGTERM)


def talk(session: ChatSession, path: Path | None = None, question: str = "") -> int:
    """Handle questions and commands until the user leaves; returns the exit code.

    Args:
        path: the saved chat to go on with.
        question: the first one, which the user does not type.
    """
    commands = Commands(session)
    reader = _reader(session, commands)
    if session.interactive:
        session.say(f"{session.loader.reference} · /help for commands · Ctrl-D leaves")
        session.terminal.line()
    if session.settings.warning:
        session.say(session.settings.warning, YELLOW)
    if path is not None:
        session.open_chat(path)
    if question:
        if session.interactive:
            from .history import show_question

            show_question(question, session.terminal)
        _handle(session, commands, Line(question, question))
    code = _converse(session, commands, reader)
    if session.interactive and (remedy := session.resuming()):
        session.terminal.line(remedy, DIM)
    return code


def _converse(session: ChatSession, commands: Commands, reader: Reader) -> int:
    """Read and handle lines until the user leaves; returns the exit code."""
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
            session.typed = session.typed or line.text
    return 0


def _handle(session: ChatSession, commands: Commands, line: Line) -> None:
    """Handle one line: a command or a question. An error is reported and does not end the chat, unless the model
    could not be loaded, or the lines come from a script."""
    try:
        text = line.text
        if text.startswith("/") and not text.startswith("//"):
            commands.handle(text)
        elif text.strip():
            session.ask(text.removeprefix("/") if text.startswith("//") else text, line.typed)
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
        unfold=lambda: None if session.unfolded else session.unfold(),
        editing=lambda: session.editing,
        when_ready=lambda: session.loader.start(when_failed=prompt.fail),
    )
    return prompt


def _interrupted_twice(session: ChatSession) -> bool:
    now = time.monotonic()
    twice, session.interrupted_at = now - session.interrupted_at < _TWICE_SECONDS, now
    return twice
