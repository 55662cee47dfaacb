"""The one way anything is saved: whole or not at all.

A file is written beside its target, forced to the disk, and renamed over it; a directory likewise. After a
crash, a full disk or a power cut the target is what it was or what it was to become, never a part of it.
Knows nothing of what it writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import FileWriteError, GptOssError, NotEnoughDisk

__all__ = [
    "atomic_directory",
    "atomic_file",
    "private_directory",
    "sync_descriptor",
    "sync_directory",
    "write_bytes",
    "write_text",
]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_text(path: str | Path, text: str, *, private: bool = False) -> None:
    """Saves UTF-8 text: see :func:`atomic_file`."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_bytes(path: str | Path, content: bytes, *, private: bool = False) -> None:
    """Saves bytes: see :func:`atomic_file`."""
    with atomic_file(path, private=private) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: str | Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces ``path`` when the block ends without an error.

    Args:
        path: the target; its directory must exist. A symbolic link there is refused, not followed.
        private: readable by the owner alone (0600); otherwise as the umask says.

    Raises:
        FileWriteError: the target is a link or a directory, or the system refused; nothing was changed.
        NotEnoughDisk: the disk is full; nothing was changed.
    """
    target = Path(path)
    with _explained(target):
        _refuse_link(target)
        if target.is_dir():
            raise FileWriteError(f"{target}: is a directory; name a file")
        # mkstemp opens with O_EXCL and 0600, so nobody else sees or swaps it before the rename.
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if not private:
                    os.fchmod(file.fileno(), 0o666 & ~_umask())
                yield file
                file.flush()
                sync_descriptor(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(target.parent)


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, *, staging: str | Path | None = None, replace: bool = False, keep_on_error: bool = False
) -> Iterator[Path]:
    """Gives a staging directory that becomes ``path`` in one rename when the block ends without an error.

    Files in it must be synced by whoever writes them (:func:`sync_descriptor`); the directories and the
    rename are synced here. With ``replace`` the old directory is moved aside first and deleted last: between
    the two renames there is no target at all, never a mixture.

    Args:
        path: the target; its parent must exist.
        staging: where to build, on the same filesystem; by default ``.NAME.partial`` beside the target.
        replace: an existing target is replaced; otherwise it is an error.
        keep_on_error: leave the staging directory for a later run instead of deleting it.

    Raises:
        FileWriteError: the target exists or is a link, or the system refused; the target is unchanged.
        NotEnoughDisk: the disk is full; the target is unchanged.
    """
    target = Path(path)
    partial = Path(staging) if staging is not None else target.with_name(f".{target.name}.partial")
    with _explained(target):
        _refuse_link(target)
        _refuse_link(partial)
        if target.exists() and not replace:
            raise FileWriteError(f"{target}: exists; name another place, or replace it on purpose")
        partial.mkdir(exist_ok=True)
        try:
            yield partial
            sync_directory(partial)
            _rename_directory(partial, target)
        except BaseException:
            if not keep_on_error:
                shutil.rmtree(partial, ignore_errors=True)
            raise


def _rename_directory(partial: Path, target: Path) -> None:
    """Moves ``partial`` to ``target``, and an old target out of the way first."""
    retired = target.with_name(f".{target.name}.replaced")
    if target.exists():
        shutil.rmtree(retired, ignore_errors=True)
        os.rename(target, retired)
        sync_directory(target.parent)
    try:
        os.rename(partial, target)
    except OSError:
        if retired.exists() and not target.exists():
            os.rename(retired, target)
        raise
    sync_directory(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def private_directory(path: str | Path) -> Path:
    """Makes a directory (with its parents) that only its owner can enter (0700), and gives its path.

    Raises:
        FileWriteError: it cannot be made, or is a link or a file.
    """
    directory = Path(path)
    with _explained(directory):
        _refuse_link(directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_IMODE(directory.stat().st_mode) & 0o077:
            directory.chmod(0o700)
    return directory


def sync_descriptor(descriptor: int) -> None:
    """Forces a file to the disk itself.

    macOS's fsync stops at the drive's cache; F_FULLFSYNC goes through it, and falls back to fsync on
    filesystems that refuse it (network shares, FAT).
    """
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.ENODEV):
                raise
    os.fsync(descriptor)


def sync_directory(path: str | Path) -> None:
    """Forces a directory's entries (a rename in it) to the disk, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # Writable but not readable: the rename is done, only its durability cannot be asked for.
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise FileWriteError(f"{path}: is a symbolic link; name the file it points to")


def _umask() -> int:
    # There is no way to read it but to set it.
    current = os.umask(0o077)
    os.umask(current)
    return current


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns the system's errors into ours, with the path and the remedy."""
    try:
        yield
    except GptOssError:
        raise
    except OSError as error:
        raise _explanation(error, path) from error


def _explanation(error: OSError, path: Path) -> GptOssError:
    kind: Callable[[str], GptOssError] = FileWriteError
    if error.errno in _NO_SPACE:
        return NotEnoughDisk(f"{path}: no space left on the disk; free some and try again")
    if isinstance(error, FileNotFoundError):
        return kind(f"{path}: the directory {path.parent} does not exist; make it first")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return kind(f"{path}: no permission to write there; choose another place")
    return kind(f"{path}: cannot be written ({error.strerror or error}); nothing was changed")
