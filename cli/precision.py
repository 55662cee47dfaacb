"""The precision of a conversion, as data and as rows of a table: the plan, the report and ``info`` share them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Precision
from ..files.units import format_bytes

__all__ = ["PRECISION", "model_name", "precision_content", "precision_rows", "verify_command"]

PRECISION = ("dense", "experts", "reason", "losses", "bytes_per_token")
"""The keys of :func:`precision_content`."""


def precision_content(
    dense: Precision,
    reason: str,
    losses: Sequence[str],
    bytes_per_token: Mapping[Precision, int],
    experts: str = "mxfp4",
) -> dict[str, Any]:
    """Plain data."""
    return {
        "dense": dense,
        "experts": experts,
        "reason": reason,
        "losses": list(losses),
        "bytes_per_token": dict(bytes_per_token),
    }


def precision_rows(content: Mapping[str, Any], verify: str) -> list[tuple[str, str]]:
    """A name and a text for each fact.

    Args:
        content: includes what :func:`precision_content` returned.
        verify: the command that measures the loss.
    """
    from ..memory.precision import loss_of

    dense, losses = content["dense"], content["losses"]
    lost = "; ".join(losses) or "nothing"
    if not losses:
        lost += f"; '{verify}' reports 0"
    elif loss_of(dense) in losses:
        lost += f"; '{verify}' measures it"
    read = dict(content["bytes_per_token"])
    own = format_bytes(read.pop(dense))
    others = ", ".join(f"{format_bytes(nbytes)} in {precision}" for precision, nbytes in read.items())
    return [
        ("dense layers", dense),
        ("experts", content["experts"]),
        ("reason", content["reason"]),
        ("loses", lost),
        ("read for a token", f"{own}, against {others}"),
    ]


def verify_command(destination: Path, source: str, adapter: Path | None = None) -> str:
    """The command that compares a conversion with its source, and with the adapter that was merged."""
    merged = [] if adapter is None else ["--adapter", str(adapter)]
    return shlex.join(["gptoss", "verify", model_name(destination), "--against", source, *merged])


def model_name(directory: Path) -> str:
    """The value of ``--model`` for a converted model: its name alone, if it is found by that."""
    from ..hub.models import data_directory

    return directory.name if directory.parent == data_directory() else str(directory)
