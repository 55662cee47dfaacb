"""``gptoss run``: one question, one answer, for people and for pipes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from ...errors import InvalidRequest
from ...events import Done, Reply
from ...files.read import parse_json
from ..errors import INTERRUPTED, NO_ANSWER
from ..screen.keyboard import on_interrupt
from ..screen.spans import YELLOW, visible
from ..screen.terminal import Terminal
from ..settings import Settings
from .attachments import read_file, read_piped, with_files
from .first_start import choose_model
from .stats import no_answer

if TYPE_CHECKING:
    from ...chat.options import AnswerOptions
    from ...chat.stream import Stream

__all__ = ["Request", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for."""

    question: str
    files: tuple[Path, ...] = ()
    form: Literal["text", "json", "jsonl"] = "text"
    schema: Path | None = None
    stop: tuple[str, ...] = ()


def answer(request: Request, settings: Settings) -> None:
    """Ask the question and print the answer in the form that is wanted."""
    out, err = Terminal(sys.stdout), Terminal(sys.stderr)
    prompt = _prompt(request)
    form: AnswerOptions = {} if request.schema is None else {"schema": _schema(request.schema)}
    reference = choose_model(settings.model, err, interactive=False)

    from ... import load

    with load(reference, **settings.loading) as model:
        stream = model.stream(
            prompt,
            effort=settings.effort,
            instructions=settings.system,
            sampling=settings.sampling(request.stop),
            **form,
        )
        reply = _show(stream, request.form, out, err, settings)
    if reply.finish_reason == "length":
        err.line("the answer is cut off (finish_reason: length); --max-tokens sets the limit", YELLOW)
    elif not reply.text and reply.finish_reason != "cancelled":
        err.line(no_answer(reply), YELLOW)
    if reply.finish_reason == "cancelled":
        raise typer.Exit(INTERRUPTED)
    if not reply.text:
        raise typer.Exit(NO_ANSWER)


def _prompt(request: Request) -> str:
    """Question, standard input and files as one text."""
    piped = "" if sys.stdin.isatty() else read_piped().strip()
    parts = [part for part in (piped, request.question) if part]
    if not parts:
        raise InvalidRequest("no question: gptoss run 'Why is the sky blue?', or pipe one in")
    return with_files("\n\n".join(parts), request.files)


def _schema(path: Path) -> dict[str, Any]:
    text = read_file(path)
    try:
        schema = parse_json(text.encode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{path}: a JSON schema is an object")
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
    """Events as lines, or the reply alone as one object."""
    with on_interrupt(stream.cancel), stream:
        for event in stream:
            if each:
                out.line(_json(event.to_dict()))
            elif isinstance(event, Done):
                out.line(_json(event.reply.to_dict(), indent=2))
    return stream.reply


def _json(value: dict[str, Any], indent: int | None = None) -> str:
    """JSON in which whatever the terminal would obey is escaped the JSON way."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if visible(text) == text else json.dumps(value, indent=indent)
