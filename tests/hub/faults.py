"""Makes the disk fail, or the process die, at a chosen moment of a download.

The Hub's library writes the files, so the moments are audit events: each that opens a file of the cache for
writing, or renames, links, creates or removes one. Each download runs in a fork of this process, which never
downloads itself.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from gptoss_mlx.hub import downloads
from tests.forks import in_fork

__all__ = ["FAULTS", "SURVIVED", "Downloads", "die", "fail"]

SURVIVED = 3
"""The exit status of a download that came through in spite of the fault."""

_EVENTS = ("os.rename", "os.mkdir", "os.symlink", "os.link", "os.remove", "os.chmod", "os.truncate", "shutil.move")


class Downloads:
    """Repeated downloads of a repository from a fake Hub into one cache."""

    def __init__(self, repo_id: str, url: str, cache: Path, expected: dict[str, bytes]) -> None:
        self.repo_id, self.url, self.cache, self.expected = repo_id, url, cache, expected
        self._happened = False

    def _point_to_fake(self) -> None:
        constants.HF_HUB_OFFLINE = False
        constants.ENDPOINT = self.url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        constants.HF_HUB_CACHE = str(self.cache)

    def attempt(self, at: int | None, happens: Callable[[], None]) -> int:
        """Downloads in a child, with a fault at the event of that number.

        Returns:
            0: there was no such event; 1: a typed error; ``SURVIVED``; or the signal that ended the child.
        """
        return in_fork(lambda: self._download(at, happens))

    def _download(self, at: int | None, happens: Callable[[], None]) -> int:
        self._point_to_fake()
        self._watch(at, happens)
        downloads.download(downloads.plan_download(self.repo_id))
        return SURVIVED if self._happened else 0

    def _watch(self, at: int | None, happens: Callable[[], None]) -> None:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event == "open":
                path, _, flags = arguments
                changes = isinstance(path, str | os.PathLike) and (flags or 0) & (os.O_WRONLY | os.O_RDWR)
                changes = changes and str(path).startswith(str(self.cache))
            else:
                changes = event in _EVENTS
            if changes:
                count += 1
                if count == at:
                    self._happened = True
                    happens()

        sys.addaudithook(hook)

    def state(self) -> str:
        """Asserts that the model is found completely or not at all, and says which."""
        constants.HF_HUB_CACHE = str(self.cache)
        found = downloads.cached_snapshot(self.repo_id)
        if found is None:
            return "nothing"
        assert {name: (found / name).read_bytes() for name in self.expected} == self.expected
        return "everything"


def die() -> None:
    """SIGKILL, as the out-of-memory killer sends it."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Callable[[], None]:
    """Fails as the disk does."""

    def happens() -> None:
        raise OSError(number, os.strerror(number))

    return happens


FAULTS: dict[str, Callable[[], None]] = {
    "SIGKILL": die,
    "ENOSPC": fail(errno.ENOSPC),
    "EIO": fail(errno.EIO),
}
