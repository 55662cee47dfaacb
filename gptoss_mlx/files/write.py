"""The one writer: it saves a file or directory completely or not at all.

A file or directory is written beside its target, synced to the disk, and renamed over the target. After a crash, a
full disk or a power cut the target is either the old version or the new one, never a part. Knows nothing of the
files' meaning.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import FileWriteError, GptOssError, InvalidRequest, NotEnoughDisk

__all__ = [
    "appended",
    "as_path",
    "atomic_directory",
    "atomic_file",
    "clear_remains",
    "explained",
    "private_directory",
    "private_file",
    "sync_descriptor",
    "sync_directory",
    "write_bytes",
    "write_text",
]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SUFFIX = ".gptoss.tmp"
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}" + re.escape(_SUFFIX), re.DOTALL)


def as_path(text: str | Path) -> Path:
    """A path as a user wrote it, with ``~`` expanded.

    Raises:
        InvalidRequest: it names an unknown user, contains a NUL, or has a name that is too long.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise InvalidRequest(f"{text}: there is no such user; give the whole path") from error
    if "\0" in str(text):
        raise InvalidRequest(f"{text}: a file name cannot contain a NUL")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidRequest(f"{str(text)[:40]}…: the file name is too long") from error
    return path


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

    Temporary files that killed processes left in the same directory are removed first.

    Args:
        path: the target; its directory must exist. A symbolic link there is refused, not followed.
        private: whether only the owner may read it (0600); otherwise the umask decides.

    Raises:
        FileWriteError: the target is a link or a directory, or the system refused; nothing was changed.
        NotEnoughDisk: the disk is full; nothing was changed.
    """
    target = Path(path)
    with explained(target):
        _refuse_link(target)
        if target.is_dir():
            raise FileWriteError(f"{target}: is a directory; name a file")
        _remove_leftovers(target.parent)
        descriptor, temporary = _temporary_file(target, 0o600 if private else 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                sync_descriptor(file.fileno())
                # Before it is closed: while it is locked, no other process removes it as a leftover.
                os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(target.parent)


def _temporary_file(target: Path, mode: int) -> tuple[int, Path]:
    """Creates a hidden file beside the target, open for writing, and locked while it is open."""
    while True:
        temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}{_SUFFIX}")
        try:
            # O_EXCL: no other process can have prepared this file. The umask applies to the mode.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            continue
        # Another process may have removed it as a leftover before it was locked.
        if _lock(descriptor) is not False and temporary.exists():
            return descriptor, temporary
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _remove_leftovers(directory: Path) -> None:
    """Deletes the temporary files of processes that were killed while they saved into this directory.

    A process holds a lock on the file it is writing; the system releases the lock when the process ends.
    """
    with contextlib.suppress(OSError):
        for name in filter(_TEMPORARY.fullmatch, os.listdir(directory)):
            _remove_leftover(directory / name)


def _remove_leftover(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor):
                os.unlink(path)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Locks a file until it is closed. False: another process holds the lock; None: locks are not supported."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, *, staging: str | Path | None = None, replace: bool = False, keep_on_error: bool = False
) -> Iterator[Path]:
    """Yields a staging directory that is renamed to ``path`` when the block ends without an error.

    The caller must sync the files in it (:func:`sync_descriptor`); directories and renames are synced here. With
    ``replace`` the old directory is moved aside first and deleted last: between the two renames the target does
    not exist, but it never mixes old and new files.

    Args:
        path: the target; its parent must exist.
        staging: the staging directory, on the same filesystem; by default ``.NAME.partial`` beside the target.
        replace: whether to replace an existing target; otherwise it is an error.
        keep_on_error: whether to keep the staging directory for a later run.

    Raises:
        FileWriteError: the target exists or is a link, or the system refused; the target is unchanged.
        NotEnoughDisk: the disk is full; the target is unchanged.
    """
    target = Path(path)
    partial = Path(staging) if staging is not None else _partial(target)
    with explained(target):
        _refuse_link(target)
        _refuse_link(partial)
        if target.exists() and not replace:
            raise FileWriteError(f"{target}: exists; choose another path, or replace it explicitly")
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
    """Renames ``partial`` to ``target``, after moving an old target aside."""
    retired = _retired(target)
    try:
        if target.exists():
            shutil.rmtree(retired, ignore_errors=True)
            os.rename(target, retired)
            sync_directory(target.parent)
        os.rename(partial, target)
    except BaseException:
        if retired.exists() and not target.exists():
            os.rename(retired, target)
        raise
    sync_directory(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def clear_remains(path: str | Path) -> None:
    """Removes what a killed :func:`atomic_directory` left, and restores an old target that was moved aside.

    No other process may be writing the target.

    Raises:
        FileWriteError: the system refused.
    """
    target = Path(path)
    retired = _retired(target)
    with explained(target):
        if retired.is_dir() and not target.exists():
            os.rename(retired, target)
        for remains in (retired, _partial(target)):
            if remains.is_dir() and not remains.is_symlink():
                shutil.rmtree(remains)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _retired(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def private_directory(path: str | Path) -> Path:
    """Creates a directory (with its parents) that only its owner can enter (0700), and returns its path.

    Raises:
        FileWriteError: it cannot be created, or is a link or a file.
    """
    directory = Path(path)
    with explained(directory):
        _refuse_link(directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_IMODE(directory.stat().st_mode) & 0o077:
            directory.chmod(0o700)
    return directory


def private_file(path: str | Path) -> Path:
    """Creates a file to append to, unless it exists, that only its owner can read (0600), and returns its path.

    For logs, where an incomplete last line does no harm; everything else is saved atomically.

    Raises:
        FileWriteError: it cannot be created, or is a link or not a regular file.
    """
    file = Path(path)
    with explained(file):
        _refuse_link(file)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileWriteError(f"{file}: is not a regular file; choose another path")
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    return file


@contextlib.contextmanager
def appended(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a file to append lines to, readable by its owner alone. An incomplete last line, which a killed
    process may have left, is removed.

    Raises:
        FileWriteError: it cannot be created, is a link or not a regular file, or another process appends to it.
    """
    file = private_file(path)
    with explained(file), file.open("r+b") as lines:
        try:
            fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileWriteError(f"{file}: another process writes it; wait until that has ended") from None
        end = lines.seek(0, os.SEEK_END)
        while end and (lines.seek(end - 1), lines.read(1))[1] != b"\n":
            end -= 1
        lines.truncate(end)
        lines.seek(end)
        yield lines


def sync_descriptor(descriptor: int) -> None:
    """Syncs a file to the disk.

    macOS's fsync stops at the drive's cache, so F_FULLFSYNC is used there; filesystems that refuse it (network
    shares, FAT) get fsync.
    """
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.ENODEV):
                raise
    os.fsync(descriptor)


def sync_directory(path: str | Path) -> None:
    """Syncs the entries of a directory (such as a rename) to the disk, where the system supports it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # Writable but not readable: the rename is done but cannot be synced.
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


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the system's errors into typed ones that name the path and the remedy.

    Raises:
        FileWriteError: the system refused.
        NotEnoughDisk: the disk is full.
    """
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
        return kind(f"{path}: the directory {path.parent} does not exist; create it first")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return kind(f"{path}: no permission to write there; choose another path")
    return kind(f"{path}: cannot be written ({error.strerror or error}); nothing was changed")
