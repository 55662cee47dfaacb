"""Tells an analysis that goes round in circles from one that merely repeats itself.

Knows only tokens. What counts as a loop is a block of up to 1,024 tokens that comes again token for token, at
least three more times and for at least 512 tokens: rows of a table, lines of code and lists of numbers differ in
some token long before that.
"""

from __future__ import annotations

from typing import Final

import numpy as np

__all__ = ["LoopDetector"]

MAX_PERIOD: Final = 1024
MIN_TOKENS: Final = 512
MIN_REPEATS: Final = 3


class LoopDetector:
    """Told one token after the other, it says when they have become a loop."""

    def __init__(self) -> None:
        # The last tokens, newest first, twice over: so that any MAX_PERIOD of them lie side by side.
        self._recent = np.full(2 * MAX_PERIOD, -1, dtype=np.int64)
        self._begin = MAX_PERIOD
        # For each period, how many tokens in a row equalled the one a period before.
        self._runs = np.zeros(MAX_PERIOD, dtype=np.int64)
        periods = np.arange(1, MAX_PERIOD + 1)
        self._enough = np.maximum(MIN_TOKENS, MIN_REPEATS * periods)

    def advance(self, token: int) -> bool:
        """Takes the next token; True if they loop now."""
        previous = self._recent[self._begin : self._begin + MAX_PERIOD]
        self._runs += 1
        self._runs *= previous == token
        self._begin -= 1
        if self._begin < 0:
            self._recent[-MAX_PERIOD + 1 :] = self._recent[: MAX_PERIOD - 1]
            self._begin = MAX_PERIOD
        self._recent[self._begin] = token
        return bool((self._runs >= self._enough).any())
