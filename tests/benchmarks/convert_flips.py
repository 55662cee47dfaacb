"""Flips random bits of a converted directory, one at a time; ``verify`` must name the file each time.

python -m tests.benchmarks.convert_flips [--flips 1000]
"""

from __future__ import annotations

import argparse
import collections
import tempfile
from pathlib import Path

import numpy as np

from gptoss_mlx.convert import convert_checkpoint, verify_checkpoint
from gptoss_mlx.errors import CheckpointError
from tests.convert.sources import write_layout


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    named: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "out"
        convert_checkpoint(write_layout("hf", Path(place) / "hf"), target, dense="q8")
        files = sorted(target.iterdir())
        for number in range(options.flips):
            # Half of the flips in the weights, the rest over all files, so that small files are hit too.
            path = max(files, key=_size) if number % 2 else files[number // 2 % len(files)]
            _flip_and_verify(path, rng)
            named[path.name] += 1
        assert verify_checkpoint(target).ok
    print(f"{options.flips} flips, all named:", dict(named))


def _size(path: Path) -> int:
    return path.stat().st_size


def _flip_and_verify(path: Path, rng: np.random.Generator) -> None:
    bit = int(rng.integers(_size(path) * 8))
    with path.open("r+b", buffering=0) as file:
        _flip(file.fileno(), bit)
        try:
            problems = list(verify_checkpoint(path.parent).problems)
        except CheckpointError as error:
            problems = [str(error)]
        _flip(file.fileno(), bit)
    assert any(path.name in problem for problem in problems), (path, bit)


def _flip(descriptor: int, bit: int) -> None:
    import os

    (byte,) = os.pread(descriptor, 1, bit // 8)
    os.pwrite(descriptor, bytes([byte ^ 1 << bit % 8]), bit // 8)


if __name__ == "__main__":
    main()
