"""The one format that a chat is saved in: JSON that a person can read, with harmony's messages inside."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..errors import ChatFileError, HarmonyError
from ..files.read import MAX_CONTAINERS, parse_json, read_regular
from ..files.write import write_text
from ..harmony import Message, Role
from ..harmony.fields import check_text

__all__ = ["VERSION", "ChatContent", "read", "write"]

VERSION: Final = 1
MAX_BYTES: Final = 256 * 2**20
"""Of a saved chat; larger files are not read."""
_BETWEEN: Final = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatContent:
    """What is in the file."""

    messages: tuple[Message, ...]
    """Without the system and developer messages: those are made from the other fields."""
    title: str | None = None
    effort: str = "medium"
    instructions: str | None = None
    date: str | None = None
    model: str | None = None
    """The user's name of the model that the chat was last held with."""
    damaged: int = 0
    """How many messages were left out because of damage, where that was allowed; the end of a file that was cut
    off counts as one."""


def write(path: str | Path, content: ChatContent) -> None:
    """Saves a chat, whole or not at all, for its owner alone.

    Raises:
        FileWriteError: it cannot be written.
    """
    data = {
        "version": VERSION,
        "title": content.title,
        "effort": content.effort,
        "instructions": content.instructions,
        "date": content.date,
        "model": content.model,
        "messages": [_message_to_dict(message) for message in content.messages],
    }
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n", private=True)


def read(path: str | Path, *, keep_readable: bool = False) -> ChatContent:
    """Reads a saved chat.

    Args:
        path: the file.
        keep_readable: of a chat that is damaged or cut off, keep the messages before the damage.

    Raises:
        ChatFileError: it cannot be read, is not a chat, is damaged, or is of a newer version.
    """
    path = Path(path)
    data = _read_object(path, keep_readable)
    version = data.get("version")
    if type(version) is not int or version < 1:
        raise ChatFileError(f"{path}: is not a saved chat; name a file that gptoss wrote")
    if version > VERSION:
        raise ChatFileError(
            f"{path}: is of format {version}, this gptoss reads up to {VERSION}; update gptoss-mlx"
        )
    entries = data.get("messages")
    if not isinstance(entries, list):
        raise ChatFileError(f"{path}: messages is missing; the file is damaged")
    messages: list[Message] = []
    for position, entry in enumerate(entries):
        try:
            messages.append(_message_from_dict(entry))
        except (HarmonyError, TypeError) as error:
            if not keep_readable:
                raise ChatFileError(f"{path}: messages[{position}] cannot be read ({error})") from error
            break
    texts = {name: _text(path, data, name) for name in ("title", "effort", "instructions", "date", "model")}
    return ChatContent(
        messages=tuple(messages),
        title=texts["title"],
        effort=texts["effort"] or "medium",
        instructions=texts["instructions"],
        date=texts["date"],
        model=texts["model"],
        damaged=len(entries) - len(messages),
    )


def _read_object(path: Path, keep_readable: bool) -> dict[str, Any]:
    try:
        content = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        raise ChatFileError(f"{path}: no such file") from None
    except OSError as error:
        raise ChatFileError(f"{path}: cannot be read as a chat ({error.strerror})") from error
    except ValueError as error:
        raise ChatFileError(f"{path}: cannot be read as a chat ({error})") from error
    try:
        data = parse_json(content)
    except (ValueError, RecursionError) as error:
        data = _beginning(content.decode("utf-8", "replace")) if keep_readable else None
        if data is None:
            raise ChatFileError(f"{path}: cannot be read as a chat ({error})") from error
    if not isinstance(data, dict):
        raise ChatFileError(f"{path}: is not a saved chat; name a file that gptoss wrote")
    return data


def _beginning(text: str) -> Any:
    """The fields of a file that is not JSON and its messages up to the damage, which is one more; None if it does
    not begin like a chat, or if its lists could fill the memory (where strings end is not known any more)."""
    opening = re.search(r'"messages"\s*:\s*\[', text)
    if opening is None or text.count("[") + text.count("{") > MAX_CONTAINERS:
        return None
    head = text[: opening.start()].rstrip().removesuffix(",")
    messages: list[Any] = []
    decoder, position = json.JSONDecoder(), opening.end()
    try:
        fields = parse_json(f"{head}}}".encode())
    except (ValueError, RecursionError):
        return None
    try:
        while following := _BETWEEN.match(text, position):
            _, position = decoder.raw_decode(text, following.end())
            messages.append(parse_json(text[following.end() : position].encode()))
    except (ValueError, RecursionError):
        pass
    return {**fields, "messages": [*messages, None]}


def _text(path: Path, data: dict[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is None:
        return None
    try:
        return check_text(value, name)
    except HarmonyError as error:
        raise ChatFileError(f"{path}: {error}; the file is damaged") from error


def _message_to_dict(message: Message) -> dict[str, Any]:
    # openai-harmony's JSON has no place for it and ignores it.
    return message.to_dict() | ({"truncated": True} if message.truncated else {})


def _message_from_dict(entry: Any) -> Message:
    if not isinstance(entry, dict):
        raise TypeError("an object is needed")
    fields = dict(entry)
    truncated = fields.pop("truncated", False) is True
    message = Message.from_dict(fields)
    if message.role in (Role.SYSTEM, Role.DEVELOPER):
        # They would rank above everyone else; what a chat has of them stands in fields of its own.
        raise TypeError(f"a {message.role} message has no place in a saved chat")
    return replace(message, truncated=truncated)
