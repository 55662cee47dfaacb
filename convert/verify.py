"""Checks a converted directory against its manifest byte for byte, reading each file once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.checkpoint.safetensors import TensorRecord, read_header
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.files.read import inside, open_regular

from .manifest import MANIFEST_NAME, Manifest

__all__ = ["VerifyReport", "verify_checkpoint"]

_CHUNK = 8 * 1024**2
_NAMED = 3  # tensors of a file in one line


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of a verification."""

    directory: Path
    files: int
    tensors: int
    nbytes: int
    problems: tuple[str, ...]
    """A line for each damaged file, naming tensors; empty if every byte is as it was written."""

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.problems


def verify_checkpoint(
    directory: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Reads every file of a converted directory and reports each difference from the manifest.

    Args:
        directory: one that ``gptoss convert`` wrote.
        progress: called with the bytes read so far and the total.

    Raises:
        CheckpointError: there is no manifest, or it was changed.
    """
    directory = Path(directory)
    manifest = Manifest.read(directory)
    total = sum(entry.bytes for entry in manifest.files.values())
    problems: list[str] = []
    done = 0
    for name, entry in manifest.files.items():
        before = done
        for size in _check_file(directory / name, manifest, problems):
            done += size
            if progress is not None:
                progress(min(done, total), total)
        done = before + entry.bytes
    problems += [f"{directory / name}: is not in the manifest" for name in _extra(directory, manifest)]
    return VerifyReport(
        directory=directory,
        files=len(manifest.files) + 1,
        tensors=len(manifest.tensors),
        nbytes=total,
        problems=tuple(problems),
    )


def _extra(directory: Path, manifest: Manifest) -> list[str]:
    """Files that were added to those written, except hidden ones, which desktops create."""
    names = (path.name for path in directory.iterdir() if not path.name.startswith("."))
    return sorted(name for name in names if name not in manifest.files and name != MANIFEST_NAME)


def _check_file(path: Path, manifest: Manifest, problems: list[str]) -> Iterator[int]:
    """Hashes a file and its tensors in one pass; yields the size of each chunk read."""
    entry = manifest.files[path.name]
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            problems.append(f"{path}: has {size} bytes instead of {entry.bytes}")
            return
        digest = hashlib.sha256()
        tensors = _TensorHashes(path, problems) if path.suffix == ".safetensors" else None
        left = size  # bytes that the file's hash has still to cover
        if tensors is not None and manifest.format > 1:
            left = tensors.begin
        file, _ = open_regular(inside(path))
        with file:
            while chunk := file.read(_CHUNK):
                digest.update(memoryview(chunk)[:left])
                left -= min(left, len(chunk))
                if tensors is not None:
                    tensors.update(chunk)
                yield len(chunk)
    except OSError as error:
        problems.append(f"{path}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}")
        return
    if tensors is not None and not tensors.is_readable:
        return
    if difference := _difference(digest.hexdigest() == entry.sha256, tensors, manifest):
        problems.append(f"{path}: {difference}")


def _difference(is_same: bool, tensors: _TensorHashes | None, manifest: Manifest) -> str | None:
    """What differs in a file: a few of its tensors by name, or else what lies outside them."""
    changed = tensors.changed(manifest) if tensors is not None else []
    if len(changed) == 1:
        return f"tensor {changed[0]} differs"
    if changed:
        others = f" and {len(changed) - _NAMED} others" if len(changed) > _NAMED else ""
        return f"tensors differ: {', '.join(changed[:_NAMED])}{others}"
    if is_same:
        return None
    return f"{'its header' if tensors is not None else 'its content'} differs"


class _TensorHashes:
    """Hashes each tensor of a file from the consecutive chunks of the file."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self._name = path.name
        self._problems = problems
        self._position = 0
        #: Where the header ends and the first tensor begins.
        self.begin = 0
        self._hashes: dict[str, str] = {}
        self._current = hashlib.sha256()
        try:
            self._records: list[TensorRecord] = list(read_header(path).values())
            self.is_readable = True
            self.begin = self._records[0].begin if self._records else path.stat().st_size
        except CheckpointError as error:
            problems.append(str(error))
            self._records = []
            self.is_readable = False
        self._next = 0

    def update(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        start, end = self._position, self._position + len(chunk)
        while self._next < len(self._records):
            record = self._records[self._next]
            if record.begin >= end and record.nbytes:
                break
            part = view[max(record.begin, start) - start : max(0, record.end - start)]
            self._current.update(part)
            self._refuse_nan(record, part)
            if record.end > end:
                break
            self._hashes[record.name] = self._current.hexdigest()
            self._current = hashlib.sha256()
            self._next += 1
        self._position = end

    def _refuse_nan(self, record: TensorRecord, part: memoryview) -> None:
        """Reports NaN scales even if the manifest agrees with them: no conversion writes them."""
        if record.dtype == "U8" and record.name.endswith("scales") and b"\xff" in bytes(part):
            problem = f"{record.file}: tensor {record.name} holds NaN scales"
            if problem not in self._problems:  # a tensor may come in several parts
                self._problems.append(problem)

    def changed(self, manifest: Manifest) -> list[str]:
        """The tensors whose hash differs from the manifest's, or that only one of file and manifest has."""
        written = {name: entry.sha256 for name, entry in manifest.tensors.items() if entry.file == self._name}
        return [name for name in written | self._hashes if written.get(name) != self._hashes.get(name)]
