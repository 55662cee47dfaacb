"""All measurements of the engine in one table.

    python -m tests.benchmarks.engine_all [--rounds 5]

A figure's limit follows it; the exit code is 1 if a figure exceeds its limit. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import mlx.core as mx

from tests.benchmarks import engine_kernels, engine_speed, engine_turns
from tests.benchmarks.engine_models import Row


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("mlx", "mlx-lm"))
    print(f"{platform.machine()}, {platform.system()}, {versions}, {datetime.date.today()}\n")
    print("| measure | figure | limit |\n|---|---|---|")
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        parts: list[Callable[[], list[Row]]] = [
            lambda: engine_kernels.measure(place),
            lambda: engine_turns.measure(place),
            lambda: engine_speed.measure(place, options.rounds),
        ]
        for part in parts:
            for row in part():
                limit = "" if row.limit is None else f"{row.limit:g}"
                print(f"| {row.name} | {row.figure:,.4g} | {limit} |", flush=True)
                missed += row.limit is not None and row.figure > row.limit
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
