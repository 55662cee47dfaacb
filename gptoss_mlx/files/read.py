"""The one way a file is read that a stranger may have written.

It is opened without waiting for anybody, only if it is a regular file, and no more of it is read than allowed.
JSON is strict UTF-8 and says everything once: where two readers could understand a file differently, it is
refused. Knows nothing of what the files mean; errors are the system's, or ValueError, except that
:func:`read_json`, for files of a checkpoint directory, raises CheckpointError.
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

__all__ = ["MAX_CONTAINERS", "inside", "open_regular", "parse_json", "read_json", "read_regular", "short_repr"]

MAX_CONTAINERS = 2**20
"""Two bytes of JSON make a list of 88; gpt-oss's tokenizer.json has 450,000 lists and objects."""
MAX_JSON_BYTES = 2 * 2**20
"""Of a config or an index, which has a few hundred bytes a tensor."""
_OUTSIDE_STRINGS = re.compile(rb'"[^"]*(?:"|\Z)|(?P<outside>[^"]+)')
_NO_MARKS = bytes(value for value in range(256) if value not in b'[{"')


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """Opens a file for reading, and gives its size in bytes.

    Raises:
        OSError: it cannot be opened, or is no regular file: a FIFO, a device or a directory.
        ValueError: the path holds a NUL.
    """
    # Non-blocking: opening a FIFO must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file")
    return os.fdopen(descriptor, "rb"), status.st_size


def read_regular(path: Path, limit: int) -> bytes:
    """A whole regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is larger, or grows.
    """
    file, size = open_regular(path)
    with file:
        if size > limit:
            raise ValueError(f"larger than the {limit} bytes that are read")
        # Not limit + 1: memory is taken for as much as is asked for.
        content = file.read(size + 1)
    if len(content) > size:
        raise ValueError("grew while it was read")
    return content


def inside(path: Path) -> Path:
    """The path itself, after making sure that a link there does not lead out of its directory.

    The Hub's cache is built of links: a snapshot's files point into ``blobs`` beside ``snapshots``. Those are
    followed.

    Raises:
        OSError: it does, or goes round in a circle.
        ValueError: the path holds a NUL.
    """
    if not path.is_symlink():
        return path
    try:
        target = path.resolve()
    except RuntimeError:
        raise OSError(errno.ELOOP, "is a link that leads to itself") from None
    home = path.parent.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise OSError(errno.EPERM, f"links out of the directory, to {short_repr(str(target))}")
    return path


def parse_json(content: bytes, *, containers: int = MAX_CONTAINERS) -> Any:
    """JSON in UTF-8, without a key that stands twice, -0, and numbers without an end.

    Args:
        content: the text. Nothing is guessed: other encodings are errors, and so are halves of surrogate pairs
            in it (those in escapes are not).
        containers: so many lists and objects it may have; they are counted before anything is parsed.

    Raises:
        ValueError, RecursionError: it is anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError(f"key {short_repr(_twice(pairs))} stands twice")
        return made

    if _counts_more(content, containers):
        raise ValueError(f"more than {containers} lists and objects")
    return json.loads(
        content.decode("utf-8"),
        object_pairs_hook=unique,
        parse_int=_integer,
        parse_float=_finite,
        parse_constant=_finite,
    )


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint directory, of at most ``limit`` bytes.

    Raises:
        CheckpointError: there is no such file, it leads out of the directory, it is too large or no regular
            file, it is not JSON, a key stands in it twice, or it is not an object.
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


def _counts_more(content: bytes, limit: int) -> bool:
    """Whether there are more lists and objects; those that are text in a string do not count."""
    if content.count(b"[") + content.count(b"{") <= limit:
        return False
    marks = content.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NO_MARKS)
    # Two quotes side by side open and close nothing that is left: without them there are few strings to pass over.
    count = 0
    for match in _OUTSIDE_STRINGS.finditer(marks.replace(b'""', b"")):
        count += len(match["outside"] or b"")
        if count > limit:
            return True
    return False


def _integer(text: str) -> int:
    # An integer to Python, a float to others.
    if text == "-0":
        raise ValueError("-0 is no whole number")
    return int(text)


def _finite(text: str) -> float:
    # NaN and Infinity are no JSON, and 1e999 is infinite to Python alone.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{short_repr(text)} is no number of JSON")
    return value


def _twice(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            break
        seen.add(key)
    return key


class _Short(reprlib.Repr):
    """Values as Python writes them, but not at any length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxlist = self.maxdict = 8
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out more digits than sys.set_int_max_str_digits allows: 640 in any case.
        bits = x.bit_length()
        return super().repr_int(x, level) if bits <= 2048 else f"<a whole number of {bits} bits>"


def short_repr(value: Any) -> str:
    """A value for an error message: in one line, printable, and short whatever it is."""
    return _Short().repr(value)
