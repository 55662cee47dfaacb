"""``gptoss convert`` and ``gptoss verify``: arguments, progress bars and tables around ``gptoss_mlx.convert``.

Errors are caught at the edge of the command line, not here. Results go to stdout, bars and remarks to stderr.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_mlx.files.units import format_bytes

from .precision import PRECISION, model_name, precision_content, precision_rows, verify_command
from .screen.spans import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from gptoss_mlx.config import Precision
    from gptoss_mlx.convert import (
        Comparison,
        ConversionPlan,
        ConversionProgress,
        ConversionReport,
        LogitsComparison,
        VerifyReport,
    )
    from gptoss_mlx.convert.quantize import QuantizationError
    from gptoss_mlx.convert.targets import TargetFormat
    from gptoss_mlx.hub.downloads import Download
    from gptoss_mlx.hub.models import Repository

__all__ = ["register"]

_COST = ("bytes_to_download", "bytes_on_disk", "seconds", "rate")
"""The keys of :func:`_cost`."""
_DAMAGED = 3  # the exit code of a model that is missing or damaged


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
    """Adds both commands to an application."""
    app.command(name="convert")(convert)
    app.command(name="verify")(verify)


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
            "with 8k of context, else q8, else q4."
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
    with _progress() as bars, _warnings():
        progress = _stages(bars)
        _announce(source, destination, options)
        plan = plan_conversion(source, destination, **options, download=True, progress=progress)
        rows = precision_rows(_plan_precision(plan), _plan_verify(plan))
        for name, value in rows + _error_rows(plan.measured_errors):
            _remark(f"{name}: {value}")
        report = carry_out(plan, progress=progress)
    if as_json:
        _print_json(report.as_dict())
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
                _remark(f"{name}: {value}")


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
        with _warnings():
            content = _not_here(repository, source, destination, options)
        verify, errors = verify_command(Path(content["destination"]), source), []
    if as_json:
        _print_json(content)
        return
    _print_table("Plan: nothing was written", _plan_rows(content, verify) + errors)


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


def verify(
    directory: Annotated[str, typer.Argument(help="A converted model: its name or its directory.")],
    against: Annotated[
        str | None, typer.Option(help="The source it was made from: report the largest difference of its tensors.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="With --against: the LoRA adapter that was merged into it.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="With --against or --kv-bits: a text to compare predictions on.")
    ] = None,
    kv_bits: Annotated[
        int | None,
        typer.Option(help="8, with --prompt: what keys and values in 8 bits change in the predictions."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check every byte of a converted model, and on request how far it is from its source.

    Exit code 3 if anything differs from what was written.
    """
    from gptoss_mlx.convert import compare_logits, compare_weights, verify_checkpoint
    from gptoss_mlx.hub import models as hub

    if prompt is not None and against is None and kv_bits is None:
        raise typer.BadParameter("needs --against: the model to compare with", param_hint="--prompt")
    if adapter is not None and against is None:
        raise typer.BadParameter("needs --against: the model it was merged into", param_hint="--adapter")
    if kv_bits is not None and prompt is None:
        raise typer.BadParameter("needs --prompt: a text to compare on", param_hint="--kv-bits")
    path = hub.resolve(directory)
    with _progress() as bars:
        report = verify_checkpoint(path, progress=_stage(bars, "verifying"))
        weights, logits = None, None
        source = path if against is None else hub.find_source(against)
        if against is not None and report.ok:
            weights = compare_weights(path, source, adapter=adapter, progress=_stage(bars, "comparing"))
        if prompt is not None and report.ok:
            logits = compare_logits(path, source, prompt, kv_bits=kv_bits, adapter=adapter)
    if as_json:
        _print_json(_verify_content(report, weights, logits))
    else:
        _print_verified(report, weights, logits)
    if not report.ok:
        raise typer.Exit(_DAMAGED)


def _verify_content(
    report: VerifyReport, weights: list[Comparison] | None, logits: LogitsComparison | None
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "directory": str(report.directory),
        "ok": report.ok,
        "files": report.files,
        "tensors": report.tensors,
        "bytes": report.nbytes,
        "problems": list(report.problems),
        "weights": None if weights is None else [asdict(entry) for entry in weights],
        "logits": None if logits is None else asdict(logits),
    }


def _print_verified(
    report: VerifyReport, weights: list[Comparison] | None, logits: LogitsComparison | None
) -> None:
    for problem in report.problems:
        _say(problem)
    if report.ok:
        size = format_bytes(report.nbytes)
        _say(f"{report.directory}: {report.tensors} tensors in {report.files} files, {size}, all as written")
    if weights is not None:
        rows = [
            (f"{entry.kind} ({entry.tensors})", f"{entry.largest:.3g}" + _relative(entry.relative))
            for entry in weights
        ]
        _print_table("Largest difference from the source", rows)
        if all(entry.largest == 0 for entry in weights):
            _say("every weight is the source's: nothing was lost")
    if logits is not None:
        _print_table(
            f"Predictions at {logits.positions} positions",
            [
                ("mean KL divergence", f"{logits.mean_kl:.3g} nats"),
                ("largest KL divergence", f"{logits.largest_kl:.3g} nats"),
                ("same first choice", f"{logits.top1_agreement:.1%}"),
            ],
        )


def _relative(error: float) -> str:
    return f", relative error {error:.2%}" if error else ""


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
    _print_table("Converted", rows)
    if report.target == "mlx":
        _say(f"next: {shlex.join(['gptoss', 'chat', '-m', model_name(report.destination)])}")


def _print_json(content: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(content, indent=2))


def _print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Prints two columns. Paths are never cut, so that they can be copied; sentences are, between words."""
    from .screen.spans import Span
    from .screen.terminal import Terminal

    _say(title)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        if " " in value and "/" not in value:
            Terminal(sys.stdout).paragraph(Span(value), mark=Span(f"  {name:<{width}}  "))
        else:
            _say(f"  {name:<{width}}  {value}")


def _cell(name: str, value: Any) -> str:
    if name.startswith("bytes_"):
        return format_bytes(value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _say(text: str, *, err: bool = False) -> None:
    """Prints one line, without the control characters that names of files may hold."""
    typer.echo(visible(text), err=err)


def _remark(text: str) -> None:
    _say(text, err=True)


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """The library's warnings (a download that is tried again) as remarks."""
    import logging

    class Remarks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _remark(record.getMessage())

    logger, handler = logging.getLogger("gptoss_mlx"), Remarks(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _progress() -> Iterator[Progress | None]:
    """Bars on stderr; None where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def _stages(bars: Progress | None) -> ConversionProgress:
    """One bar for the download, one for the conversion."""
    stages = {"download": _stage(bars, "downloading"), "convert": _stage(bars, "converting")}
    return lambda stage, done, total: stages[stage](done, total)


def _stage(bars: Progress | None, description: str) -> Callable[[int, int], None]:
    """A bar that appears with its first bytes; without a terminal, no bar."""
    task: TaskID | None = None

    def advance(done: int, total: int) -> None:
        nonlocal task
        if bars is None:
            return
        if task is None:
            task = bars.add_task(description, total=total)
        bars.update(task, completed=done, total=total)

    return advance
