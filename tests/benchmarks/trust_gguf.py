"""Mutates the header of a GGUF file 10,000 times: each is refused, or read as Python's ``gguf`` package reads it.

python -m tests.benchmarks.trust_gguf [--count N] [--seed N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from tests.hostile.gguf_headers import mutate, outcome, write_small


def main() -> None:
    """Prints how many were refused and how many read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        small, path = Path(place) / "small.gguf", Path(place) / "x.gguf"
        header = write_small(small)
        data = small.read_bytes()
        for _ in range(arguments.count):
            path.write_bytes(mutate(data, header, rng))
            counts[outcome(path)] += 1
    print(f"{arguments.count} headers: {counts['refused']} refused, {counts['equal']} read as gguf reads them")


if __name__ == "__main__":
    main()
