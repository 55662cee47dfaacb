"""``gptoss verify``: arguments, bars and tables around the checks of a converted model.

Errors are caught at the edge of the command line, not here.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_mlx.files.units import format_bytes

from .output import print_json, print_table, progress_bars, say, stage

if TYPE_CHECKING:
    from gptoss_mlx.convert import Comparison, LogitsComparison, VerifyReport

__all__ = ["register"]

_DAMAGED = 3  # the exit code of a model that is missing or damaged


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command()(verify)


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
    with progress_bars() as bars:
        report = verify_checkpoint(path, progress=stage(bars, "verifying"))
        weights, logits = None, None
        source = path if against is None else hub.find_source(against)
        if against is not None and report.ok:
            weights = compare_weights(path, source, adapter=adapter, progress=stage(bars, "comparing"))
        if prompt is not None and report.ok:
            logits = compare_logits(path, source, prompt, kv_bits=kv_bits, adapter=adapter)
    if as_json:
        print_json(_verify_content(report, weights, logits))
    else:
        _print_verified(report, weights, logits)
    if not report.ok:
        raise typer.Exit(_DAMAGED)


def _verify_content(
    report: VerifyReport, weights: list[Comparison] | None, logits: LogitsComparison | None
) -> dict[str, Any]:
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
        say(problem)
    if report.ok:
        size = format_bytes(report.nbytes)
        say(f"{report.directory}: {report.tensors} tensors in {report.files} files, {size}, all as written")
    if weights is not None:
        rows = [
            (f"{entry.kind} ({entry.tensors})", f"{entry.largest:.3g}" + _relative(entry.relative))
            for entry in weights
        ]
        print_table("Largest difference from the source", rows)
        if all(entry.largest == 0 for entry in weights):
            say("every weight is the source's: nothing was lost")
    if logits is not None:
        print_table(
            f"Predictions at {logits.positions} positions",
            [
                ("mean KL divergence", f"{logits.mean_kl:.3g} nats"),
                ("largest KL divergence", f"{logits.largest_kl:.3g} nats"),
                ("same first choice", f"{logits.top1_agreement:.1%}"),
            ],
        )


def _relative(error: float) -> str:
    return f", relative error {error:.2%}" if error else ""
