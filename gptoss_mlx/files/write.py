"""The one way anything is saved: whole or not at all.

A file is written beside its target, forced to the disk, and renamed over it; a directory likewise. After a
crash, a full disk or a power cut the target is what it was or what it was to become, never a part of it.
Knows nothing of what it writes.
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
    """What a user wrote as a path, a home directory at its beginning spelled out.

    Raises:
        InvalidRequest: it names a user who is not there, holds a NUL, or a name that no file can have.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise InvalidRequest(f"{text}: no such user's home; give the whole path") from error
    if "\0" in str(text):
        raise InvalidRequest(f"{text}: no file has a NUL in its name")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidRequest(f"{str(text)[:40]}…: no file has so long a name") from error
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

    What a process that was killed left of an earlier save into the same directory is removed first.

    Args:
        path: the target; its directory must exist. A symbolic link there is refused, not followed.
        private: readable by the owner alone (0600); otherwise as the umask says.

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
                # Before it is closed: until then it is locked, and nobody takes it for a leftover.
                os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(target.parent)


def _temporary_file(target: Path, mode: int) -> tuple[int, Path]:
    """A new hidden file beside the target, open for writing, and locked as long as it is open."""
    while True:
        temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}{_SUFFIX}")
        try:
            # With O_EXCL nobody else sees or swaps it before the rename; the umask applies to the mode.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            continue
        # Before it was locked, another process may have taken it for a leftover.
        if _lock(descriptor) is not False and temporary.exists():
            return descriptor, temporary
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _remove_leftovers(directory: Path) -> None:
    """Deletes the temporary files of processes that were killed while they saved into this directory.

    Whoever is at work on one has it locked; the system drops the lock when a process ends, however it does.
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
    """Locks a file until it is closed. False: somebody else has it locked; None: here are no locks."""
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
    partial = Path(staging) if staging is not None else _partial(target)
    with explained(target):
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
    """Removes what a killed :func:`atomic_directory` left beside its target; an old target moved aside comes back.

    Nobody else may be at work on the target.

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
    """Makes a directory (with its parents) that only its owner can enter (0700), and gives its path.

    Raises:
        FileWriteError: it cannot be made, or is a link or a file.
    """
    directory = Path(path)
    with explained(directory):
        _refuse_link(directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_IMODE(directory.stat().st_mode) & 0o077:
            directory.chmod(0o700)
    return directory


def private_file(path: str | Path) -> Path:
    """Makes an empty file to append to, if there is none, that only its owner can read (0600), and gives its path.

    For what grows line by line, where a torn last line is no loss; everything else is saved whole.

    Raises:
        FileWriteError: it cannot be made, or is a link or no regular file.
    """
    file = Path(path)
    with explained(file):
        _refuse_link(file)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileWriteError(f"{file}: is no regular file; name another")
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    return file


def sync_descriptor(descriptor: int) -> None:
    """Forces a file to the disk itself.

    macOS's fsync stops at the drive's cache; F_FULLFSYNC goes through it, and falls back to fsync on
    filesystems that refuse it (network shares, FAT).
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
        return kind(f"{path}: the directory {path.parent} does not exist; make it first")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return kind(f"{path}: no permission to write there; choose another place")
    return kind(f"{path}: cannot be written ({error.strerror or error}); nothing was changed")
