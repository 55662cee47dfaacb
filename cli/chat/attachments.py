"""Files that are sent with a question, as text that the model can tell apart from it."""

from __future__ import annotations

import contextlib
import glob
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidRequest
from ...files.read import open_regular
from ...files.write import as_path

__all__ = [
    "Attachment",
    "fenced",
    "mentioned",
    "read_file",
    "read_files",
    "read_piped",
    "split_files",
    "summary_of",
    "with_files",
]

_LARGEST = 4 * 1024**2
_MOST_FILES = 200
"""Files that one pattern may match."""
_LISTED = 4
"""Files that are named one by one where several are attached."""
_EXTENSION = re.compile(r"\w\.\w{1,4}[.,;:!?]*\Z")
_MENTION = re.compile(r"""(?<!\S)@(?:"([^"\n]+)"|((?:\\.|[^\s\\"])+))""")
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
        return f"[{self.name} · {_lines(self.lines)}]"

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1


def _lines(count: int) -> str:
    return f"{count:,} line{'s' if count > 1 else ''}"


def summary_of(files: Sequence[Attachment]) -> str:
    """Names and lengths of a few files, or the number of many and their length together."""
    if len(files) <= _LISTED:
        return ", ".join(file.summary for file in files)
    return f"{len(files):,} files · {_lines(sum(file.lines for file in files))}"


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
    inside = not path.is_absolute() and ".." not in path.parts
    name = " ".join(str(path if inside else path.name).encode(errors="replace").decode().split())
    return Attachment(name=name, text=_as_text(content, str(path)).rstrip(), path=path)


def read_files(pattern: str) -> tuple[list[Attachment], int]:
    """The text files that a path or a pattern such as ``src/**/*.py`` names, and how many others it matches.

    Raises:
        InvalidRequest: no text file matches, there are more than 200, or together they are larger than 4 MB; or
            the path is that of no text file.
    """
    path = as_path(pattern)
    if path.is_dir():
        raise InvalidRequest(f"{path}: is a directory; to attach its files: /file {pattern.rstrip('/')}/*")
    if path.exists() or not glob.has_magic(pattern):
        return [read_file(path)], 0
    found = (Path(name) for name in glob.iglob(str(path), recursive=True))
    matches = sorted(itertools.islice((match for match in found if match.is_file()), _MOST_FILES + 1))
    if len(matches) > _MOST_FILES:
        raise InvalidRequest(f"{pattern}: more than {_MOST_FILES} files match; narrow the pattern")
    files: list[Attachment] = []
    for match in matches:
        with contextlib.suppress(InvalidRequest):
            files.append(read_file(match))
        if sum(len(file.text) for file in files) > _LARGEST:
            raise InvalidRequest(f"{pattern}: the files are larger than 4 MB together; narrow the pattern")
    if not files:
        raise InvalidRequest(f"{pattern}: no text file matches")
    return files, len(matches) - len(files)


def mentioned(question: str) -> tuple[list[Attachment], list[str]]:
    """The files that a question names as ``@path``, and the words that look like a path where there is no file.

    Raises:
        InvalidRequest: a file that is there cannot be read as text.
    """
    files: list[Attachment] = []
    missing: list[str] = []
    for quoted, plain in _MENTION.findall(question):
        word = quoted or re.sub(r"\\(.)", r"\1", plain)
        names = (word, word.rstrip(".,;:!?)'"))  # a sentence may go on behind the path
        path = next(filter(None, map(_file_named, names)), None)
        if path is not None:
            files.append(read_file(path))
        elif "/" in word or ("\n" not in question and _EXTENSION.search(word)):  # not a decorator in code
            missing.append(word)
    return files, missing


def _file_named(name: str) -> Path | None:
    with contextlib.suppress(InvalidRequest):  # a name that no file can have
        path = as_path(name)
        return path if name and path.is_file() else None
    return None


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
