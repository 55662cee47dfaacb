"""Text that attacks a terminal, and the ways it reaches the screen."""

from __future__ import annotations

import io
import json
import random
import re
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import cast

from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.cli.chat import history as transcript
from gptoss_mlx.cli.chat import saved as sessions
from gptoss_mlx.cli.chat.attachments import Attachment
from gptoss_mlx.cli.chat.commands import Commands
from gptoss_mlx.cli.chat.loading import Loader
from gptoss_mlx.cli.chat.session import ChatSession
from gptoss_mlx.cli.errors import error_line
from gptoss_mlx.cli.screen.markdown import MarkdownStream
from gptoss_mlx.cli.screen.plain import PlainStream
from gptoss_mlx.cli.screen.spans import BOLD, RED, Span, clip
from gptoss_mlx.cli.screen.terminal import Terminal
from gptoss_mlx.cli.settings import Settings
from gptoss_mlx.errors import GptOssError

__all__ = ["PLACES", "Tty", "only_ours", "payloads"]

OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\d*A|J|\?25[lh])")
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\ufe00-\ufe0f]{2}"
)


class Tty(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


def payloads(count: int) -> list[str]:
    """Escape sequences of every kind, whole, cut short and nested, among ordinary text and Markdown."""
    kinds = [
        *("\x1b[31m", "\x1b[2J", "\x1b[1;1H", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\"),
        *(
            "\x1b]52;c;aGk=\x07",
            "\x1bP+q544e\x1b\\",
            "\x1b_apc\x1b\\",
            "\x1b^pm\x1b\\",
            "\x1b(0",
            "\x1bc",
            "\x1b[?1049h",
        ),
        *("\x9b31m", "\x9d0;t\x9c", "\x90q\x9c", "\x85", "\x07", "\x08\x08", "\r", "\x7f", "\x00", "\x0e", "\x1b"),
        *(
            "\u202eabc",
            "\u2066x\u2069",
            "\u2028",
            "\ufeff",
            "\U000e0041",
            "&#27;[31m",
            "&#x9b;",
            "\\\x1b",
            "\ud800",
            "\xad",
            "\u061c",
            "\u180e",
            "\u200b",
            "\u200c",
            "\u200d\u200d",
            "\u200e",
            "\u200f",
            "\u2060",
            "\ufe0e\ufe0f",
        ),
    ]
    around = [
        "**",
        "`",
        "# ",
        "- ",
        "> ",
        "| a |\n|---|\n| ",
        "```\n",
        "[l](",
        ")",
        "word ",
        "\n",
        "\t",
        "日本",
        "[red]x[/red]",
    ]
    chooser = random.Random(7)
    return [
        "".join(chooser.choice(kinds if chooser.random() < 0.5 else around) for _ in range(chooser.randint(1, 8)))
        for _ in range(count)
    ]


def only_ours(written: str) -> bool:
    """Whether nothing was written that a terminal obeys, but what this program means to send."""
    rest = OURS.sub("", written).replace("\r", "", written.count("\r\x1b[")).replace("\r\x1b", "")
    return not FORBIDDEN.search(rest.replace("\r", ""))


def _screen() -> tuple[Terminal, Tty]:
    stream = Tty()
    return Terminal(stream, {"TERM": "xterm"}), stream


def _streamed(source: MarkdownStream | PlainStream, payload: str, number: int) -> str:
    screen, stream = _screen()
    for position, character in enumerate(payload):
        source.feed(character)
        if position == number % len(payload):
            screen.frame(source.rows(60), source.tail(60))
    screen.rows(source.finish(60))
    return stream.getvalue()


def _answer(payload: str, number: int) -> str:
    return _streamed(MarkdownStream(), payload, number)


def _thinking(payload: str, number: int) -> str:
    return _streamed(PlainStream(BOLD), payload, number)


def _text(payload: str, _number: int) -> str:
    screen, stream = _screen()
    screen.write(payload, RED)
    return stream.getvalue()


def _row(payload: str, _number: int) -> str:
    screen, stream = _screen()
    screen.rows([clip((Span(payload, RED), Span(payload)), 40)])
    return stream.getvalue()


def _error(payload: str, _number: int) -> str:
    screen, stream = _screen()
    screen.line(error_line(ValueError(payload)))
    return stream.getvalue()


def _file_name(payload: str, _number: int) -> str:
    """Of a file that goes with a question, of a saved chat, of a command; none of them is there."""
    screen, stream = _screen()
    session = ChatSession(screen, Loader("demo", {}), Settings(), interactive=True)
    for line in (f"/file {shlex.quote(payload)}", f"/load ./{payload}", f"/{payload}"):
        try:
            Commands(session).handle(line)
        except (GptOssError, OSError, ValueError) as error:
            session.complain(error_line(error))
    session.attachments = [Attachment(name=payload, text=payload)]
    session.say(session.attachments[0].summary)
    return stream.getvalue()


def _saved_chat(payload: str, number: int) -> str:
    """Title and messages, in the list, at the start and in /history; the file damaged or not."""
    screen, stream = _screen()
    path = sessions.new_chat_path()
    roles = [("user", None), ("assistant", "final")]
    messages = [{"role": role, "channel": channel, "content": payload} for role, channel in roles]
    text = json.dumps({"version": 1, "title": payload, "effort": "low", "messages": messages})
    path.write_text(text[: len(text) - number % 3])
    try:
        content, saved_as, damage = sessions.read_chat(path)
        screen.line(damage)
        chat = cast(Chat, SimpleNamespace(messages=content.messages, title=content.title, effort="low"))
        transcript.show_last_turn(chat, screen)
        transcript.show_transcript(chat, screen)
        assert len(content.messages) == 2 or damage
        if saved_as is not None:
            path = saved_as
    except GptOssError as error:
        screen.line(error_line(error))
    with redirect_stdout(stream):
        sessions.show_list()
    for saved in sessions.chats_directory().glob("*.json"):
        saved.unlink()
    return stream.getvalue()


PLACES: dict[str, Callable[[str, int], str]] = {
    "answer": _answer,
    "thinking": _thinking,
    "text": _text,
    "row": _row,
    "error": _error,
    "file name": _file_name,
    "saved chat": _saved_chat,
}
"""Where a payload may come from: each shows it and gives what was written."""
