"""Limits the digits of numbers in constrained JSON.

JSON does not bound a number's digits, so its grammar does not either, and a sampled number may run until the token
limit. A double has 17 significant digits: after 30 digits in a row, or 2 of an exponent, another digit is allowed
only if nothing else is.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..tokenizer import Tokenizer

__all__ = ["DigitLimit"]

_MAX_RUN: Final = 30
_MAX_EXPONENT: Final = 2
_DIGITS: Final = b"0123456789"

_leading: WeakKeyDictionary[Tokenizer, NDArray[np.uint8]] = WeakKeyDictionary()


class DigitLimit:
    """Counts consecutive digits in JSON text, outside strings.

    Args:
        tokenizer: the model's.
        words: the number of 32-bit words in a mask.
    """

    def __init__(self, tokenizer: Tokenizer, words: int) -> None:
        self._leading = np.zeros(words * 32, dtype=np.uint8)
        counts = _leading_digits(tokenizer)
        self._leading[: len(counts)] = counts
        self._longest = int(counts.max())
        self._in_string = self._escaped = False
        self._left = _MAX_RUN

    @property
    def is_near(self) -> bool:
        """Whether :meth:`narrow` changes anything."""
        return not self._in_string and self._left < self._longest

    def advance(self, text: bytes) -> None:
        """Appends a token's text."""
        for byte in text:
            if self._in_string:
                self._in_string = self._escaped or byte != ord('"')
                self._escaped = not self._escaped and byte == ord("\\")
            elif byte in _DIGITS:
                self._left -= 1
            elif byte not in b"+-" or self._left != _MAX_EXPONENT:
                # The sign of an exponent does not change its limit.
                self._left = _MAX_EXPONENT if byte in b"eE" else _MAX_RUN
                self._in_string = byte == ord('"')

    def narrow(self, mask: NDArray[np.uint32]) -> None:
        """Removes tokens with too many digits from a mask, unless no other token would remain."""
        if not self.is_near:
            return
        too_long = np.packbits(self._leading > max(self._left, 0), bitorder="little").view(np.uint32)
        kept = mask & ~too_long
        if kept.any():
            mask[:] = kept


def _leading_digits(tokenizer: Tokenizer) -> NDArray[np.uint8]:
    """The number of digits at the start of each token."""
    found = _leading.get(tokenizer)
    if found is None:
        texts = map(tokenizer.token_bytes, range(tokenizer.size))
        found = np.array([len(text) - len(text.lstrip(_DIGITS)) for text in texts], dtype=np.uint8)
        _leading[tokenizer] = found
    return found
