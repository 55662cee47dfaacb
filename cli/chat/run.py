"""``gptoss run``: one question, one answer, for people and for pipes."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from ...errors import InvalidRequest
from ...events import Done, Reply
from ...files.read import parse_json
from ..errors import INTERRUPTED, NO_ANSWER
from ..screen.keyboard import on_interrupt
from ..screen.spans import DIM, YELLOW, visible
from ..screen.terminal import Terminal
from ..settings import Settings, is_utf8
from .attachments import read_file, read_piped, with_files
from .first_start import choose_model
from .loading import open_model
from .tools import Tools

if TYPE_CHECKING:
    from ...chat.options import AnswerOptions
    from ...chat.stream import Stream

__all__ = ["Request", "answer"]

_WORDLESS_SECONDS = 1.0
"""Standard input may take so long before the user is told that it is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question, as the command line states it."""

    question: str
    files: tuple[Path, ...] = ()
    form: Literal["text", "json", "jsonl"] = "text"
    schema: Path | None = None
    stop: tuple[str, ...] = ()


def answer(request: Request, settings: Settings) -> None:
    """Ask the question and print the answer in the requested form.

    Raises:
        typer.Exit: the answer was interrupted, or has no text.
    """
    out, err = Terminal(sys.stdout), Terminal(sys.stderr)
    if settings.warning:
        err.line(settings.warning, YELLOW)
    prompt = _prompt(request, err)
    form: AnswerOptions = {} if request.schema is None else {"schema": _schema(request.schema)}
    reference = settings.url or choose_model(settings.model, err, interactive=False)
    with Tools(settings) as tools, open_model(reference, settings.loading) as model:
        chat = model.chat(
            effort=settings.effort,
            instructions=settings.system,
            sampling=settings.sampling(request.stop),
            **tools.options(err),
        )
        tools.approval.begin()
        stream = chat.stream(prompt, **form)
        reply = _show(stream, request.form, out, err, settings)
    for line in (*tools.notices(), *tools.approval.remedies):
        err.line(line, YELLOW)
    if reply.finish_reason == "cancelled":
        raise typer.Exit(INTERRUPTED)
    if remark := _remark(reply, settings):
        err.line(remark, YELLOW)
    if not reply.text.strip():
        raise typer.Exit(NO_ANSWER)


def _remark(reply: Reply, settings: Settings) -> str:
    """The reason that the answer is not complete; empty: it is."""
    what = "the answer is cut off" if reply.text.strip() else "no answer"
    if reply.finish_reason == "length" and settings.max_tokens is not None:
        return f"{what} at {settings.max_tokens:,} tokens (finish_reason: length); raise --max-tokens"
    if reply.finish_reason == "length":
        return f"{what}: the context is full (finish_reason: length); shorten the question, or raise --context"
    if reply.text.strip():
        return ""
    return f"no answer: the model wrote no text (finish_reason: {reply.finish_reason})"


def _prompt(request: Request, err: Terminal) -> str:
    """Files, standard input and question as one text."""
    if not is_utf8(request.question):
        raise InvalidRequest(f"the question is not UTF-8 text: {request.question}")
    files = [read_file(path) for path in request.files]
    piped = "" if sys.stdin.isatty() else _piped(err).strip()
    parts = [part for part in (piped, request.question) if part]
    if not parts:
        raise InvalidRequest("no question: gptoss run 'Why is the sky blue?', or pipe one in")
    return with_files("\n\n".join(parts), files)


def _piped(err: Terminal) -> str:
    """Standard input to its end. Where that takes long, the user is told what is waited for."""
    waiting = "waiting for the end of standard input; with < /dev/null there is none"
    timer = threading.Timer(_WORDLESS_SECONDS, lambda: err.line(waiting, DIM))
    timer.daemon = True
    timer.start()
    try:
        return read_piped()
    finally:
        timer.cancel()


def _schema(path: Path) -> dict[str, Any]:
    text = read_file(path).text
    try:
        schema = parse_json(text.encode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{path}: a JSON schema must be an object")
    return schema


def _show(stream: Stream, form: str, out: Terminal, err: Terminal, settings: Settings) -> Reply:
    if form != "text":
        return _show_json(stream, out, each=form == "jsonl")
    if out.interactive and err.interactive:
        from ..screen.keyboard import Keyboard
        from .live import TurnView, show_live

        return show_live(stream, out, Keyboard(), TurnView(settings.think))
    from .plain_output import show_plain

    return show_plain(stream, out, err, settings.think)


def _show_json(stream: Stream, out: Terminal, each: bool) -> Reply:
    """Print the events as lines, or the reply alone as one object."""
    with on_interrupt(stream.cancel), stream:
        for event in stream:
            if each:
                out.line(_json(event.to_dict()))
            elif isinstance(event, Done):
                out.line(_json(event.reply.to_dict(), indent=2))
    return stream.reply


def _json(value: dict[str, Any], indent: int | None = None) -> str:
    """JSON, with JSON's own escapes for what `visible` would replace."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if visible(text) == text else json.dumps(value, indent=indent)
