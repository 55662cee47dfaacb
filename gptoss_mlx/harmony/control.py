"""Control tokens as the parser distinguishes them. Knows nothing of messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from .header import CHANNEL_MARKER, CONSTRAIN_MARKER
from .render import TokenCodec

__all__ = ["MARKERS", "Control", "Item", "controls_of", "items_of"]


class Control(Enum):
    """The kinds of control tokens."""

    START = "<|start|>"
    CHANNEL = "<|channel|>"
    CONSTRAIN = "<|constrain|>"
    MESSAGE = "<|message|>"
    STOP = "<|end|>, <|return|> or <|call|>"
    OTHER = "another control token"


MARKERS: Final = {Control.CHANNEL: CHANNEL_MARKER, Control.CONSTRAIN: CONSTRAIN_MARKER}
"""The characters that represent control tokens in the text of a header."""

Item: TypeAlias = tuple[Control | None, bytes]
"""A token: its kind, if it is a control token, and its bytes."""

_STOPS: Final = ("<|end|>", "<|return|>", "<|call|>")
_ITEM_OF_MARKER: Final = {marker: (control, control.value.encode()) for control, marker in MARKERS.items()}
_MARKER: Final = re.compile(f"([{''.join(_ITEM_OF_MARKER)}])")

_controls_of: WeakKeyDictionary[TokenCodec, Mapping[int, Control]] = WeakKeyDictionary()


def controls_of(tokenizer: TokenCodec) -> Mapping[int, Control]:
    """The kind of each control token by its id, cached for the tokenizer."""
    controls = _controls_of.get(tokenizer)
    if controls is None:
        by_name = {control.value: control for control in Control} | dict.fromkeys(_STOPS, Control.STOP)
        controls = {token: by_name.get(name, Control.OTHER) for name, token in tokenizer.special.items()}
        _controls_of[tokenizer] = controls
    return controls


def items_of(text: str) -> list[Item]:
    """A part of a header as tokens again, with the bytes that were not valid UTF-8."""
    parts = _MARKER.split(text)
    return [_ITEM_OF_MARKER.get(part) or (None, part.encode("utf-8", "surrogateescape")) for part in parts if part]
