"""The long run of ``tests/hostile/test_checkpoint.py``: malformed safetensors files.

    python -m tests.benchmarks.trust_headers [--headers 100000]

1. Each is a good file with changes of its structure, text, length or data. The safetensors library must accept
   every file that is accepted here, with the same tensors; refusals must be one short, typed line. A violation is
   an assertion that stops the run.
2. Processor time and memory of headers that were made to be slow or large.

On 21 November 2026: 15,554 of 100,000 accepted, the others refused within 6 ms each; of the second part, 0.3 s and
at most 46 MiB beyond the file's size.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import tracemalloc
from pathlib import Path

from gptoss_mlx.checkpoint.safetensors import read_header
from gptoss_mlx.errors import CheckpointError
from tests.hostile.corpus import write_header
from tests.hostile.headers import LARGE, accepted, mutated


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headers", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1_000_000)
    options = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        path = Path(place) / "model.safetensors"
        many(path, range(options.seed, options.seed + options.headers))
        for name, text in LARGE.items():
            large(write_header(path, text), name)


def many(path: Path, seeds: range) -> None:
    """Mutated headers, one after the other."""
    good, slowest = 0, 0.0
    for seed in seeds:
        content = mutated(random.Random(seed))
        began = time.process_time()
        good += accepted(path, content)
        slowest = max(slowest, time.process_time() - began)
    print(
        f"{len(seeds):,} headers: {good:,} accepted, all of them by safetensors too; "
        f"{len(seeds) - good:,} refused; the slowest took {slowest * 1000:.1f} ms of the processor",
        flush=True,
    )


def large(path: Path, name: str) -> None:
    """One header that must be refused."""
    began = time.process_time()
    refuse(path)
    seconds = time.process_time() - began
    tracemalloc.start()
    refuse(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = path.stat().st_size
    print(f"{name:<16}{size / 2**20:>6.2f} MiB{seconds:>8.3f} s{(peak - size) / 2**20:>8.1f} MiB beside it")


def refuse(path: Path) -> None:
    """Expects that it is refused."""
    try:
        read_header(path)
    except CheckpointError:
        return
    raise AssertionError(f"{path} was accepted")


if __name__ == "__main__":
    main()
