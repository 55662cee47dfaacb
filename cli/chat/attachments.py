"""Files that go with a question, as text the model can tell apart from it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from ...errors import InvalidRequest
from ...files.read import open_regular
from ...files.write import as_path

__all__ = ["read_file", "read_piped", "with_files", "without_files"]

_LARGEST = 4 * 1024**2
_FILES = re.compile(r"\A(?:File [^\n]*:\n\n(`{3,})\n.*?\n\1\n\n)+", re.DOTALL)


def with_files(question: str, paths: Iterable[Path]) -> str:
    """``question`` after the contents of the files.

    Raises:
        InvalidRequest: a file that cannot be read or is no text.
    """
    parts = [f"File {path.name}:\n\n{_fenced(read_file(path))}" for path in paths]
    return "\n\n".join([*parts, question])


def without_files(text: str) -> str:
    """The question alone, of a text that `with_files` made."""
    return _FILES.sub("", text)


def read_file(path: Path) -> str:
    """A text file's content.

    Raises:
        InvalidRequest: it cannot be read, is no regular file, is larger than 4 MB, or is no UTF-8 text.
    """
    try:
        file, _ = open_regular(as_path(str(path)))
        with file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror or error}") from error
    return _as_text(content, str(path))


def read_piped() -> str:
    """What is piped into standard input.

    Raises:
        InvalidRequest: it is larger than 4 MB, or is no UTF-8 text.
    """
    return _as_text(sys.stdin.buffer.read(_LARGEST + 1), "standard input")


def _as_text(content: bytes, source: str) -> str:
    if len(content) > _LARGEST:
        raise InvalidRequest(f"{source}: is larger than 4 MB, more than any context holds")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{source}: is not UTF-8 text (byte {error.start})") from error


def _fenced(text: str) -> str:
    """``text`` in a fence that nothing in it closes."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text.rstrip()}\n{fence}"
