"""One conversion of a target at a time, across processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from gptoss_mlx.errors import ConversionError, FileWriteError, NotEnoughDisk

__all__ = ["locked"]


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Holds the lock beside ``target``. The system drops it when the process ends, however that happens.

    Raises:
        ConversionError: another process holds it.
        FileWriteError: the directory cannot be written to.
    """
    path = target.with_name(f".{target.name}.lock")
    descriptor = _acquire(path, target)
    try:
        yield
    finally:
        # Removed while it is held: who waits for nothing finds no file, or a new one.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, target: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NotEnoughDisk(f"{target}: no space left on the disk; free some and try again") from error
            raise FileWriteError(
                f"{target.parent}: cannot be written to ({reason}); choose another destination"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ConversionError(
                    f"{target}: another conversion to it is running; wait for it, or choose another destination"
                ) from error
            raise FileWriteError(f"{path}: cannot be locked ({error.strerror}); choose another disk") from error
        # The previous holder removed the file between our opening and our locking it.
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
