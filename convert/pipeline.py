"""The conversion from end to end: plan, lock the target, write beside it, rename.

Whatever happens, the target is either unchanged or the whole result; the source is only read.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.config import Precision
from gptoss_mlx.files.write import atomic_directory, clear_remains

from .destination import check_destination, exclusive, make_parent, require_space
from .manifest import MANIFEST_NAME, Manifest
from .plan import ConversionPlan, ConversionProgress, plan_conversion
from .precision import ExpertsPrecision
from .quantize import ErrorSums, QuantizationError
from .targets import TargetFormat
from .writer import DirectoryWriter

__all__ = ["ConversionReport", "carry_out", "convert_checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """The result of a conversion."""

    source: str
    revision: str | None
    layout: str
    """The source's layout."""
    adapter: Path | None
    """The directory of the LoRA adapter that was merged."""
    destination: Path
    target: TargetFormat
    dense: Precision
    experts: str
    """How the experts are stored: ``mxfp4``, ``8 bits``, ``bf16`` and so on."""
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
    """The error of quantising experts; None if they were copied bit for bit."""

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
            "adapter": None if self.adapter is None else str(self.adapter),
            "destination": str(self.destination),
            "target": self.target,
            "dense": self.dense,
            "experts": self.experts,
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
    experts: ExpertsPrecision | None = None,
    adapter: str | Path | None = None,
    to: TargetFormat = "mlx",
    force: bool = False,
    download: bool = False,
    progress: ConversionProgress | None = None,
) -> ConversionReport:
    """Converts a checkpoint completely or not at all.

    Args:
        source: ``20b``, ``120b``, a Hub repository id, or a directory in any supported layout.
        destination: the directory to create; by default one in the user's data directory, where
            ``gptoss_mlx.load`` finds it by the source's name, or that with the adapter's.
        dense: how attention, embedding and head are stored; by default lossless (bf16) where that fits this
            machine with 8,192 tokens of context, else q8, else q4; of a quantised source, as they are.
        experts: how experts are stored: ``mxfp4``, ``q8`` (affine) or ``bf16``; by default as they are if they are
            quantised, in MXFP4 if that changes no value, else in q8.
        adapter: the directory of a LoRA adapter of PEFT or mlx-lm, which is merged: attention and routers exactly,
            experts before they are stored as ``experts`` says.
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
        source,
        destination,
        dense=dense,
        experts=experts,
        adapter=adapter,
        to=to,
        force=force,
        download=download,
        progress=progress,
    )
    return carry_out(plan, progress=progress)


def carry_out(plan: ConversionPlan, *, progress: ConversionProgress | None = None) -> ConversionReport:
    """Carries out a plan: see :func:`convert_checkpoint`."""
    began = time.perf_counter()
    target = plan.destination
    make_parent(target)
    with plan.source, exclusive(target):
        clear_remains(target)
        # Again, now that no other process can be writing it.
        check_destination(target, force=plan.force)
        require_space(target, plan.disk_bytes)
        with atomic_directory(target, replace=plan.force) as staging:
            manifest = _write(plan, staging, progress)
    return ConversionReport(
        source=plan.reference,
        revision=_revision(plan.source.directory),
        layout=plan.source.layout.name,
        adapter=plan.adapter,
        destination=target,
        target=plan.target,
        dense=plan.dense,
        experts=plan.experts,
        reason=plan.reason,
        losses=plan.losses,
        bytes_per_token=plan.bytes_per_token,
        tensors=len(manifest.tensors),
        bytes_in=plan.source.files.bytes_read,
        bytes_out=sum(entry.bytes for entry in manifest.files.values()),
        seconds=time.perf_counter() - began,
        peak_memory=_peak_memory(),
        experts_error=ErrorSums.total(plan.errors.values()) if plan.errors else None,
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
                "name": Path(plan.reference).name if Path(plan.reference).exists() else plan.reference,
                "revision": _revision(plan.source.directory),
                "layout": plan.source.layout.name,
            },
            options={"to": plan.target, "dense": plan.dense}
            | _experts_option(plan.experts)
            | _adapter_option(plan.adapter),
            files=dict(writer.files),
            tensors=dict(writer.tensors),
        )
        writer.write_small(MANIFEST_NAME, manifest.text().encode())
    return manifest


def _experts_option(experts: str) -> dict[str, str]:
    """Of the manifest: nothing for MXFP4, which all had before there was a choice."""
    return {} if experts == "mxfp4" else {"experts": experts}


def _adapter_option(adapter: Path | None) -> dict[str, str]:
    return {} if adapter is None else {"adapter": adapter.resolve().name}


def _revision(directory: Path) -> str | None:
    """The commit, if the directory is in the Hub's cache."""
    real = directory.resolve()
    return real.name if real.parent.name == "snapshots" else None


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
