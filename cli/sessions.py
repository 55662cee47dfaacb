"""Saved chats: the library's chat files in one directory, one for each chat, newest first.

The format belongs to the library; for a list only the title and the number of questions are read here.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ChatFileError, InvalidRequest
from ..files import as_path
from ..reading import parse_json, read_regular
from .settings import data_path

if TYPE_CHECKING:
    from ..chatfile import ChatContent

__all__ = ["SavedChat", "find_chat", "make_title", "new_chat_path", "read_chat", "saved_chats", "show_list"]

_TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChat:
    """One line of the list."""

    name: str
    path: Path
    modified: float
    title: str


def chats_directory() -> Path:
    """Where chats are saved; made on first use, for this user alone."""
    from ..files import private_directory

    return private_directory(data_path("chats"))


def new_chat_path() -> Path:
    """A place for a new chat: its name is the time and a few random letters."""
    import secrets

    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return chats_directory() / f"{name}.json"


def saved_chats() -> list[SavedChat]:
    """All saved chats, last changed first."""
    chats = [
        SavedChat(name=path.stem, path=path, modified=path.stat().st_mtime, title=_title(path))
        for path in _files()
    ]
    return sorted(chats, key=lambda chat: chat.modified, reverse=True)


def _files() -> list[Path]:
    return [path for path in chats_directory().glob("*.json") if path.is_file()]


def find_chat(name: str) -> Path:
    """The chat whose name contains ``name``, or a chat file of that path; the last one if it is empty.

    Raises:
        ChatFileError: there is no such chat.
        InvalidRequest: there are several.
    """
    if not name:
        paths = sorted(_files(), key=lambda path: path.stat().st_mtime)
        if not paths:
            raise ChatFileError("no chat is saved yet; start one with: gptoss chat")
        return paths[-1]
    if "/" in name and as_path(name).is_file():
        return as_path(name)
    matches = sorted(path for path in _files() if name in path.stem)
    exact = [path for path in matches if path.stem == name]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    if matches:
        names = ", ".join(path.stem for path in matches[:5])
        raise InvalidRequest(f"{name}: {len(matches)} chats match: {names}; give more of the name")
    raise ChatFileError(f"{name}: no such chat; gptoss chat --list shows them")


def read_chat(path: Path) -> tuple[ChatContent, Path | None, str]:
    """A saved chat, where it goes on being saved (None: in a new file), and what is wrong with it, if anything.

    Of a file that is damaged, or cut off in the middle, the turns before the damage are kept.

    Raises:
        ChatFileError: nothing of it can be read.
    """
    from ..chatfile import read

    content = read(path, keep_readable=True)
    if not content.damaged:
        return content, path, ""
    lost = "1 message" if content.damaged == 1 else f"{content.damaged} messages"
    return content, None, f"{path}: damaged; {lost} cannot be read, the rest goes on in a copy"


def make_title(question: str) -> str:
    """A chat's title: the beginning of its first question, in one line."""
    text = " ".join(question.split())
    return text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 1].rstrip() + "…"


def show_list() -> None:
    """Print the saved chats."""
    from .spans import CYAN, DIM, Span, clip
    from .terminal import Terminal

    terminal = Terminal(sys.stdout)
    chats = saved_chats()
    if not chats:
        terminal.line("No chat is saved yet; start one with: gptoss chat", DIM)
    for chat in chats:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(chat.modified))
        row = (Span(chat.name, CYAN), Span(f"  {when}  ", DIM), Span(chat.title))
        terminal.rows([clip(row, terminal.width) if terminal.interactive else row])


def _title(path: Path) -> str:
    from ..chatfile import MAX_BYTES

    try:
        content: Any = parse_json(read_regular(path, MAX_BYTES))
        return str(content["title"] or "(no title)")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "(damaged; --resume saves what it can)"
