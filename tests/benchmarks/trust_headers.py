"""The long run of ``tests/hostile/test_checkpoint.py``: safetensors files that are wrong in every way.

    python -m tests.benchmarks.trust_headers [--headers 100000]

1. Each is a good file after changes of its structure, its text, its length or its data. Whatever is accepted, the
   safetensors library must accept too, with the same tensors; whatever is refused must be refused with one typed,
   short line. A violation is an assertion that stops it.
2. How long the headers take that were made to take long, in seconds of the processor, and what they take of the
   memory (that of tests/hostile/test_checkpoint.py).

On 21 November 2026: 15,554 of 100,000 accepted, the others refused within 6 ms each; of the second part, 0.3 s and
46 MiB beside the file at most.
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
    """Reads it, to no avail."""
    try:
        read_header(path)
    except CheckpointError:
        return
    raise AssertionError(f"{path} was accepted")


if __name__ == "__main__":
    main()
