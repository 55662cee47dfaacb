"""Programs that used a compiled model and end: how often which exit code.

    python -m tests.benchmarks.engine_exits --runs 200

Runs the programs of ``tests/compiled`` in turn. A thread that computed and did not destroy its streams makes some
of them abort with 134: one in three, before the worker destroyed its own. Since then, 200 runs beside the test
suite (2026-11-26, mlx 0.32.4 on the CPU): 200 times 0.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter

from tests.compiled.test_compiled import LOAD, PROGRAMS, run


def main() -> None:
    """Prints each program's exit codes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    codes = {use: Counter[int]() for use in PROGRAMS}
    for use in itertools.islice(itertools.cycle(PROGRAMS), parser.parse_args().runs):
        codes[use][run(LOAD + PROGRAMS[use]).returncode] += 1
    for use, counts in codes.items():
        print(f"{use}: {dict(counts)}")
    print("all:", dict(sum(codes.values(), Counter())))


if __name__ == "__main__":
    main()
