"""Text that attacks a terminal, in every place where it may reach the screen.

python -m tests.benchmarks.cli_escapes [PAYLOADS]

The long run behind ``tests/cli/screen/test_terminal.py``. Prints for each place how many payloads left an escape
sequence that is not the program's own.

2026-11-26: 5,000 payloads in each of the seven places (answers, thinking, text, rows, errors, names of files and
saved chats), characters without width among them; none came through.
"""

from __future__ import annotations

import os
import sys
import tempfile

from tests.cli.screen.escapes import PLACES, only_ours, payloads


def main() -> None:
    """Every payload in every place."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as home:
        os.environ["XDG_DATA_HOME"] = home
        for place, show in PLACES.items():
            passed = [
                payload for number, payload in enumerate(payloads(count)) if not only_ours(show(payload, number))
            ]
            print(f"{place}: {count} payloads, {len(passed)} came through", *map(repr, passed[:3]), flush=True)


if __name__ == "__main__":
    main()
