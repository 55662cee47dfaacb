"""Saved chats: the library's chat files in one directory, one for each chat, newest first.

The library reads and writes the format; for a list, a few fields alone are read here.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ChatFileError, FileWriteError, InvalidRequest
from ...files.read import parse_json, read_regular
from ...files.write import as_path
from ..settings import data_path

if TYPE_CHECKING:
    from ...chat.file import ChatContent

__all__ = [
    "SavedChat",
    "chat_names",
    "chats_named",
    "copy_title",
    "delete_chat",
    "find_chat",
    "new_chat_path",
    "only_chat",
    "read_chat",
    "saved_chat",
    "saved_chats",
    "show_list",
]

_SEARCHED = 100_000
"""Characters of a chat that are searched, at most."""
_AGES = ((60, 60, "min"), (24, 3600, "h"), (14, 86_400, "d"), (9, 604_800, "wk"), (24, 2_629_800, "mo"))
"""How many of a unit are counted, its seconds, its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChat:
    """One line of the list."""

    path: Path
    modified: float
    title: str
    turns: int = 0
    """How many questions were asked."""
    model: str = ""
    """The model that it was last held with; empty: the file does not say."""
    text: str = ""
    """Its questions and answers, for a search."""

    @property
    def name(self) -> str:
        """The name of its file, by which ``--resume`` finds it."""
        return self.path.stem

    @property
    def age(self) -> str:
        """The time since its last turn, in one unit."""
        seconds = max(time.time() - self.modified, 0)
        for most, unit, name in _AGES:
            if seconds < most * unit:
                return f"{int(seconds // unit)} {name}" if seconds >= 60 else "now"
        return f"{int(seconds // 31_557_600)} yr"

    @property
    def length(self) -> str:
        """Its number of turns."""
        return f"{self.turns} turn{'' if self.turns == 1 else 's'}"


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
    chats = []
    for path in _files():
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            chats.append(saved_chat(path))
    return sorted(chats, key=lambda chat: chat.modified, reverse=True)


def saved_chat(path: Path) -> SavedChat:
    """What a list shows of one file; it is read again only after a change."""
    state = path.stat()
    return _summary(path, state.st_mtime_ns, state.st_size)


def _files() -> list[Path]:
    return [path for path in chats_directory().glob("*.json") if path.is_file()]


def chat_names() -> set[str]:
    """The names of all saved chats."""
    return {path.stem for path in _files()}


def find_chat(name: str, other_than: Path | None = None) -> Path:
    """The chat of that name, else the file of that path, else the chat whose name or title contains ``name``.

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
    exact = [path for path in _files() if name in (path.stem, path.name)]
    if exact:
        return exact[0]
    if as_path(name).is_file():
        return as_path(name)
    return only_chat(name).path


def only_chat(name: str) -> SavedChat:
    """The one chat that :func:`chats_named` finds.

    Raises:
        ChatFileError: there is no such chat.
        InvalidRequest: there are several.
    """
    matches = chats_named(name)
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{chat.name} ({chat.title})" for chat in matches[:5])
        raise InvalidRequest(f"{name}: {len(matches)} chats match: {names}; give more of the name")
    raise ChatFileError(f"{name}: no such chat, and no such file; gptoss chat --list shows the chats")


def chats_named(name: str) -> list[SavedChat]:
    """The chats of that name or title; if there are none, those whose name or title contains ``name``."""
    chats = saved_chats()
    exact = [chat for chat in chats if name in (chat.name, chat.path.name) or name.lower() == chat.title.lower()]
    return exact or [chat for chat in chats if name in chat.name or name.lower() in chat.title.lower()]


def copy_title(title: str, others: Iterable[str]) -> str:
    """A title for a copy of a chat, with the first number that no other has: ``Oslo (2)``."""
    stem, taken = re.sub(r" \(\d+\)\Z", "", title), set(others)
    return next(name for number in range(2, len(taken) + 3) if (name := f"{stem} ({number})") not in taken)


def delete_chat(path: Path) -> None:
    """Delete a saved chat.

    Raises:
        FileWriteError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileWriteError(f"{path}: cannot be deleted ({error.strerror}); the chat is still there") from error


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
    """Print the saved chats: name, age, turns, model and title."""
    from ..screen.spans import CYAN, DIM, Span, shorten
    from ..screen.terminal import Terminal

    terminal = Terminal(sys.stdout)
    chats = saved_chats()
    if not chats:
        terminal.line("No chat is saved yet; start one with: gptoss chat", DIM)
    cells = [(chat.age, chat.length, chat.model) for chat in chats]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for chat, row_cells in zip(chats, cells, strict=True):
        age, length, model = (f"{cell:>{width}}" for cell, width in zip(row_cells, widths, strict=True))
        row = (Span(chat.name, CYAN), Span(f"  {age}  {length}  {model}  ", DIM), Span(chat.title))
        terminal.rows([shorten(row, terminal.width - 1) if terminal.interactive else row])


@functools.lru_cache(maxsize=10_000)
def _summary(path: Path, changed: int, _size: int) -> SavedChat:
    """What a list shows of a file of that state.

    Messages are checked only if something else is damaged, since there may be many chats.
    """
    from ...chat.file import MAX_BYTES, VERSION, read

    modified = changed / 1e9
    try:
        content: Any = parse_json(read_regular(path, MAX_BYTES))
        if content["version"] in range(1, VERSION + 1):
            turns = [(entry["role"], _text(entry)) for entry in content["messages"]]
            return SavedChat(
                path=path,
                modified=modified,
                title=" ".join(str(content["title"] or "(no title)").split()),
                turns=sum(role == "user" for role, _ in turns),
                model=str(content.get("model") or ""),
                text="\n".join(text for _, text in turns if text)[:_SEARCHED],
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    try:
        title = (
            f"{read(path, keep_readable=True).title or '(no title)'} (damaged; --resume keeps what can be read)"
        )
    except ChatFileError as error:
        title = f"({str(error).removeprefix(f'{path}: ')})"
    return SavedChat(path=path, modified=modified, title=title)


def _text(entry: dict[str, Any]) -> str:
    """The text of a question or a final answer; of other messages nothing."""
    if entry["role"] != "user" and entry.get("channel") != "final":
        return ""
    content = entry["content"]
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
