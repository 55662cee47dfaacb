"""Long results, shortened for the model: their beginning and end, and the name of a file with the whole.

Knows results and files; knows nothing of tools.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import GptOssError
from ..files.write import private_directory, write_text

if TYPE_CHECKING:
    from ..events import ToolCall, ToolResult

__all__ = ["ResultLimit"]

_MOST_FILES: Final = 100
_MOST_BYTES: Final = 256 * 2**20
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_-]+")


class ResultLimit:
    """An ``after_call`` of a chat that shortens long results.

    Args:
        directory: for the files. The oldest ones are deleted: 100 files and 256 MB are kept.
        characters: of a result that the model reads whole, and of what it reads of a longer one.

    Example:
        >>> limit = ResultLimit(directory, characters=10)
        >>> limit(ToolCall(name="functions.f", arguments="{}"), ToolResult(name="functions.f", output="short"))
    """

    def __init__(self, directory: Path, *, characters: int = 16_000) -> None:
        self._directory = directory
        self._characters = characters
        self._numbers = itertools.count(1)

    def __call__(self, call: ToolCall, result: ToolResult) -> str | None:
        """The beginning and the end of a result that is too long; None: it is not."""
        half = self._characters // 2
        text = result.output
        if len(text) <= self._characters:
            return None
        left = len(text) - 2 * half
        try:
            where = f"the whole result is in {self._write(call.name, text)}"
        except GptOssError as error:
            where = f"it could not be written to a file: {error}"
        return f"{text[:half]}\n[… {left:,} characters are left out here; {where} …]\n{text[-half:]}"

    def _write(self, name: str, text: str) -> Path:
        directory = private_directory(self._directory)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        tool = _ILLEGAL.sub("_", name.removeprefix("functions."))[:64]
        path = directory / f"{stamp}-{next(self._numbers):04}-{tool}.txt"
        write_text(path, text, private=True)
        self._delete_oldest(directory)
        return path

    def _delete_oldest(self, directory: Path) -> None:
        """Keep the newest files, within the bounds."""
        kept = size = 0
        for path in sorted(directory.glob("*.txt"), reverse=True):
            with contextlib.suppress(OSError):
                kept, size = kept + 1, size + path.stat().st_size
                if kept > 1 and (kept > _MOST_FILES or size > _MOST_BYTES):
                    path.unlink()
