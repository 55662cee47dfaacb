"""The results of ``gptoss bench``: as JSON, or as tables and a chart."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmark import Benchmark, DepthResult, EngineResult
from ..config import ModelConfig, precision_of
from ..files.units import format_bytes
from ..memory.bandwidth import Bandwidth
from ..memory.device import DeviceInfo
from ..memory.sizes import bytes_per_token, tokens_per_second_limit, weight_bytes
from ..share import Split
from .screen.spans import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Subject", "content", "show"]

_BAR_CELLS = 40
_PIPE_WIDTH = 100
"""The width of tables if the output is not a terminal."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model and the machine that are measured."""

    name: str
    directory: Path
    config: ModelConfig
    device: DeviceInfo
    bandwidth: Bandwidth
    split: Split | None = None
    """How several machines divide the model."""
    machines: int = 1


def content(benchmark: Benchmark, subject: Subject, *, interrupted: bool) -> dict[str, Any]:
    """All results as plain data."""
    config, plan = subject.config, benchmark.plan
    return {
        "version": 1,
        "model": {
            "name": subject.name,
            "directory": str(subject.directory),
            "layers": config.num_hidden_layers,
            "dense": precision_of(config),
            "weight_bytes": weight_bytes(config),
            "bytes_per_token": bytes_per_token(config),
        },
        "machine": _machine(subject),
        "plan": {
            "depths": list(plan.depths),
            "tokens": plan.tokens,
            "rounds": plan.rounds,
            "turns": plan.turns,
            "rows": list(plan.rows),
        },
        "skipped": [{"depth": skip.depth, "reason": skip.reason} for skip in benchmark.skipped],
        "engines": [_engine_content(result, subject) for result in benchmark.results],
        "ratios": _ratios(benchmark.results),
        "interrupted": interrupted,
    }


def _machine(subject: Subject) -> dict[str, Any]:
    from importlib import metadata

    import mlx.core as mx

    return {
        "device": subject.device.name,
        "machines": subject.machines,
        "split": subject.split,
        "backend": "cpu" if mx.default_device() == mx.cpu else "gpu",
        "memory_bytes": subject.device.memory_bytes,
        "bandwidth": subject.bandwidth.bytes_per_second,
        "bandwidth_source": subject.bandwidth.source,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "mlx": metadata.version("mlx"),
        "date": datetime.date.today().isoformat(),
    }


def _engine_content(result: EngineResult, subject: Subject) -> dict[str, Any]:
    return {
        "name": result.name,
        "version": result.version,
        "load_seconds": result.load_seconds,
        "weight_bytes": result.weight_bytes,
        # None if the run was interrupted before.
        "kernels_per_token": result.kernels.total() or None,
        "kernels_per_layer": result.kernels.total() / subject.config.num_hidden_layers or None,
        "depths": [_depth_content(row, subject) for row in result.depths if row.token_seconds],
        "rows": [
            {"rows": row.rows, "rounds": len(row.token_seconds), "decode_tokens_per_second": row.decode_rate}
            for row in result.rows
        ],
        "turns": [
            {
                "turn": turn.turn,
                "prompt_tokens": turn.prompt_tokens,
                "computed_tokens": turn.computed_tokens,
                "first_token_seconds": turn.first_token_seconds,
            }
            for turn in result.turns
        ],
    }


def _depth_content(row: DepthResult, subject: Subject) -> dict[str, Any]:
    # In tensor form the machines read their parts at the same time, in a pipeline one after another.
    bandwidth = subject.bandwidth.bytes_per_second * (subject.machines if subject.split == "tensor" else 1)
    limit = tokens_per_second_limit(subject.config, bandwidth, context=row.depth)
    return {
        "depth": row.depth,
        "rounds": len(row.token_seconds),
        "prefill_tokens_per_second": row.prefill_rate,
        "first_token_seconds": row.depth / row.prefill_rate,
        "decode_tokens_per_second": row.decode_rate,
        "bytes_per_token": bytes_per_token(subject.config, context=row.depth),
        "share_of_limit": row.decode_rate / limit,
        "peak_bytes": row.peak_bytes,
    }


def _ratios(results: Sequence[EngineResult]) -> dict[str, Any] | None:
    """This library's times and counts divided by the peer's; None without a peer."""
    if len(results) < 2:
        return None
    ours, theirs = results
    depths = [pair for pair in zip(ours.depths, theirs.depths, strict=False) if pair[1].token_seconds]
    rows = zip(ours.rows, theirs.rows, strict=False)
    turns = list(zip(ours.turns, theirs.turns, strict=False))
    computed = sum(their.computed_tokens for _, their in turns)
    return {
        "prefill_time": {str(our.depth): their.prefill_rate / our.prefill_rate for our, their in depths},
        "decode_time": {str(our.depth): their.decode_rate / our.decode_rate for our, their in depths},
        "rows_time": {str(our.rows): their.decode_rate / our.decode_rate for our, their in rows},
        "peak_memory": {str(our.depth): our.peak_bytes / their.peak_bytes for our, their in depths},
        "first_token_time": {
            str(our.turn): our.first_token_seconds / their.first_token_seconds for our, their in turns
        },
        "computed_tokens": sum(our.computed_tokens for our, _ in turns) / computed if computed else None,
        "kernels": ours.kernels.total() / theirs.kernels.total() if theirs.kernels else None,
        "load_time": ours.load_seconds / theirs.load_seconds,
    }


def show(benchmark: Benchmark, subject: Subject) -> None:
    """Prints tables and a chart."""
    from rich.console import Console

    window = sys.stdout.isatty()
    width = None if window else _PIPE_WIDTH
    console = Console(
        file=sys.stdout, width=width, markup=False, highlight=False, emoji=False, soft_wrap=not window
    )
    machine = _machine(subject)
    place = f"{machine['device']} ({machine['backend']}), mlx {machine['mlx']}, {machine['date']}"
    several = f" over {subject.machines} machines ({subject.split})" if subject.split else ""
    console.print(visible(f"{subject.name}{several} on {place}"))
    bandwidth = subject.bandwidth
    console.print(f"memory bandwidth {format_bytes(bandwidth.bytes_per_second)}/s, {bandwidth.source}")
    for result in benchmark.results:
        kernels = result.kernels.total()
        counted = f"; {kernels} kernels a token, {kernels / subject.config.num_hidden_layers:.1f} a layer"
        console.print(
            f"{result.name} {result.version}: loaded in {result.load_seconds:.2f} s, "
            f"{format_bytes(result.weight_bytes)}{counted if kernels else ''}"
        )
    measured = [result for result in benchmark.results if any(row.token_seconds for row in result.depths)]
    if measured:
        console.print(_depth_table(measured, subject, console))
        _show_chart(console, measured)
    if any(result.rows for result in benchmark.results):
        console.print(_rows_table(benchmark.results, console))
    if any(result.turns for result in benchmark.results):
        console.print(_turn_table(benchmark.results, console))
    ratios = _ratios(benchmark.results)
    if ratios is not None:
        console.print(_ratio_table(ratios, benchmark.results[1].name, console))


def _depth_table(results: Sequence[EngineResult], subject: Subject, console: Console) -> Table:
    headings = (
        "tokens",
        "engine",
        "prefill tokens/s",
        "first token s",
        "decode tokens/s",
        "of limit",
        "peak GB",
    )
    cells: list[tuple[str, ...]] = []
    for result, row in (pair for pairs in _by_depth(results) for pair in pairs):
        figures = _depth_content(row, subject)
        cells.append(
            (
                f"{row.depth:,}",
                result.name,
                f"{row.prefill_rate:,.0f}",
                f"{figures['first_token_seconds']:.2f}",
                f"{row.decode_rate:,.1f}",
                f"{figures['share_of_limit']:.1%}",
                f"{row.peak_bytes / 1e9:.2f}",
            )
        )
    # Columns that another column implies are left out first.
    engine = () if len(results) > 1 else ("engine",)
    spare = (*engine, "first token s", "of limit", "peak GB", "prefill tokens/s")
    return _table(console, headings, cells, spare)


def _by_depth(results: Sequence[EngineResult]) -> list[list[tuple[EngineResult, DepthResult]]]:
    """Rows of all engines grouped by depth, ascending."""
    rows = [(result, row) for result in results for row in result.depths if row.token_seconds]
    depths = sorted({row.depth for _, row in rows})
    return [[pair for pair in rows if pair[1].depth == depth] for depth in depths]


def _rows_table(results: Sequence[EngineResult], console: Console) -> Table:
    """The numbers of rows that decode together, and the tokens of all of them."""
    cells = [
        (
            str(row.rows),
            result.name,
            f"{row.decode_rate:,.1f}",
            f"{row.decode_rate / result.rows[0].decode_rate:.2f}",
        )
        for result in results
        for row in result.rows
    ]
    return _table(
        console, ("rows", "engine", "decode tokens/s", "of one row"), cells, ("engine",) * (len(results) < 2)
    )


def _turn_table(results: Sequence[EngineResult], console: Console) -> Table:
    """The turns of all engines side by side."""
    present = [result for result in results if result.turns]
    columns = [f"{result.name} {what}" for result in present for what in ("computed", "first token s")]
    cells: list[tuple[str, ...]] = []
    for rows in zip(*(result.turns for result in present), strict=False):
        figures = [cell for row in rows for cell in (f"{row.computed_tokens:,}", f"{row.first_token_seconds:.3f}")]
        cells.append((str(rows[0].turn), f"{rows[0].prompt_tokens:,}", *figures))
    return _table(console, ("turn", "prompt tokens", *columns), cells, ("prompt tokens", "computed"))


def _ratio_table(ratios: dict[str, Any], peer: str, console: Console) -> Table:
    cells: list[tuple[str, ...]] = []
    for name, value in ratios.items():
        values = value.items() if isinstance(value, dict) else [("", value)]
        for key, ratio in values:
            place = f" at {int(key):,}" if name.endswith(("prefill_time", "decode_time", "memory")) else f" {key}"
            if name == "rows_time":
                place = f" of {key} rows"
            label = (
                name.replace("rows_time", "decode time")
                .replace("_", " ")
                .replace("first token time", "first token, turn")
            )
            cells.append((f"{label}{place if key else ''}", "–" if ratio is None else f"{ratio:.2f}"))
    return _table(console, (f"gptoss-mlx / {peer}", "ratio"), cells)


def _table(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()
) -> Table:
    """A table that fits the console: complete; or with headings on several lines, and without as many of the first
    ``spare`` columns (named by the ends of their headings) as necessary."""
    whole = _laid_out(headings, rows, without=(), broken=False)
    narrower = (_laid_out(headings, rows, without=spare[:count], broken=True) for count in range(len(spare) + 1))
    tables = [whole, *narrower]
    unbounded = console.options.update(max_width=1 << 10)
    fitting = (table for table in tables if console.measure(table, options=unbounded).maximum <= console.width)
    return next(fitting, tables[-1])


def _laid_out(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, without: Sequence[str], broken: bool
) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    kept = [number for number, name in enumerate(headings) if not name.endswith(tuple(without))]
    for number in kept:
        name = headings[number]
        text = name.replace(" ", "\n") if broken else name
        table.add_column(text, justify="left" if number == 0 or name == "engine" else "right")
    for row in rows:
        table.add_row(*(row[number] for number in kept))
    return table


def _show_chart(console: Console, results: Sequence[EngineResult]) -> None:
    """A bar chart of decoded tokens per second over depth."""
    rows = [pair for pairs in _by_depth(results) for pair in pairs]
    most = max(row.decode_rate for _, row in rows)
    width = max(len(result.name) for result in results)
    rate_width = len(f" {most:,.1f}")
    cells = min(_BAR_CELLS, console.width - len(f"{0:>8}  {'':<{width}}  ") - rate_width)
    console.print("decode, tokens/s")
    for result, row in rows:
        bar = "█" * max(1, round(cells * row.decode_rate / most))
        console.print(f"{row.depth:>8,}  {result.name:<{width}}  {bar} {row.decode_rate:,.1f}")
