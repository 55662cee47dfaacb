"""Long pasted texts, each shown in the prompt as one short sign and sent in full."""

from __future__ import annotations

__all__ = ["Pastes"]

_MOST_LINES = 10
_MOST_CHARACTERS = 1000


class Pastes:
    """The texts that were folded in one session."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """The sign for a long text; a short text itself."""
        lines = text.rstrip("\n").count("\n") + 1
        if lines <= _MOST_LINES and len(text) <= _MOST_CHARACTERS:
            return text
        size = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
        sign = f"[pasted {len(self._texts) + 1} · {size}]"
        self._texts[sign] = text
        return sign

    def unfold(self, text: str) -> str:
        """``text`` with the pasted texts in place of their signs."""
        for sign, pasted in self._texts.items():
            text = text.replace(sign, pasted)
        return text

    def drop(self, text: str) -> str:
        """``text`` without the signs of pasted texts."""
        for sign in self._texts:
            text = text.replace(sign, " ")
        return text

    def sign_at_end(self, text: str) -> str:
        """The sign that ``text`` ends with; empty: none."""
        return next((sign for sign in self._texts if text.endswith(sign)), "")
