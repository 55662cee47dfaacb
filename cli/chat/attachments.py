"""Files that are sent with a question, as text that the model can tell apart from it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidRequest
from ...files.read import open_regular
from ...files.write import as_path

__all__ = ["Attachment", "fenced", "read_file", "read_piped", "split_files", "with_files"]

_LARGEST = 4 * 1024**2
_FILE = re.compile(r"File (?P<name>[^\n]*):\n\n(?P<fence>`{3,})\n(?P<text>.*?)\n(?P=fence)\n\n", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A text file as it was when it was attached."""

    name: str
    text: str
    path: Path | None = None
    """None: it comes from a question that was asked before."""

    @property
    def summary(self) -> str:
        """Its name and length, as it is shown where its content is not."""
        count = self.text.count("\n") + 1
        return f"[{self.name} · {count:,} line{'s' if count > 1 else ''}]"


def with_files(question: str, files: Iterable[Attachment]) -> str:
    """``question`` after the contents of the files."""
    return "\n\n".join([*(f"File {file.name}:\n\n{fenced(file.text)}" for file in files), question])


def split_files(text: str) -> tuple[list[Attachment], str]:
    """The files and the question of a text that `with_files` made."""
    files: list[Attachment] = []
    end = 0
    while found := _FILE.match(text, end):
        files.append(Attachment(name=found["name"], text=found["text"]))
        end = found.end()
    return files, text[end:]


def read_file(path: Path) -> Attachment:
    """A text file.

    Raises:
        InvalidRequest: it cannot be read, is not a regular file, is larger than 4 MB, or is not UTF-8 text.
    """
    path = as_path(str(path))
    try:
        file, _ = open_regular(path)
        with file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror or error}") from error
    name = " ".join(path.name.encode(errors="replace").decode().split())
    return Attachment(name=name, text=_as_text(content, str(path)).rstrip(), path=path)


def read_piped() -> str:
    """The text that is piped into standard input.

    Raises:
        InvalidRequest: it is larger than 4 MB, or is not UTF-8 text.
    """
    return _as_text(sys.stdin.buffer.read(_LARGEST + 1), "standard input")


def _as_text(content: bytes, source: str) -> str:
    if len(content) > _LARGEST:
        raise InvalidRequest(f"{source}: is larger than 4 MB, more than any context holds")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{source}: is not UTF-8 text (byte {error.start})") from error


def fenced(text: str) -> str:
    """``text`` in a fence that nothing in it closes."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
