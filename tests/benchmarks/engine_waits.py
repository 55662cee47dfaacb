"""A long prompt beside rows that decode: how long a row waits for a token, and a short request for its first one.

A random model of 24 layers. Two rows decode; then a long prompt comes, and five seconds later a short request.
Waits are in seconds of processor time, which other programs on the machine disturb least, and of wall time.

    python -m tests.benchmarks.engine_waits [--length 16384]

On two hyperthreads of one core that nothing else used (2026-11-26, mlx 0.32.4):

    a prompt of 16,384 tokens         206.4 s of processor time, 199.2 s of wall time
    longest wait of a row             0.30 s, 0.29 s
    first token of a short request    0.46 s, 0.44 s

While ten other programs used them a row waited 0.21 s of processor time and 2.86 s of wall time at most. Before
the pace knew that all sizes of a chunk take longer at greater depths, it was 2.4 s where chunks became smaller.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from gptoss_mlx.engine.generation import Generation
from gptoss_mlx.engine.runner import ModelRunner
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.metal import MLX_MEMORY
from gptoss_mlx.model.transformer import load_transformer
from gptoss_mlx.sampling import SamplingParams
from tests.benchmarks.engine_models import checkpoint

SMALL = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""Otherwise MLX's CPU backend computes the attention of 16,384 tokens for half an hour."""


@dataclass(kw_only=True)
class Follower:
    """Reads a row, and notes when each token came: in processor time and in wall time."""

    row: Generation
    times: list[tuple[float, float]] = field(default_factory=list)

    def read(self) -> None:
        """Reads to the end."""
        for _ in self.row:
            self.times.append((time.process_time(), time.perf_counter()))

    def longest(self, begin: float, end: float) -> tuple[float, float]:
        """The longest wait between two tokens in a span of wall time: in processor time and in wall time."""
        times = [each for each in self.times if begin <= each[1] <= end]
        pairs = list(itertools.pairwise(times))
        return max(b[0] - a[0] for a, b in pairs), max(b[1] - a[1] for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=16384)
    length = parser.parse_args().length
    with tempfile.TemporaryDirectory() as place:
        transformer = load_transformer(checkpoint(Path(place), "waits", **SMALL), mx.float32)
        budget = Budget(
            config=transformer.config, device=DeviceInfo.current(), context=length + 1000, element_bytes=4
        )
        runner = ModelRunner(lambda cancelled: transformer, budget, MLX_MEMORY, parallel=4)
        measure(runner, length)
        runner.close()


def measure(runner: ModelRunner, length: int) -> None:
    """Prints the waits."""

    def ask(seed: int, tokens: int, count: int) -> Generation:
        prompt = [n * seed % 300 for n in range(tokens)]
        sampling = SamplingParams(temperature=0, max_tokens=count)
        return runner.generate(prompt, sampling, stop_tokens=frozenset())

    rows = [Follower(row=ask(seed, 60, length)) for seed in (7, 11)]
    threads = [threading.Thread(target=row.read) for row in rows]
    for thread in threads:
        thread.start()
    while min(len(row.times) for row in rows) < 20:
        time.sleep(0.1)
    began = time.process_time(), time.perf_counter()
    long = ask(13, length, 1)
    time.sleep(5)
    asked = time.process_time(), time.perf_counter()
    short = ask(17, 40, 20)
    next(short)
    answered = time.process_time(), time.perf_counter()
    list(long)
    ended = time.process_time(), time.perf_counter()
    for row in rows:
        row.row.cancel()
    for thread in threads:
        thread.join()
    waits = [row.longest(began[1], ended[1]) for row in rows]
    print("seconds of processor time, and of wall time")
    print(f"a prompt of {length:,} tokens: {ended[0] - began[0]:.1f}, {ended[1] - began[1]:.1f}")
    print(f"longest wait of a row:  {max(cpu for cpu, _ in waits):.2f}, {max(wall for _, wall in waits):.2f}")
    print(f"first token of a short request: {answered[0] - asked[0]:.2f}, {answered[1] - asked[1]:.2f}")


if __name__ == "__main__":
    main()
