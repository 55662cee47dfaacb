"""The long run of ``tests/hostile/test_text.py``: conversations whose texts try to become control tokens.

    python -m tests.benchmarks.trust_text [--conversations 100000]

Every text field (messages, instructions, identity, schemas, tool and format descriptions) contains names of
control tokens, parts of them and other text. The rendering must have exactly the control tokens that the structure
needs. A violation is an assertion that stops the run.
"""

from __future__ import annotations

import argparse
import time

from hypothesis import HealthCheck, given, settings

from tests.hostile.texts import check, conversations


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=100_000)
    options = parser.parse_args()
    began = time.monotonic()
    tried = 0

    @settings(
        max_examples=options.conversations,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(conversations())
    def run(made: object) -> None:
        nonlocal tried
        tried += 1
        check(made)  # type: ignore[arg-type]

    run()
    print(f"{tried:,} conversations, 0 forged tokens; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
