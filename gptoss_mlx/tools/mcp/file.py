"""The ``mcpServers`` JSON that Claude Desktop, Cursor and LM Studio read.

A mistake in one entry concerns that server alone; a file that cannot be read is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...errors import InvalidRequest
from ...files.read import parse_json, read_regular, short_repr

__all__ = ["MAX_NAME", "Entry", "read_entries", "read_file"]

MAX_NAME: Final = 32
"""Characters of a server's name, so that half of a tool's name is left for the tool."""
_MAX_BYTES: Final = 2**20
_MAX_SERVERS: Final = 64
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_-]+")
_VARIABLE: Final = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One server of a file: a command to run, or an address."""

    name: str
    """As its tools are named: letters, digits, ``_`` and ``-``, and different from the other servers'."""
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the few variables that a server gets."""
    cwd: str | None = None
    url: str = ""
    """Of a server that is reached by streamable HTTP."""
    headers: Mapping[str, str] = field(default_factory=dict)
    disabled: bool = False
    mistake: str = ""
    """Why the server cannot be started; empty: nothing is wrong with the entry."""


def read_file(path: Path) -> tuple[Entry, ...]:
    """The servers of a file, in its order.

    Raises:
        InvalidRequest: it cannot be read, or is not such a file.
    """
    try:
        content = parse_json(read_regular(path, _MAX_BYTES))
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"{path}: {reason}; correct the file") from None
    return read_entries(content, str(path))


def read_entries(content: object, where: str) -> tuple[Entry, ...]:
    """The servers of a file's content.

    Args:
        content: an object with ``mcpServers``.
        where: the content's place, for errors.

    Raises:
        InvalidRequest: it is not such an object.
    """
    servers = content.get("mcpServers") if isinstance(content, Mapping) else None
    if not isinstance(servers, Mapping):
        raise InvalidRequest(f'{where}: it needs {{"mcpServers": {{"NAME": {{"command": "…", "args": ["…"]}}}}}}')
    if len(servers) > _MAX_SERVERS:
        raise InvalidRequest(f"{where}: it has {len(servers)} servers; at most {_MAX_SERVERS} are allowed")
    made: dict[str, Entry] = {}
    for given, fields in servers.items():
        name = _distinct(_ILLEGAL.sub("_", str(given))[:MAX_NAME] or "_", made)
        try:
            made[name] = _entry(name, fields)
        except _Mistake as mistake:
            made[name] = Entry(name=name, mistake=str(mistake))
    return tuple(made.values())


class _Mistake(Exception):
    """An entry is wrong; says what and what is needed."""


def _distinct(name: str, taken: Mapping[str, Entry]) -> str:
    """``name``, numbered if it is taken."""
    number, made = 1, name
    while made in taken:
        number += 1
        made = f"{name[: MAX_NAME - len(str(number)) - 1]}_{number}"
    return made


def _entry(name: str, fields: object) -> Entry:
    if not isinstance(fields, Mapping):
        raise _Mistake(f"it is {short_repr(fields)}; an object with command or url is needed")
    command, url = _text(fields, "command"), _text(fields, "url")
    if bool(command) == bool(url):
        raise _Mistake("it needs either command or url")
    kind = fields.get("type", fields.get("transport"))
    if kind == "sse":
        raise _Mistake("type is 'sse', which MCP has replaced; use the server's address for streamable HTTP")
    if url and not url.startswith(("http://", "https://")):
        raise _Mistake(f"url is {short_repr(url)}; one such as http://127.0.0.1:8000/mcp is needed")
    args = fields.get("args") or []
    if not isinstance(args, list) or not all(isinstance(argument, str) for argument in args):
        raise _Mistake(f"args is {short_repr(args)}; a list of texts is needed")
    return Entry(
        name=name,
        command=command,
        args=tuple(_expanded(argument) for argument in args),
        env=_texts(fields, "env"),
        cwd=_text(fields, "cwd") or None,
        url=url,
        headers=_texts(fields, "headers"),
        disabled=fields.get("disabled") is True or fields.get("enabled") is False,
    )


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise _Mistake(f"{key} is {short_repr(value)}; text is needed")
    return _expanded(value)


def _texts(fields: Mapping[str, Any], key: str) -> dict[str, str]:
    values = fields.get(key) or {}
    if not isinstance(values, Mapping) or not all(isinstance(value, str) for value in values.values()):
        raise _Mistake(f"{key} is not an object of texts")  # its values may be secrets
    return {str(name): _expanded(value) for name, value in values.items()}


def _expanded(text: str) -> str:
    """``text`` with ``${env:NAME}`` and ``${NAME}`` replaced by the variable's value.

    Raises:
        _Mistake: there is no such variable.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise _Mistake(f"{match[0]}: there is no such environment variable; set it, or write its value")
        return found

    return _VARIABLE.sub(value, text)
