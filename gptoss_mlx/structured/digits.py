"""Numbers in constrained JSON come to an end.

JSON sets no bound to a number's digits, so a grammar of it sets none either, and a model that samples freely may
write them until its tokens run out. A double has 17 significant digits: after 30 in a row before or behind the
point, or 2 of an exponent, another digit is allowed only where nothing else is.
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
    """Follows JSON text and counts the digits in a row, strings left out.

    Args:
        tokenizer: whose tokens the text is made of.
        words: how many 32-bit words a mask has.
    """

    def __init__(self, tokenizer: Tokenizer, words: int) -> None:
        self._leading = np.zeros(words * 32, dtype=np.uint8)
        known = _leading_digits(tokenizer)
        self._leading[: len(known)] = known
        self._longest = int(known.max())
        self._in_string = self._escaped = False
        self._left = _MAX_RUN

    @property
    def is_near(self) -> bool:
        """Whether :meth:`narrow` changes anything."""
        return not self._in_string and self._left < self._longest

    def advance(self, text: bytes) -> None:
        """Goes on by a token's text."""
        for byte in text:
            if self._in_string:
                self._in_string = self._escaped or byte != ord('"')
                self._escaped = not self._escaped and byte == ord("\\")
            elif byte in _DIGITS:
                self._left -= 1
            elif byte not in b"+-" or self._left != _MAX_EXPONENT:
                # The sign of an exponent leaves its limit as it is.
                self._left = _MAX_EXPONENT if byte in b"eE" else _MAX_RUN
                self._in_string = byte == ord('"')

    def narrow(self, mask: NDArray[np.uint32]) -> None:
        """Takes the tokens with too many digits out of a mask, unless it had no others."""
        if not self.is_near:
            return
        too_long = np.packbits(self._leading > max(self._left, 0), bitorder="little").view(np.uint32)
        kept = mask & ~too_long
        if kept.any():
            mask[:] = kept


def _leading_digits(tokenizer: Tokenizer) -> NDArray[np.uint8]:
    """How many digits each token begins with."""
    found = _leading.get(tokenizer)
    if found is None:
        texts = map(tokenizer.token_bytes, range(tokenizer.size))
        found = np.array([len(text) - len(text.lstrip(_DIGITS)) for text in texts], dtype=np.uint8)
        _leading[tokenizer] = found
    return found
