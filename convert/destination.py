"""The directory that a conversion writes: where it may be, its lock, and the space that it needs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from gptoss_mlx.errors import ConversionError, FileWriteError, NotEnoughDisk
from gptoss_mlx.files.units import format_bytes
from gptoss_mlx.files.write import explained
from gptoss_mlx.hub import downloads
from gptoss_mlx.hub import models as hub

from .uncached import UncachedFile

__all__ = [
    "DISK_RESERVE",
    "check_apart",
    "check_destination",
    "check_parent",
    "exclusive",
    "make_parent",
    "measured_rate",
    "require_space",
]

DISK_RESERVE = 64 * 1024**2
"""Free space that must be left, in bytes."""
_SAMPLE_BYTES = 64 * 1024**2


def check_destination(target: Path, *, force: bool) -> None:
    """Refuses a destination that no conversion may have, whatever its source."""
    if target.name == hub.DEMO and target.parent == hub.data_directory():
        raise ConversionError(
            f"{target}: {hub.DEMO} is the name of the built-in model; choose another destination"
        )
    if target.name in ("", ".."):
        raise ConversionError(f"{target}: give the destination by its own name")
    if target.is_symlink():
        raise ConversionError(f"{target}: is a symbolic link; name the directory it points to")
    if not target.exists():
        return
    if not target.is_dir():
        raise ConversionError(f"{target}: is a file; choose another destination")
    if not force:
        raise ConversionError(f"{target}: exists; --force replaces it, or choose another destination")
    if any(target.iterdir()) and not (target / "config.json").exists():
        raise ConversionError(f"{target}: is not a checkpoint, so it is not replaced; choose another destination")


def check_apart(target: Path, source: Path) -> None:
    if _is_inside(target, source):
        raise ConversionError(f"{target}: is inside the source {source}; choose a destination outside it")
    if _is_inside(source, target):
        raise ConversionError(f"{target}: contains the source {source}; choose another destination")


def _is_inside(path: Path, directory: Path) -> bool:
    """Whether a path is the directory or inside it; a directory can have several names (mounts, case)."""
    if not directory.exists():
        return False
    absolute = path.resolve()
    return any(parent.exists() and parent.samefile(directory) for parent in (absolute, *absolute.parents))


def check_parent(target: Path) -> None:
    """Checks the parent of the target: the data directory may be created, any other must exist."""
    if target.parent == hub.data_directory():
        existing = next(parent for parent in target.parents if parent.exists())
    elif target.parent.is_dir():
        existing = target.parent
    else:
        raise ConversionError(f"{target}: the directory {target.parent} does not exist; create it first")
    if not os.access(existing, os.W_OK):
        raise FileWriteError(f"{target}: no permission to write in {existing}; choose another destination")


def make_parent(target: Path) -> None:
    if target.parent == hub.data_directory():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileWriteError(
                f"{target.parent}: cannot be created ({error.strerror}); name a destination"
            ) from error


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Allows one conversion to a target at a time, across processes; a killed one lets go of its lock."""
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, blocking=False)
    with explained(target):
        try:
            lock.acquire()
        except Timeout as error:
            if not os.access(path, os.W_OK):  # filelock waits for a file that it may not make, too
                raise FileWriteError(
                    f"{path}: the lock of the conversion cannot be made; choose a destination in another directory"
                ) from error
            raise ConversionError(
                f"{target}: another conversion to it is running; wait for it, or choose another destination"
            ) from error
    try:
        yield
    finally:
        # Removed before it is released, so that nobody locks a file that is about to disappear.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def measured_rate(target: Path) -> float:
    """Bytes a second that a conversion writes there: 64 MB are written to a file of its own, hashed, and deleted.

    Raises:
        FileWriteError, NotEnoughDisk: nothing can be written there.
    """
    directory = next(parent for parent in target.absolute().parents if parent.is_dir())
    data = memoryview(bytes(_SAMPLE_BYTES))
    with explained(target), tempfile.TemporaryDirectory(dir=directory, prefix=".gptoss-rate-") as place:
        began = time.perf_counter()
        file = UncachedFile(Path(place) / "sample")
        try:
            file.write(data)
            hashlib.sha256(data).digest()
            file.finish()
        finally:
            file.close()
        return _SAMPLE_BYTES / (time.perf_counter() - began)


def require_space(target: Path, nbytes: int) -> None:
    free = downloads.free_space(target.parent)
    if free < nbytes:
        raise NotEnoughDisk(
            f"{target}: {format_bytes(nbytes)} are needed and {format_bytes(free)} are free; "
            "free some, or name a destination on another disk"
        )
