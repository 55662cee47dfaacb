"""The long run of ``tests/test_hostile_checkpoint.py``: safetensors files that are wrong in every way.

    python -m tests.benchmarks.trust_headers [--headers 100000]

Each is a good file after changes of its structure, its text, its length or its data. Whatever is accepted, the
safetensors library must accept too, with the same tensors; whatever is refused must be refused with one typed,
short line. A violation is an assertion that stops it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests.hostile_headers import accepted, mutated


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headers", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1_000_000)
    options = parser.parse_args()
    good, slowest = 0, 0.0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        for seed in range(options.seed, options.seed + options.headers):
            content = mutated(random.Random(seed))
            began = time.process_time()
            good += accepted(Path(place) / "model.safetensors", content)
            slowest = max(slowest, time.process_time() - began)
    print(
        f"{options.headers:,} headers: {good:,} accepted, all of them by safetensors too; "
        f"{options.headers - good:,} refused; the slowest took {slowest * 1000:.1f} ms of the processor"
    )


if __name__ == "__main__":
    main()
