"""The rows of ``/trace``: the messages as the model sees them, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..screen.spans import DIM, GREEN, Row, Span, shorten

if TYPE_CHECKING:
    from ...chat.prompt import TraceEntry

__all__ = ["trace_rows", "trace_summary"]

_PREVIEW = 200
"""Characters of a message's text that are shown, at most."""
_READ = 4096
"""Characters that are looked at for these."""


def trace_rows(entries: Sequence[TraceEntry], width: int | None) -> list[Row]:
    """One row for each message: tokens, state, role, channel and the beginning of its text.

    Args:
        entries: of the chat.
        width: cells of a row, at most; None: any number. The count comes first, so that it is never cut off.
    """
    cells = [_cells(entry) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows: list[Row] = []
    for entry, (tokens, *others) in zip(entries, cells, strict=True):
        style = DIM if not entry.kept else GREEN if entry.cached else ""
        columns = [f"{tokens:>{widths[0]}}", *(f"{cell:<{w}}" for cell, w in zip(others, widths[1:], strict=True))]
        text = " ".join(entry.message.text[:_READ].split())
        text = text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}…"
        row = (Span("  ".join(columns) + "  ", style), Span(text, DIM))
        rows.append(row if width is None else shorten(row, width))
    return rows


def _cells(entry: TraceEntry) -> tuple[str, str, str, str]:
    message = entry.message
    state = ("cached" if entry.cached else "to prefill") if entry.kept else "dropped"
    return f"{entry.tokens:,}", state, str(message.author.role), str(message.channel or "")


def trace_summary(entries: Sequence[TraceEntry]) -> str:
    """The sums of all rows."""
    prompt = sum(entry.tokens for entry in entries if entry.kept)
    cached = sum(entry.tokens for entry in entries if entry.cached)
    dropped = sum(entry.tokens for entry in entries if not entry.kept)
    return f"prompt {prompt:,} tokens: {cached:,} cached, {prompt - cached:,} to prefill; {dropped:,} dropped"
