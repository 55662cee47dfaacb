"""The one reader of files that a stranger may have written.

Opening never blocks, only regular files are opened, and no more than the allowed size is read. JSON must be strict
UTF-8 without duplicate keys: a file that two parsers could understand differently is refused. Knows nothing of the
files' meaning; errors are OSError or ValueError, except those of :func:`read_json`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import reprlib
import stat
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError

__all__ = [
    "LFS_POINTER",
    "MAX_CONTAINERS",
    "finite_number",
    "has_more_containers",
    "inside",
    "open_regular",
    "parse_json",
    "read_json",
    "read_regular",
    "short_repr",
]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""What git leaves of a large file without git-lfs begins so."""
MAX_CONTAINERS = 2**20
"""Limit of lists and objects. Two bytes of JSON become a list of 88; gpt-oss's tokenizer.json has 450,000."""
MAX_JSON_BYTES = 2 * 2**20
"""Of a config or an index, which has a few hundred bytes a tensor."""
_OUTSIDE_STRINGS = re.compile(rb'"[^"]*(?:"|\Z)|(?P<outside>[^"]+)')
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NOT_STRUCTURAL = bytes(value for value in range(256) if value not in b'[{"')


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """Opens a file for reading and returns it with its size in bytes.

    Raises:
        OSError: it cannot be opened, or is a FIFO, a device or a directory.
        ValueError: the path contains a NUL.
    """
    # Non-blocking: opening a FIFO must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file")
    return os.fdopen(descriptor, "rb"), status.st_size


def read_regular(path: Path, limit: int) -> bytes:
    """Reads a regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        ValueError: it is larger, or grew while it was read.
    """
    file, size = open_regular(path)
    with file:
        if size > limit:
            raise ValueError(f"larger than the limit of {limit} bytes")
        # Not limit + 1: Python allocates as much memory as is requested.
        content = file.read(size + 1)
    if len(content) > size:
        raise ValueError("grew while it was read")
    return content


def inside(path: Path) -> Path:
    """Returns the path itself, after checking that it is not a link out of its directory.

    The Hub's cache consists of links: a snapshot's files point into ``blobs`` beside ``snapshots``, where they are
    named by their hash. Those links are allowed, also where ``blobs`` was moved and is a link itself.

    Raises:
        OSError: it is such a link, or a link to itself.
        ValueError: the path contains a NUL.
    """
    if not path.is_symlink():
        return path
    try:
        target = path.resolve()
    except RuntimeError:
        raise OSError(errno.ELOOP, "is a link to itself") from None
    home = path.parent.resolve()
    if target.is_relative_to(home) or (home.parent.name == "snapshots" and _is_blob(target, home.parent.parent)):
        return path
    raise OSError(
        errno.EPERM,
        f"links out of the directory, to {short_repr(str(target))}; put the file itself there",
    )


def _is_blob(target: Path, repository: Path) -> bool:
    """Whether a file is in the ``blobs`` of a repository in the Hub's cache."""
    try:
        blobs = (repository / "blobs").resolve()
    except RuntimeError:  # a link to itself
        return False
    return target.parent == blobs and _HASH.fullmatch(target.name) is not None


def parse_json(content: bytes, *, containers: int = MAX_CONTAINERS) -> Any:
    """Parses strict JSON: UTF-8, no duplicate keys, no -0, no NaN or infinity.

    Args:
        content: the text. Other encodings are errors, and so are unpaired surrogates (except in escapes).
        containers: the most lists and objects it may contain; they are counted before parsing.

    Raises:
        ValueError, RecursionError: the text is not such JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError(f"key {short_repr(_duplicate(pairs))} is duplicated")
        return made

    if content.startswith(LFS_POINTER):
        raise ValueError("a git-lfs pointer, not the file itself; get it with: git lfs pull")
    if has_more_containers(content, containers):
        raise ValueError(f"more than {containers} lists and objects")
    return json.loads(
        content.decode("utf-8"),
        object_pairs_hook=unique,
        parse_int=_integer,
        parse_float=finite_number,
        parse_constant=finite_number,
    )


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint directory, of at most ``limit`` bytes.

    Raises:
        CheckpointError: there is no such file, it leads out of the directory, it is too large or no regular
            file, it is not JSON, it has a duplicate key, or it is not an object.
    """
    try:
        content = parse_json(read_regular(inside(path), limit))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; {path.parent} is not a checkpoint directory") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); download it again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object; download it again")
    return content


def has_more_containers(content: bytes, limit: int) -> bool:
    """Whether there are more lists and objects than ``limit``; brackets in strings do not count."""
    if content.count(b"[") + content.count(b"{") <= limit:
        return False
    structure = content.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NOT_STRUCTURAL)
    # Adjacent quotes enclose nothing that is counted; removing them leaves few strings to skip.
    count = 0
    for match in _OUTSIDE_STRINGS.finditer(structure.replace(b'""', b"")):
        count += len(match["outside"] or b"")
        if count > limit:
            return True
    return False


def _integer(text: str) -> int:
    # An integer to Python, but a float to other parsers.
    if text == "-0":
        raise ValueError("-0 is not a whole number")
    return int(text)


def finite_number(text: str) -> float:
    """A number of JSON.

    Raises:
        ValueError: it is none, or too large to be one in Python.
    """
    # NaN and Infinity are not JSON, and only Python reads 1e999 as infinity.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{short_repr(text)} is not a JSON number")
    return value


def _duplicate(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            break
        seen.add(key)
    return key


class _Short(reprlib.Repr):
    """Python's notation, with limited length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxlist = self.maxdict = 8
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python never prints more digits than sys.set_int_max_str_digits allows, which is at least 640.
        bits = x.bit_length()
        return super().repr_int(x, level) if bits <= 2048 else f"<a whole number of {bits} bits>"


def short_repr(value: Any) -> str:
    """Formats any value for an error message: one line, printable and short."""
    return _Short().repr(value)
