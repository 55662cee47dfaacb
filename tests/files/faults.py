"""Saves a file over another, with a fault at every call."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from gptoss_mlx.errors import GptOssError
from tests.convert.faults import faulty
from tests.forks import in_fork
from tests.hub.faults import die

__all__ = ["NEW", "OLD", "Save"]

CALLS = ("write", "fsync", "replace", "open")
OLD, NEW = "the old one", "the new one"


class Save:
    """Saves a file twice, in forks of this process.

    Args:
        path: the only file in its directory.
        old: saves the old content.
        new: saves the new content.
    """

    def __init__(self, path: Path, old: Callable[[], None], new: Callable[[], None]) -> None:
        self.path, self._new = path, new
        self._contents = {}
        for name, save in ((OLD, old), (NEW, new)):
            assert in_fork(save) == 0
            self._contents[path.read_bytes()] = name
        assert len(self._contents) == 2

    def failures(self, happens: Callable[[], None], kind: type[GptOssError]) -> Iterator[str]:
        """Counts the results of a fault at the first call that changes the disk, at the second, and so on."""
        for at in itertools.count(1):
            self._restore()
            ended = in_fork(lambda at=at: self._fail(at, happens, kind))  # type: ignore[misc]
            if ended == 0:
                return
            assert ended == 1
            assert [left.name for left in self.path.parent.iterdir()] == [self.path.name]
            yield self._which()

    def kills(self, *, after: bool) -> Iterator[str]:
        """The same with a kill before or after each call; asserts that the next save removes what is left."""
        for at in itertools.count(1):
            self._restore()
            ended = in_fork(lambda at=at: self._die(at, after))  # type: ignore[misc]
            if ended == 0:
                return
            assert ended == -signal.SIGKILL
            yield self._which()
            assert in_fork(self._new) == 0
            assert [left.name for left in self.path.parent.iterdir()] == [self.path.name]

    def outcomes(self, faults: dict[str, tuple[Callable[[], None], type[GptOssError]]]) -> Counter[str]:
        """Makes all faults and counts the results."""
        found: Counter[str] = Counter()
        for name, (happens, kind) in faults.items():
            found.update(f"{name}: {which}" for which in self.failures(happens, kind))
        for after in (False, True):
            found.update(f"killed: {which}" for which in self.kills(after=after))
        return found

    def _restore(self) -> None:
        self.path.write_bytes(next(content for content, name in self._contents.items() if name == OLD))

    def _which(self) -> str:
        return self._contents[self.path.read_bytes()]

    def _save_with(self, at: int, happens: Callable[[], None], after: bool = False) -> bool:
        """Whether there was such a call."""
        with faulty(at, happens, CALLS, after=after) as system:
            self._new()
        return system.count >= at

    def _die(self, at: int, after: bool) -> None:
        assert not self._save_with(at, die, after), "it lives"

    def _fail(self, at: int, happens: Callable[[], None], kind: type[GptOssError]) -> int:
        """0 if there was no such call; 1 if it ended in the right error."""
        message = None
        try:
            assert not self._save_with(at, happens), "no error"
        except kind as error:
            message = str(error)
        assert message is None or (message.startswith(str(self.path)) and message.isprintable())
        return 0 if message is None else 1
