"""Thousands of different questions to one model: what the store of prompt caches holds, and the process's memory.

    python -m tests.benchmarks.engine_asks --questions 10000

Each question is another one and has one generated token. Printed every tenth of them: the entries of the store and
their bytes, MLX's active memory and the resident memory. All must stay flat once the store is full.

2026-11-26, mlx 0.32.4 on the CPU, 10,000 questions: from the first thousand on 64 entries of 80.0 MB and 69.6 MB
in MLX throughout (snapshots share memory); 145 MB resident after 1,000 questions, 151 MB after 10,000.
"""

from __future__ import annotations

import argparse

import mlx.core as mx

import gptoss_mlx as gptoss
from tests.benchmarks.api_cancellation import resident_megabytes


def main() -> None:
    """Prints the memory every tenth of the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    questions = parser.parse_args().questions
    one = gptoss.SamplingParams(temperature=0, max_tokens=1)
    with gptoss.load("demo") as model:
        store = model._runner.store
        for n in range(1, questions + 1):
            model.ask(f"What is {n}+{7919 * n % 1000}?", sampling=one, effort="low")
            if n % max(1, questions // 10) == 0:
                entries, nbytes = model._runner.call(lambda: (len(store.entries), store.nbytes))
                print(
                    f"{n:6} questions: {entries} entries of {nbytes / 2**20:.1f} MB, "
                    f"{mx.get_active_memory() / 2**20:.1f} MB in MLX, {resident_megabytes():.0f} MB resident",
                    flush=True,
                )


if __name__ == "__main__":
    main()
