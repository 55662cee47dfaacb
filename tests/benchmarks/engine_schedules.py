"""Random schedules of requests that decode together: each request has the tokens that it has alone.

Prompts of 1 to 3,000 tokens, many of which begin like one before; joins, leaves and cancellations at random;
guides with runs of forced tokens; keys and values as they are and in 8 bits; three to eight rows; uncompiled and,
with ``--compiled``, compiled (a C++ compiler is needed). Greedy, float32. Where the two best logits are within
4e-4 of each other, either token is right.

    python -m tests.benchmarks.engine_schedules [--schedules 500] [--compiled]

2026-11-26, 500 schedules with prompts of up to 3,000 tokens in one run, 100 of them with keys and values in 8
bits: 75,608 tokens, no tie, none wrong. Before, with prompts of up to 400 tokens: 72,480 tokens, none wrong; in
runs of 4 to 300 with long ones: 980 schedules, none wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.model.transformer import load_transformer
from tests.checkpoints import SHAPES, write_random_checkpoint
from tests.engine.schedules import Outcome, check_schedule, make_runner

VARIANTS: tuple[tuple[dict[str, Any], int | None, int], ...] = (
    (SHAPES["small"], None, 4),
    (SHAPES["small"], None, 8),
    (SHAPES["full_first"], None, 3),
    (SHAPES["full_first"] | {"head_dim": 64}, 8, 4),
    (SHAPES["odd_layers"], None, 8),
)
"""Shape, bits of keys and values, rows."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=500)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--longest", type=int, default=3000)
    chosen = parser.parse_args()
    total = Outcome()
    each = -(-chosen.schedules // len(VARIANTS))
    for number, (shape, kv_bits, parallel) in enumerate(VARIANTS):
        with tempfile.TemporaryDirectory() as place:
            directory = write_random_checkpoint(Path(place) / "model", **shape)
            runner = make_runner(directory, parallel=parallel, kv_bits=kv_bits, compiled=chosen.compiled)
            reference = load_transformer(directory, mx.float32, compiled=False)
            for seed in range(number * each, (number + 1) * each):
                found = check_schedule(runner, reference, seed, longest=chosen.longest)
                total.tokens += found.tokens
                total.ties += found.ties
                total.wrong += found.wrong
            runner.close()
        print(f"kv_bits {kv_bits}, {parallel} rows: {each} schedules; so far {_figures(total)}", flush=True)
    print("\n".join([_figures(total), *total.wrong]))
    return int(bool(total.wrong))


def _figures(total: Outcome) -> str:
    return f"{total.tokens:,} tokens, {total.ties} ties, {len(total.wrong)} wrong"


if __name__ == "__main__":
    sys.exit(main())
