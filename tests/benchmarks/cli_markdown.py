"""What drawing costs: CPU seconds for a 4,000-token answer, which takes 80 s at 50 tokens a second.

python tests/benchmarks/cli_markdown.py

On an x86-64 machine, 2026-11-21: 0.36 % (CJK) to 1.80 % (a table of twelve columns) of one core, most documents
under 1 %; the promise is 2 % of two cores.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gptoss_mlx.cli.screen.markdown import MarkdownStream
from gptoss_mlx.cli.screen.terminal import Terminal
from tests.cli.screen.documents import DOCUMENTS

TOKENS, TOKENS_A_SECOND, FRAMES_A_SECOND = 4000, 50, 16


class Tty(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


def cost(document: str) -> float:
    """CPU seconds to show ``document``, a token being four characters, redrawn as often as the chat does."""
    document = (document * (4 * TOKENS // len(document) + 1))[: 4 * TOKENS]
    screen, stream = Terminal(Tty(), {"TERM": "xterm"}), MarkdownStream()
    began = time.process_time()
    for number, start in enumerate(range(0, len(document), 4)):
        stream.feed(document[start : start + 4])
        if number % (TOKENS_A_SECOND // FRAMES_A_SECOND) == 0:
            screen.frame(stream.rows(79), stream.tail(79))
    screen.rows(stream.finish(79))
    return time.process_time() - began


def main() -> None:
    """Every document of the tests."""
    duration = TOKENS / TOKENS_A_SECOND
    for name, document in DOCUMENTS.items():
        seconds = cost(document + "\n\n")
        print(f"{name:<16} {seconds:6.2f} s CPU of {duration:.0f} s: {seconds / duration:.2%} of one core")


if __name__ == "__main__":
    main()
