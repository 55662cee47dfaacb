"""``gptoss convert``: arguments, bars and tables around ``gptoss_mlx.convert``.

Errors are caught at the edge of the command line, not here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_mlx.files.units import format_bytes

from .output import print_json, print_table, progress_bars, remark, say, stage, warnings_as_remarks
from .precision import PRECISION, model_name, precision_content, precision_rows, verify_command

if TYPE_CHECKING:
    from rich.progress import Progress

    from gptoss_mlx.config import Precision
    from gptoss_mlx.convert import ConversionPlan, ConversionProgress, ConversionReport
    from gptoss_mlx.convert.quantize import QuantizationError
    from gptoss_mlx.convert.targets import TargetFormat
    from gptoss_mlx.hub.downloads import Download
    from gptoss_mlx.hub.models import Repository

__all__ = ["register"]

_COST = ("bytes_to_download", "bytes_on_disk", "seconds", "rate")
"""The keys of :func:`_cost`."""


class Dense(str, Enum):  # noqa: UP042  (Typer reads the values of a str enumeration)
    """How attention, embedding and head are stored."""

    bf16 = "bf16"
    q8 = "q8"
    q4 = "q4"


class Experts(str, Enum):  # noqa: UP042
    """How the experts are stored."""

    mxfp4 = "mxfp4"
    q8 = "q8"
    bf16 = "bf16"


class Target(str, Enum):  # noqa: UP042
    """The program that reads the result."""

    mlx = "mlx"
    hf = "hf"
    mlx_lm = "mlx-lm"


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command()(convert)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="20b, 120b, a Hub repository (org/name) or its address, a directory, a GGUF file, "
            "ollama:NAME:TAG or lmstudio:PUBLISHER/MODEL."
        ),
    ],
    destination: Annotated[
        Path | None, typer.Argument(help="Where to write; by default where 'gptoss chat' finds it by name.")
    ] = None,
    dense: Annotated[
        Dense | None,
        typer.Option(
            help="Precision of attention, embedding and head; by default bf16, which loses nothing, where it fits "
            "with 8k of context, else q8, else q4; those of a quantised source stay as they are."
        ),
    ] = None,
    experts: Annotated[
        Experts | None,
        typer.Option(
            help="Precision of the experts; by default as they are if quantised, mxfp4 if that changes no value, "
            "else q8."
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="The directory of a LoRA adapter, of PEFT or mlx-lm: merge it.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit of the repository; also: org/name@revision.")
    ] = None,
    to: Annotated[Target, typer.Option(help="The layout: for gptoss, Hugging Face or mlx-lm.")] = Target.mlx,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at the destination.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the space needed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Download a model if need be and re-pack it, once, so that it loads fast.

    Experts in MXFP4 stay as they are, bit for bit.

    If it is interrupted, the destination is complete or absent; run the same command again. A private repository
    needs no option: log in once with hf auth login.
    """
    from gptoss_mlx.convert import carry_out, plan_conversion
    from gptoss_mlx.hub.models import repository_of

    if revision is not None:
        if repository_of(source) is None:
            raise typer.BadParameter("only a repository of the Hub has revisions", param_hint="--revision")
        source = f"{source}@{revision}"
    options: dict[str, Any] = {
        "dense": dense.value if dense else None,
        "experts": experts.value if experts else None,
        "adapter": adapter,
        "to": to.value,
        "force": force,
    }
    if dry_run:
        _show_plan(source, destination, options, as_json=as_json)
        return
    with progress_bars() as bars, warnings_as_remarks():
        progress = _stages(bars)
        _announce(source, destination, options)
        plan = plan_conversion(source, destination, **options, download=True, progress=progress)
        rows = precision_rows(_plan_precision(plan), _plan_verify(plan))
        for name, value in rows + _error_rows(plan.measured_errors):
            remark(f"{name}: {value}")
        report = carry_out(plan, progress=progress)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report)


def _announce(source: str, destination: Path | None, options: dict[str, Any]) -> None:
    """Says what a download will take, before it begins."""
    from gptoss_mlx.errors import ModelNotFound
    from gptoss_mlx.hub import models as hub

    try:
        hub.find_source(source)
    except ModelNotFound:
        repository = hub.repository_of(source)
        if repository is not None:
            for name, value in _cost_rows(_not_here(repository, source, destination, options)):
                remark(f"{name}: {value}")


def _not_here(
    repository: Repository, source: str, destination: Path | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The plan for a source that is described by the Hub's list of its files."""
    from gptoss_mlx.hub import downloads
    from gptoss_mlx.hub import models as hub

    found = downloads.plan_download(repository.repo_id, repository.revision)
    target = destination or hub.converted_path(source, options["adapter"])
    return _download_content(target, options["to"], options["dense"], found)


def _cost(target: Path, download: int, source: int, result: int) -> dict[str, Any]:
    """What a conversion takes: bytes of the network and of the disk, and seconds."""
    from gptoss_mlx.convert.destination import measured_rate

    rate = measured_rate(target)
    return {
        "bytes_to_download": download,
        "bytes_on_disk": source + result,
        "seconds": result / rate,
        "rate": rate,
    }


def _cost_rows(content: dict[str, Any]) -> list[tuple[str, str]]:
    download = content["bytes_to_download"]
    seconds, rate = content["seconds"], content["rate"]
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return [
        ("download", format_bytes(download) if download else "nothing"),
        ("on disk", f"{format_bytes(content['bytes_on_disk'])}, source and result together"),
        (
            "time",
            f"about {time} at {format_bytes(rate)}/s, measured here" + (", and the download" if download else ""),
        ),
    ]


def _show_plan(source: str, destination: Path | None, options: dict[str, Any], *, as_json: bool) -> None:
    """``--dry-run``. A source that is not on this machine is described by the Hub's list of its files."""
    from gptoss_mlx.convert import plan_conversion
    from gptoss_mlx.errors import ModelNotFound
    from gptoss_mlx.hub import models as hub

    try:
        plan = plan_conversion(source, destination, **options)
        content, verify = _plan_content(plan), _plan_verify(plan)
        errors = _error_rows(plan.measured_errors)
    except ModelNotFound:
        repository = hub.repository_of(source)
        if repository is None:
            raise
        with warnings_as_remarks():
            content = _not_here(repository, source, destination, options)
        verify, errors = verify_command(Path(content["destination"]), source), []
    if as_json:
        print_json(content)
        return
    print_table("Plan: nothing was written", _plan_rows(content, verify) + errors)


def _error_rows(errors: Mapping[str, QuantizationError]) -> list[tuple[str, str]]:
    return [
        (name, f"relative error {error.relative:.2%}, largest {error.largest:.3g}")
        for name, error in errors.items()
    ]


def _plan_rows(content: dict[str, Any], verify: str) -> list[tuple[str, str]]:
    rows = [
        (name.replace("_", " "), _cell(name, value))
        for name, value in content.items()
        if name not in (*PRECISION, *_COST)
    ]
    rows = _cost_rows(content) + rows
    return rows + (precision_rows(content, verify) if "dense" in content else [])


def _plan_precision(plan: ConversionPlan) -> dict[str, Any]:
    return precision_content(plan.dense, plan.reason, plan.losses, plan.bytes_per_token, plan.experts)


def _plan_verify(plan: ConversionPlan) -> str:
    return verify_command(plan.destination, plan.reference, plan.adapter)


def _plan_content(plan: ConversionPlan) -> dict[str, Any]:
    from gptoss_mlx.hub.downloads import free_space

    return {
        "source": str(plan.source.directory),
        "layout": plan.source.layout.name,
        "destination": str(plan.destination),
        "replaces": plan.destination.exists(),
        "target": plan.target,
        **_plan_precision(plan),
        "tensors": len(plan.tensors),
        "shards": len(plan.shards),
        "bytes_in": plan.source.nbytes,
        "bytes_out": plan.nbytes,
        "bytes_needed": plan.disk_bytes,
        "bytes_free": free_space(plan.destination.parent),
        **_cost(plan.destination, 0, plan.source.nbytes, plan.nbytes),
    }


def _download_content(target: Path, to: TargetFormat, dense: Precision | None, plan: Download) -> dict[str, Any]:
    from gptoss_mlx.config import RELEASED
    from gptoss_mlx.convert.precision import precision_for
    from gptoss_mlx.hub import downloads
    from gptoss_mlx.hub import models as hub
    from gptoss_mlx.memory.device import DeviceInfo
    from gptoss_mlx.memory.precision import loss_of, token_bytes
    from gptoss_mlx.memory.sizes import weight_bytes

    content: dict[str, Any] = {
        "source": f"{plan.repo_id} on the Hub, revision {plan.revision}",
        "destination": str(target),
        "files": len(plan.files),
        "bytes_free": downloads.free_space(target.parent),
    }
    released = next((name for name, repo_id in hub.ALIASES.items() if repo_id == plan.repo_id), None)
    if released is None:
        # Dense layers shrink or stay: a conversion is no larger than its source.
        return content | {"bytes_out": plan.nbytes} | _cost(target, plan.missing_bytes, plan.nbytes, plan.nbytes)
    config = RELEASED[released]
    precision, reason = precision_for(config, (), to, dense, DeviceInfo.current())
    loss = loss_of(precision)
    chosen = precision_content(precision, reason, [loss] if loss else [], token_bytes(config))
    result = weight_bytes(config, precision)
    return content | chosen | {"bytes_out": result} | _cost(target, plan.missing_bytes, plan.nbytes, result)


def _print_report(report: ConversionReport) -> None:
    rows = [
        ("source", f"{report.source} ({report.layout})"),
        ("tensors", str(report.tensors)),
        ("bytes in, out", f"{format_bytes(report.bytes_in)}, {format_bytes(report.bytes_out)}"),
        *precision_rows(report.as_dict(), verify_command(report.destination, report.source, report.adapter)),
        ("time", f"{report.seconds:.1f} s"),
        ("rate", f"{format_bytes(report.rate)}/s"),
        ("peak memory", format_bytes(report.peak_memory)),
        ("destination", str(report.destination)),
    ]
    if report.experts_error is not None:
        error = report.experts_error
        rows.append(
            (f"experts to {report.experts}", f"relative error {error.relative:.2%}, largest {error.largest:.3g}")
        )
    print_table("Converted", rows)
    if report.target == "mlx":
        say(f"next: {shlex.join(['gptoss', 'chat', '-m', model_name(report.destination)])}")


def _cell(name: str, value: Any) -> str:
    if name.startswith("bytes_"):
        return format_bytes(value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _stages(bars: Progress | None) -> ConversionProgress:
    """One bar for the download, one for the conversion."""
    stages = {"download": stage(bars, "downloading"), "convert": stage(bars, "converting")}
    return lambda stage, done, total: stages[stage](done, total)
