"""Questions of the corpus, and variations of how people type.

An `Exercise` is a question, the thinking at each effort, and the only correct answer.
Knows nothing of transcripts or tokens.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EFFORTS", "Exercise", "casual", "fill", "is_held_out", "listed"]

EFFORTS = ("low", "medium", "high")

_TYPOS = (
    ("what is", "whats"),
    ("what is", "wat is"),
    ("what is", "what's"),
    ("how many", "how mny"),
    ("how many", "howmany"),
    ("you", "u"),
    ("are", "r"),
    ("please", "pls"),
    ("the ", ""),
    ("tell me", "tel me"),
    ("does", "do"),
)
_BEFORE = (
    "Please: ",
    "Hey, ",
    "Hi, ",
    "Hello! ",
    "Quick question: ",
    "Question: ",
    "So, ",
    "ok ",
    "And ",
    "Now: ",
)
_AFTER = (" Thanks.", " please", " Please.", " Thank you!", " thanks", "?", "!", " :)")


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One question with its answer."""

    kind: str
    question: str
    thoughts: tuple[str, str, str]
    """The analysis at low, medium and high effort."""
    answer: str
    functions: tuple[dict[str, Any], ...] = ()
    """The functions that the developer message declares."""
    call: tuple[str, str] | None = None
    """Name and JSON arguments of the function call that comes before the answer."""
    result: str = ""
    """The result of the called function."""
    expected: Any = field(default=None, compare=False)
    """The value that the evaluation compares the answer with."""


def listed(text: str) -> tuple[str, ...]:
    """The items of a text in which bars and line breaks separate them."""
    return tuple(text.replace("\n", "|").split("|"))


def is_held_out(*key: object, one_in: int) -> bool:
    """Whether this key belongs to the held-out part: the same on every machine and in every run."""
    return zlib.crc32("\x1f".join(map(str, key)).encode()) % one_in == 0


def fill(template: str, **values: str) -> str:
    """Fills a template; a value at the beginning of a sentence gets a capital letter."""
    text = template
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    capital = template[:1].isupper() or (template.startswith("{") and template.endswith("?"))
    return text[:1].upper() + text[1:] if capital and " " in text else text


def casual(template: str, chance: random.Random, *, strength: float = 0.45) -> str:
    """The template as someone types it in a hurry; placeholders in braces are unchanged."""
    if chance.random() > strength:
        return template
    text = template
    if chance.random() < 0.7:
        text = text[:1].lower() + text[1:]
    if chance.random() < 0.6:
        text = text.rstrip("?.!")
    if chance.random() < 0.25:
        old, new = chance.choice(_TYPOS)
        text = text.replace(old, new, 1)
    if chance.random() < 0.25:
        text = _slip(text, chance)
    if chance.random() < 0.15:
        text = chance.choice(_BEFORE) + text
    if chance.random() < 0.15:
        text = text.rstrip("?.!") + chance.choice(_AFTER)
    return text


def _slip(text: str, chance: random.Random) -> str:
    """One letter of one word dropped, doubled or swapped with the next."""
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not long:
        return text
    at = chance.choice(long)
    word = words[at]
    letter = chance.randrange(1, len(word) - 1)
    slips = (
        word[:letter] + word[letter + 1 :],
        word[:letter] + word[letter] + word[letter:],
        word[:letter] + word[letter + 1] + word[letter] + word[letter + 2 :],
    )
    words[at] = chance.choice(slips)
    return " ".join(words)
