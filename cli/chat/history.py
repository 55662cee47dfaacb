"""A conversation so far: its questions and answers, shown again or written as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import InvalidRequest
from ..screen.markdown import render
from ..screen.plain import PlainStream
from ..screen.spans import BOLD, CYAN, DIM, ITALIC, Row, Span, shorten, visible, wrap
from ..screen.terminal import Terminal
from .attachments import fenced, split_files

if TYPE_CHECKING:
    from ...chat.chat import Chat

__all__ = [
    "as_markdown",
    "last_answer",
    "last_question",
    "make_title",
    "show_last_turn",
    "show_question",
    "show_thoughts",
    "show_transcript",
]

_TITLE_LENGTH = 60
_RESULT_ROWS = 10
"""Of the result of a call, beside the thinking."""


def turns(chat: Chat) -> Iterator[tuple[str, str]]:
    """Role and text of every question and final answer."""
    for message in chat.messages:
        role = str(message.author.role)
        if role == "user" or (role == "assistant" and message.channel == "final"):
            yield role, message.text


def last_question(chat: Chat) -> tuple[int, str]:
    """The position of the last question among the messages, and its text.

    Raises:
        InvalidRequest: nothing was asked yet.
    """
    for position in range(len(chat.messages) - 1, -1, -1):
        message = chat.messages[position]
        if message.author.role == "user":
            return position, message.text
    raise InvalidRequest("nothing was asked yet")


def make_title(chat: Chat) -> str | None:
    """A chat's title: the beginning of its first question, without the files that went with it, in one line."""
    first = next((text for role, text in turns(chat) if role == "user"), None)
    if first is None:
        return None
    text = " ".join(visible(split_files(first)[1]).split())
    return text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 1].rstrip() + "…"


def last_answer(chat: Chat) -> str:
    """The answer to the last question that has one.

    Raises:
        InvalidRequest: there is no answer yet.
    """
    turn: list[str] = []
    for role, text in reversed(list(turns(chat))):
        if role == "assistant":
            turn.append(text)
        elif turn:
            break
    if not turn:
        raise InvalidRequest("there is no answer to copy yet")
    return "\n\n".join(reversed(turn))


def last_thoughts(chat: Chat) -> str:
    """The thinking since the last question, with the calls and the beginnings of their results; empty: there is
    none."""
    thoughts: list[str] = []
    for message in reversed(chat.messages):
        if message.author.role == "user":
            break
        if message.author.role == "tool":
            lines = message.text.strip().splitlines()
            more = [f"… {len(lines) - _RESULT_ROWS:,} more lines"] if len(lines) > _RESULT_ROWS else []
            thoughts.append("\n".join(["← " + "\n  ".join(lines[:_RESULT_ROWS]), *more]))
        elif message.callee is not None:
            thoughts.append(f"→ {message.callee} {message.text}")
        elif message.channel == "analysis":
            thoughts.append(message.text.strip())
    return "\n\n".join(filter(None, reversed(thoughts)))


def show_thoughts(chat: Chat, terminal: Terminal) -> bool:
    """Show the thinking since the last question, below the beginning of that question; whether there is any."""
    thoughts = last_thoughts(chat)
    if thoughts:
        width = max(terminal.width - 1, 10)
        question = " ".join(split_files(last_question(chat)[1])[1].split())
        written = PlainStream(f"{DIM};{ITALIC}")
        written.feed(thoughts)
        heading = shorten((Span(f"thoughts on: {visible(question[:width])}", DIM),), width)
        terminal.rows([heading, *written.finish(width), ()])
    return bool(thoughts)


def show_transcript(chat: Chat, terminal: Terminal) -> None:
    """Show the whole conversation."""
    for role, text in turns(chat):
        _show(role, text, terminal)


def show_last_turn(chat: Chat, terminal: Terminal) -> None:
    """Show the last question and its answers."""
    shown = list(turns(chat))
    start = max((number for number, (role, _) in enumerate(shown) if role == "user"), default=0)
    if start:
        terminal.line(f"earlier messages: {start}; /history shows them", DIM)
    for role, text in shown[start:]:
        _show(role, text, terminal)


def _show(role: str, text: str, terminal: Terminal) -> None:
    if role == "user":
        show_question(text, terminal)
    else:
        terminal.rows(render(text, max(terminal.width - 1, 10)))
    terminal.rows([()])


def show_question(text: str, terminal: Terminal) -> None:
    """Show a question as the prompt does, with its files by their names."""
    width = max(terminal.width - 3, 8)
    files, question = split_files(text)
    rows: list[Row] = [shorten((Span(file.summary, DIM),), width) for file in files]
    for line in question.split("\n"):
        rows += [wrapped.row for wrapped in wrap((Span(visible(line.expandtabs(4))),), width)] or [()]
    markers = [Span("› ", f"{BOLD};{CYAN}")] + [Span("· ", DIM)] * (len(rows) - 1)
    terminal.rows([(marker, *row) for marker, row in zip(markers, rows, strict=True)])


def as_markdown(chat: Chat, model: str) -> str:
    """The conversation as a Markdown document, with the thinking folded."""
    parts = [f"# {chat.title or 'Chat'}", f"*{model}, effort {chat.effort}*"]
    for message in chat.messages:
        text = message.text.strip()
        if message.author.role == "user":
            parts += ["## Question", text]
        elif message.channel == "final":
            parts += ["## Answer", text]
        elif message.channel == "analysis" and message.recipient is None and text:
            parts += ["<details><summary>Thinking</summary>", fenced(text), "</details>"]
    return "\n\n".join(parts) + "\n"
