"""Saved chats: the library's chat files in one directory, one for each chat, newest first.

The library reads and writes the format; for a list, the title alone is read here.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ChatFileError, InvalidRequest
from ...files.read import parse_json, read_regular
from ...files.write import as_path
from ..settings import data_path

if TYPE_CHECKING:
    from ...chat.file import ChatContent

__all__ = ["SavedChat", "find_chat", "new_chat_path", "read_chat", "saved_chats", "show_list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChat:
    """One line of the list."""

    name: str
    path: Path
    modified: float
    title: str


def chats_directory() -> Path:
    """The directory of the chats; created on first use, readable by this user alone."""
    from ...files.write import private_directory

    return private_directory(data_path("chats"))


def new_chat_path() -> Path:
    """A path for a new chat: its name is the time and a few random letters."""
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


def find_chat(name: str, other_than: Path | None = None) -> Path:
    """The chat of that name, else the file of that path, else the chat whose name contains ``name``.

    Args:
        name: empty: the last one.
        other_than: a chat that is not meant where ``name`` is empty: the one that is open.

    Raises:
        ChatFileError: there is no such chat.
        InvalidRequest: there are several.
    """
    if not name:
        paths = sorted((path for path in _files() if path != other_than), key=lambda path: path.stat().st_mtime)
        if not paths:
            raise ChatFileError(
                "no chat is saved yet; start one with: gptoss chat"
                if other_than is None
                else "no other chat is saved"
            )
        return paths[-1]
    matches = sorted(path for path in _files() if name in path.name)
    exact = [path for path in matches if name in (path.stem, path.name)]
    if exact:
        return exact[0]
    if as_path(name).is_file():
        return as_path(name)
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(path.stem for path in matches[:5])
        raise InvalidRequest(f"{name}: {len(matches)} chats match: {names}; give more of the name")
    raise ChatFileError(f"{name}: no such chat, and no such file; gptoss chat --list shows the chats")


def read_chat(path: Path) -> tuple[ChatContent, Path | None, str]:
    """A saved chat, the file to save it in from now on (None: a new one), and what is damaged, if anything.

    Of a file that is damaged or cut off, the turns before the damage are kept.

    Raises:
        ChatFileError: nothing of it can be read.
    """
    from ...chat.file import read

    content = read(path, keep_readable=True)
    if not content.damaged:
        return content, path, ""
    lost = "1 message" if content.damaged == 1 else f"{content.damaged} messages"
    return content, None, f"{path}: damaged: {lost} cannot be read; the chat goes on in a copy without them"


def show_list() -> None:
    """Print the saved chats."""
    from ..screen.spans import CYAN, DIM, Span, shorten
    from ..screen.terminal import Terminal

    terminal = Terminal(sys.stdout)
    chats = saved_chats()
    if not chats:
        terminal.line("No chat is saved yet; start one with: gptoss chat", DIM)
    for chat in chats:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(chat.modified))
        row = (Span(chat.name, CYAN), Span(f"  {when}  ", DIM), Span(chat.title))
        terminal.rows([shorten(row, terminal.width) if terminal.interactive else row])


def _title(path: Path) -> str:
    """The title, or what is damaged.

    Messages are read only if something else is damaged, since there may be many chats.
    """
    from ...chat.file import MAX_BYTES, VERSION, read

    try:
        content: Any = parse_json(read_regular(path, MAX_BYTES))
        if content["version"] in range(1, VERSION + 1) and isinstance(content["messages"], list):
            return str(content["title"] or "(no title)")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    try:
        title = read(path, keep_readable=True).title or "(no title)"
    except ChatFileError as error:
        return f"({str(error).removeprefix(f'{path}: ')})"
    return f"{title} (damaged; --resume keeps what can be read)"
