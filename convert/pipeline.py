"""The conversion from end to end: find, check, plan, write beside the target, rename.

Whatever happens, the target is either unchanged or the whole result; the source is only read.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from gptoss_mlx.config import PRECISIONS, Precision
from gptoss_mlx.errors import CheckpointError, ConversionError, FileWriteError, ModelNotFound, NotEnoughDisk
from gptoss_mlx.files.read import inside, parse_json, read_regular
from gptoss_mlx.files.units import format_bytes
from gptoss_mlx.files.write import as_path, atomic_directory, clear_remains, explained
from gptoss_mlx.hub import downloads
from gptoss_mlx.hub import models as hub
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import token_bytes

from .manifest import MANIFEST_NAME, Manifest
from .precision import losses, precision_for
from .quantize import QuantizationError
from .source import SourceModel, open_source
from .targets import TARGETS, TargetFormat, TargetTensor, target_config, target_tensors
from .writer import DirectoryWriter, Shard, plan_shards

__all__ = ["ConversionPlan", "ConversionProgress", "ConversionReport", "convert_checkpoint", "plan_conversion"]

ConversionProgress = Callable[[Literal["download", "convert"], int, int], None]
"""Called with the stage, the bytes done and the total, from any thread."""

# Copied to the target if the source has them.
_TOKENIZER = "tokenizer.json"
_COPIED = (
    _TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
)
_MAX_COPIED = 64 * 1024**2
_DISK_RESERVE = 64 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """A conversion that was checked and has not begun."""

    reference: str
    source: SourceModel
    destination: Path
    target: TargetFormat
    dense: Precision
    reason: str
    """One line: why this precision was chosen."""
    losses: tuple[str, ...]
    """Each change that the conversion makes to the weights' values; empty if it is lossless."""
    shards: tuple[Shard, ...]
    small_files: Mapping[str, bytes]
    force: bool
    """Whether an existing destination may be replaced."""

    @property
    def tensors(self) -> list[TargetTensor]:
        """The tensors to write, in order."""
        return [tensor for shard in self.shards for tensor in shard.tensors]

    @property
    def nbytes(self) -> int:
        """The size of the tensors to write."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bytes_per_token(self) -> dict[Precision, int]:
        """Bytes that a decoded token reads, at this precision and the others."""
        return token_bytes(self.source.config)

    @property
    def disk_bytes(self) -> int:
        """The free disk space that is needed."""
        return (
            sum(shard.nbytes for shard in self.shards) + sum(map(len, self.small_files.values())) + _DISK_RESERVE
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """The result of a conversion."""

    source: str
    revision: str | None
    layout: str
    """The source's layout."""
    destination: Path
    target: TargetFormat
    dense: Precision
    reason: str
    losses: tuple[str, ...]
    bytes_per_token: Mapping[Precision, int]
    """Bytes that a decoded token reads, at this precision and the others."""
    tensors: int
    bytes_in: int
    """Bytes read from the source's tensors."""
    bytes_out: int
    """The size of the files written."""
    seconds: float
    peak_memory: int
    """The process's peak memory, in bytes."""
    experts_error: QuantizationError | None
    """The error of quantising unpacked experts; None if they were copied bit for bit."""

    @property
    def rate(self) -> float:
        """Bytes written per second."""
        return self.bytes_out / max(self.seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        error = self.experts_error
        return {
            "source": self.source,
            "revision": self.revision,
            "layout": self.layout,
            "destination": str(self.destination),
            "target": self.target,
            "dense": self.dense,
            "reason": self.reason,
            "losses": list(self.losses),
            "bytes_per_token": dict(self.bytes_per_token),
            "tensors": self.tensors,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "seconds": self.seconds,
            "rate": self.rate,
            "peak_memory": self.peak_memory,
            "experts_error": None if error is None else {"largest": error.largest, "relative": error.relative},
        }


def convert_checkpoint(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    dense: Precision | None = None,
    to: TargetFormat = "mlx",
    force: bool = False,
    download: bool = False,
    progress: ConversionProgress | None = None,
) -> ConversionReport:
    """Converts a checkpoint completely or not at all.

    Args:
        source: ``20b``, ``120b``, a Hub repository id, or a directory in any supported layout.
        destination: the directory to create; by default one in the user's data directory, where
            ``gptoss_mlx.load`` finds it by the source's name.
        dense: how attention, embedding and head are stored; by default lossless (bf16) where that fits this
            machine with 8,192 tokens of context, else q8, else q4; of a quantised source, as they are.
        to: the layout: ``mlx`` for this library, ``hf`` for Hugging Face's, ``mlx-lm`` for mlx-lm's.
        force: whether to replace an existing destination.
        download: whether to download the source from the Hub if it is not on this machine.
        progress: called from time to time, see :data:`ConversionProgress`.

    Raises:
        ModelNotFound: the source is not on this machine.
        DownloadError: it could not be downloaded.
        CheckpointError: the source is damaged or not a gpt-oss; names the tensor or file.
        ConversionError: the destination exists, is inside the source, or is being written by another process.
        NotEnoughDisk: it does not fit; checked before anything is written.
        FileWriteError: the destination cannot be written.
    """
    plan = plan_conversion(
        source, destination, dense=dense, to=to, force=force, download=download, progress=progress
    )
    return carry_out(plan, progress=progress)


def plan_conversion(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    dense: Precision | None = None,
    to: TargetFormat = "mlx",
    force: bool = False,
    download: bool = False,
    progress: ConversionProgress | None = None,
    device: DeviceInfo | None = None,
) -> ConversionPlan:
    """Does everything before the first byte is written: see :func:`convert_checkpoint`.

    The precision is chosen for ``device``, by default this machine.
    """
    if to not in TARGETS:
        raise ConversionError(f"target is {to!r}; one of {', '.join(TARGETS)} is needed")
    if dense is not None and dense not in PRECISIONS:
        raise ConversionError(f"dense is {dense!r}; one of {', '.join(PRECISIONS)} is needed")
    reference = str(source)
    if to != "mlx" and destination is None:
        raise ConversionError(f"--to {to}: name a destination; models found by name are in gptoss's own layout")
    target = as_path(destination) if destination is not None else hub.converted_path(reference)
    _check_target(target, force=force)
    _check_parent(target)
    directory = _locate(reference, target, to, download=download, progress=progress)
    _check_apart(target, directory)
    model = open_source(directory)
    precision, reason = precision_for(model.config, model.quantization, to, dense, device)
    shards = tuple(plan_shards(target_tensors(model, to, precision)))
    return ConversionPlan(
        reference=reference,
        source=model,
        destination=target,
        target=to,
        dense=precision,
        reason=reason,
        losses=losses(model, precision),
        shards=shards,
        small_files=_small_files(model, to, precision),
        force=force,
    )


def carry_out(plan: ConversionPlan, *, progress: ConversionProgress | None = None) -> ConversionReport:
    """Carries out a plan: see :func:`convert_checkpoint`."""
    began = time.perf_counter()
    target = plan.destination
    _make_parent(target)
    with plan.source, _exclusive(target):
        clear_remains(target)
        # Again, now that no other process can be writing it.
        _check_target(target, force=plan.force)
        _require_space(target, plan.disk_bytes)
        with atomic_directory(target, replace=plan.force) as staging:
            manifest = _write(plan, staging, progress)
    return ConversionReport(
        source=plan.reference,
        revision=_revision(plan.source.directory),
        layout=plan.source.layout.name,
        destination=target,
        target=plan.target,
        dense=plan.dense,
        reason=plan.reason,
        losses=plan.losses,
        bytes_per_token=plan.bytes_per_token,
        tensors=len(manifest.tensors),
        bytes_in=plan.source.files.bytes_read,
        bytes_out=sum(entry.bytes for entry in manifest.files.values()),
        seconds=time.perf_counter() - began,
        peak_memory=_peak_memory(),
        experts_error=plan.source.experts_error,
    )


def _locate(
    reference: str, target: Path, to: TargetFormat, *, download: bool, progress: ConversionProgress | None
) -> Path:
    """The source's directory; downloads it if that is allowed and needed, and both it and its conversion fit."""
    try:
        # A converted model can be exported by its name.
        return hub.find_source(reference) if to == "mlx" else hub.resolve(reference)
    except ModelNotFound:
        repo_id = hub.repository_of(reference)
        if not download or repo_id is None:
            raise
    plan = downloads.plan_download(repo_id)
    # The target is never larger than the source.
    needed = plan.nbytes + (plan.missing_bytes if downloads.shares_disk_with_cache(target) else 0)
    _require_space(target, needed + _DISK_RESERVE)
    report = None if progress is None else (lambda done, total: progress("download", done, total))
    return downloads.download(plan, progress=report)


def _check_target(target: Path, *, force: bool) -> None:
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


def _check_apart(target: Path, source: Path) -> None:
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


def _check_parent(target: Path) -> None:
    """Checks the parent of the target: the data directory may be created, any other must exist."""
    if target.parent == hub.data_directory():
        existing = next(parent for parent in target.parents if parent.exists())
    elif target.parent.is_dir():
        existing = target.parent
    else:
        raise ConversionError(f"{target}: the directory {target.parent} does not exist; create it first")
    if not os.access(existing, os.W_OK):
        raise FileWriteError(f"{target}: no permission to write in {existing}; choose another destination")


def _make_parent(target: Path) -> None:
    if target.parent == hub.data_directory():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileWriteError(
                f"{target.parent}: cannot be created ({error.strerror}); name a destination"
            ) from error


@contextlib.contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """Allows one conversion to a target at a time, across processes; a killed one lets go of its lock."""
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, blocking=False)
    with explained(target):
        try:
            lock.acquire()
        except Timeout as error:
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


def _require_space(target: Path, nbytes: int) -> None:
    free = downloads.free_space(target.parent)
    if free < nbytes:
        raise NotEnoughDisk(
            f"{target}: {format_bytes(nbytes)} are needed and {format_bytes(free)} are free; "
            "free some, or name a destination on another disk"
        )


def _write(plan: ConversionPlan, staging: Path, progress: ConversionProgress | None) -> Manifest:
    """Writes all files into the staging directory, the manifest last."""
    total, done = plan.nbytes, 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress("convert", done, total)

    with DirectoryWriter(staging, advance) as writer:
        for shard in plan.shards:
            writer.write_shard(shard)
        for name, content in plan.small_files.items():
            writer.write_small(name, content)
        writer.write_index(plan.shards)
        manifest = Manifest(
            source={
                "name": Path(plan.reference).name if Path(plan.reference).is_dir() else plan.reference,
                "revision": _revision(plan.source.directory),
                "layout": plan.source.layout.name,
            },
            options={"to": plan.target, "dense": plan.dense},
            files=dict(writer.files),
            tensors=dict(writer.tensors),
        )
        writer.write_small(MANIFEST_NAME, manifest.text().encode())
    return manifest


def _small_files(model: SourceModel, to: TargetFormat, dense: Precision) -> dict[str, bytes]:
    """config.json and the files that are copied; the tokenizer of original/ is in the directory above."""
    files = {"config.json": (json.dumps(target_config(model, to, dense), indent=2) + "\n").encode()}
    directories = [model.directory]
    if (model.directory / "dtypes.json").exists() or model.directory.name == "original":
        directories.append(model.directory.resolve().parent)
    for name in _COPIED:
        for directory in directories:
            if (directory / name).is_file():
                files[name] = _read_small(directory / name)
                break
    if _TOKENIZER not in files:
        raise CheckpointError(
            f"{model.directory / _TOKENIZER}: missing; copy that of openai/gpt-oss-20b beside the weights"
        )
    return files


def _read_small(path: Path) -> bytes:
    """Reads a file to copy: a regular file of bounded size inside the directory; a .json file must be JSON."""
    try:
        content = read_regular(inside(path), _MAX_COPIED)
        if path.suffix == ".json" and not isinstance(parse_json(content), dict):
            raise ValueError("is not a JSON object")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be copied ({error}); remove it or download it again") from error
    return content


def _revision(directory: Path) -> str | None:
    """The commit, if the directory is in the Hub's cache."""
    real = directory.resolve()
    return real.name if real.parent.name == "snapshots" else None


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
