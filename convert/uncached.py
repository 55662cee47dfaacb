"""Files that are written past the system's cache.

A conversion writes gigabytes that it never reads again. Writing them through the cache takes several times as long
as hashing them, because memory has to be found, cleared, filled and freed for each page, and it evicts what other
programs have in the cache. While one buffer is filled, the other is written in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gptoss_mlx.files.write import sync_descriptor

__all__ = ["UncachedFile"]

_BUFFER_BYTES = 4 * 1024**2
"""Written at once; a multiple of every page and sector size."""


class UncachedFile:
    """A new file, written once from front to back; through the cache where the filesystem requires it.

    Raises:
        OSError: the system refused; any method may raise it.
    """

    def __init__(self, path: Path) -> None:
        # Anonymous maps begin at a page, as direct writing requires.
        self._buffers = [mmap.mmap(-1, _BUFFER_BYTES), mmap.mmap(-1, _BUFFER_BYTES)]
        self._filled = 0  # bytes of the first buffer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="convert-write")
        self._writing: Future[None] | None = None  # of the second buffer
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._direct = _leave_cache(self._descriptor)

    def write(self, data: memoryview) -> None:
        """Adds bytes to the file; they are on the disk after :meth:`finish`."""
        while data:
            part = data[: _BUFFER_BYTES - self._filled]
            self._buffers[0][self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == _BUFFER_BYTES:
                self._flush()

    def finish(self) -> None:
        """Forces everything to the disk."""
        self._settle()
        # The last bytes seldom fill a sector, which direct writing requires.
        self._leave_direct()
        self._flush()
        self._settle()
        sync_descriptor(self._descriptor)

    def close(self) -> None:
        """Closes the file, finished or not, once its thread has ended.

        If a second interrupt ends the waiting, the descriptor stays open on purpose: the thread still uses it.
        """
        self._thread.shutdown(wait=True)
        os.close(self._descriptor)
        for buffer in self._buffers:
            buffer.close()

    def _flush(self) -> None:
        """Has the filled buffer written, once the other one is."""
        self._settle()
        self._writing = self._thread.submit(self._write_all, self._buffers[0], self._filled)
        self._buffers.reverse()
        self._filled = 0

    def _settle(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write_all(self, buffer: mmap.mmap, size: int) -> None:
        """Writes the first bytes of a buffer, in several calls if a call writes only a part."""
        done = 0
        with memoryview(buffer) as view:
            while done < size:
                with view[done:size] as rest:
                    written = self._write(rest)
                if written <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += written

    def _write(self, view: memoryview) -> int:
        try:
            return os.write(self._descriptor, view)
        except OSError as error:
            # Direct writing can be refused later too: after a partial write that ended within a sector.
            if error.errno != errno.EINVAL or not self._direct:
                raise
            self._leave_direct()
            return os.write(self._descriptor, view)

    def _leave_direct(self) -> None:
        if sys.platform != "darwin" and self._direct:
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            self._direct = False


def _leave_cache(descriptor: int) -> bool:
    """Asks the system to write past its cache; returns whether it now requires aligned, whole sectors."""
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False  # This filesystem has no direct writing.
    return True
