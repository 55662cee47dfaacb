"""What drawing an answer costs: of the documents of the tests, and of blocks of up to 10,000 lines.

python -m tests.benchmarks.cli_markdown

First, CPU seconds for a 4,000-token answer, which takes 80 s at 50 tokens a second. Then, of every kind of block
that may grow without an end, the CPU time of 10,000 lines over that of 1,000: 10 is linear.

On a busy x86-64 machine, 2026-11-26: 0.13 % (text from right to left) to 0.63 % (links) of one core; 10,000 lines
cost 9.2 (indented code) to 12.0 (a table) times as much as 1,000. The promise is 2 % of two cores, and linear.
"""

from __future__ import annotations

import time

from gptoss_mlx.cli.screen.markdown import MarkdownStream
from gptoss_mlx.cli.screen.terminal import Terminal
from tests.cli.screen.documents import DOCUMENTS
from tests.cli.screen.escapes import Tty

TOKENS, TOKENS_A_SECOND, FRAMES_A_SECOND = 4000, 50, 16

GROWING = {
    "paragraph": ("", "line {} of a paragraph without an empty one\n"),
    "open markup": ("", "line {} has *open [markup `in it\n"),
    "one long line": ("", "some more words of line {} "),
    "table": ("| a | b |\n|---|---|\n", "| {} | value |\n"),
    "list": ("", "- item {}\n"),
    "nested list": ("- top\n", "  - item {}\n"),
    "quotation": ("", "> line {}\n"),
    "fence": ("```python\n", "x = {}\n"),
    "quoted fence": ("> ```python\n", "> x = {}\n"),
    "indented code": ("", "    x = {}\n"),
    "definitions": ("", "[{0}]: https://example.com/{0}\n"),
}
"""Of each block, how it begins and how it goes on."""


def cost(document: str) -> float:
    """CPU seconds to show ``document``, a token being four characters, redrawn as often as the chat does."""
    screen, stream = Terminal(Tty(), {"TERM": "xterm"}), MarkdownStream()
    began = time.process_time()
    for number, start in enumerate(range(0, len(document), 4)):
        stream.feed(document[start : start + 4])
        if number % (TOKENS_A_SECOND // FRAMES_A_SECOND) == 0:
            screen.frame(stream.rows(79), stream.tail(79))
    screen.rows(stream.finish(79))
    return time.process_time() - began


def main() -> None:
    """Every document of the tests, then every block."""
    duration = TOKENS / TOKENS_A_SECOND
    for name, document in DOCUMENTS.items():
        repeated = (document + "\n\n") * (4 * TOKENS // len(document) + 1)
        seconds = cost(repeated[: 4 * TOKENS])
        print(
            f"{name:<16} {seconds:6.2f} s CPU of {duration:.0f} s: {seconds / duration:.2%} of one core",
            flush=True,
        )
    for name, (begin, line) in GROWING.items():
        few, many = (cost(begin + "".join(map(line.format, range(lines)))) for lines in (1000, 10_000))
        print(f"{name:<16} {many:6.2f} s CPU for 10,000 lines, {many / few:.1f} times that of 1,000", flush=True)


if __name__ == "__main__":
    main()
