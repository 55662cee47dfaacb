"""Malformed turns of a model through the endpoints: none may be an error, or show the name of a control token.

    python -m tests.benchmarks.server_malformed --turns 10000

The turns are those of ``harmony_malformed``. Each goes through one of the three APIs, streamed or not; every
object and every event is validated by the types of the APIs' own clients, and the order of events is checked.
"""

from __future__ import annotations

import argparse

from tests.server.malformed import replayed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcome = replayed(arguments.turns, arguments.seed)
    print(f"{outcome.turns:,} turns, {len(outcome.wrong)} wrong; recovered in per cent:")
    print(", ".join(f"{name} {100 * count / outcome.turns:.1f}" for name, count in outcome.recovered.items()))
    for text in outcome.wrong[:20]:
        print(text)
    raise SystemExit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
