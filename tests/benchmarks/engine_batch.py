"""Rows that decode together: tokens a second of 1, 2, 4 and 8 rows, beside mlx-lm's BatchGenerator.

A random model of 24 layers of hidden 64, compiled, as in ``engine_speed``. Rows of equal lengths, and of mixed
ones, the first of which is about their mean. The programs alternate; the figures are those of the best round, in
processor time (which other programs on the machine disturb least) and in wall time.

    python -m tests.benchmarks.engine_batch [--rounds 5] [--tokens 48] [--dtype float32] [--lengths "equal, short"]

"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.engine.runner import ModelRunner
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.metal import MLX_MEMORY
from gptoss_mlx.model.transformer import load_transformer
from gptoss_mlx.sampling import SamplingParams
from tests.benchmarks.engine_models import checkpoint, load_peer

ROWS = (1, 2, 4, 8)
LENGTHS = {
    "equal, short": [16] * 8,
    "mixed, short": [16, 40, 6, 24, 60, 12, 4, 32],
    "equal, long": [256] * 8,
    "mixed, long": [440, 40, 700, 128, 1500, 300, 90, 512],
}
Rate = tuple[float, float]
"""Seconds of processor time and of wall time for a token."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--lengths", choices=LENGTHS, action="append")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        source = checkpoint(Path(place), "rows")
        dtype = {"bfloat16": mx.bfloat16, "float32": mx.float32}[chosen.dtype]
        ours, peer = own_runner(source, dtype), load_peer(source)
        peer.set_dtype(dtype)  # biases are float32 in the checkpoint, and would make the cache so
        programs: dict[str, Callable[[list[list[int]], int], Rate]] = {
            "gptoss-mlx": lambda prompts, count: decode(ours, prompts, count),
            "mlx-lm": lambda prompts, count: decode_peer(peer, prompts, count),
        }
        for kind in chosen.lengths or LENGTHS:
            measure(kind, LENGTHS[kind], programs, chosen.rounds, chosen.tokens)
        ours.close()


def measure(kind: str, lengths: list[int], programs: dict[str, Any], rounds: int, tokens: int) -> None:
    """Prints one table."""
    found: dict[tuple[str, int], list[Rate]] = {}
    for _ in range(rounds + 1):  # the first one compiles and is not counted
        for rows in ROWS:
            prompts = [[n * 7 % 300 + row for n in range(length)] for row, length in enumerate(lengths[:rows])]
            for name, program in programs.items():
                found.setdefault((name, rows), []).append(program(prompts, tokens))
    for unit, which in (("processor", 0), ("wall", 1)):
        print(f"\n{kind} lengths, tokens a second of {unit} time")
        for name in programs:
            rates = [1 / min(rate[which] for rate in found[name, rows][1:]) for rows in ROWS]
            ratios = "".join(f"{rate:>9.1f} ({rate / rates[0]:.2f})" for rate in rates)
            print(f"  {name:<12}{ratios}", flush=True)


def own_runner(directory: Path, dtype: mx.Dtype) -> ModelRunner:
    """This library, with place for all rows."""
    transformer = load_transformer(directory, dtype, compiled=True)
    budget = Budget(config=transformer.config, device=DeviceInfo.current(), context=8192, element_bytes=dtype.size)
    return ModelRunner(lambda cancelled: transformer, budget, MLX_MEMORY, parallel=max(ROWS))


def decode(runner: ModelRunner, prompts: list[list[int]], count: int) -> Rate:
    """Rows of this library. Counted from when all of them decode to when the first one ends."""
    for prompt in prompts:
        runner.prefill(prompt)
    generations = [
        runner.generate(prompt, SamplingParams(temperature=0, max_tokens=count), stop_tokens=frozenset())
        for prompt in prompts
    ]
    for generation in generations:
        next(generation)
    began = time.process_time(), time.perf_counter()
    before = [generation._channel.items.qsize() for generation in generations]
    for _ in generations[0]:
        pass
    ended = time.process_time(), time.perf_counter()
    after = [generation._channel.items.qsize() for generation in generations[1:]]
    produced = count - 1 + sum(after) - sum(before[1:])
    for generation in generations:
        list(generation)
    return (ended[0] - began[0]) / produced, (ended[1] - began[1]) / produced


def decode_peer(model: Any, prompts: list[list[int]], count: int) -> Rate:
    """Rows of mlx-lm's BatchGenerator, counted in the same way."""
    from mlx_lm.generate import BatchGenerator

    generator: Any = BatchGenerator(model, max_tokens=count)
    generator.insert(prompts)
    seen: set[int] = set()
    while len(seen) < len(prompts):
        seen |= {response.uid for response in generator.next()[1]}
    began = time.process_time(), time.perf_counter()
    produced = 0
    while True:
        responses = generator.next()[1]
        produced += len(responses)
        if any(response.finish_reason for response in responses):
            break
    ended = time.process_time(), time.perf_counter()
    generator.close()
    return (ended[0] - began[0]) / produced, (ended[1] - began[1]) / produced


if __name__ == "__main__":
    main()
