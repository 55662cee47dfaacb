"""The answer as an API writes it: one class for each, fed with the parts of an answer in their order.

A writer makes the events of a stream and the whole object from the same parts. Knows nothing of HTTP or models.
"""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from ..errors import GptOssError
from ..events import Reply

_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}

__all__ = ["Call", "Frame", "PartKind", "Writer", "new_id"]


class PartKind(Enum):
    """The kinds of text in an answer."""

    THINKING = auto()
    PREAMBLE = auto()
    """Text for the user before a call."""
    ANSWER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a tool that the client runs."""

    identity: str
    namespace: str
    name: str
    """As the client declared it."""
    arguments: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event."""

    data: dict[str, Any] | str
    event: str | None = None

    def encoded(self) -> str:
        """The event on the wire."""
        if isinstance(self.data, str):
            text = self.data
        else:
            # Some clients take these three characters for the ends of lines.
            text = json.dumps(self.data, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)
        return f"event: {self.event}\ndata: {text}\n\n" if self.event else f"data: {text}\n\n"


def new_id(kind: str) -> str:
    """An id that nobody can guess."""
    return f"{kind}_{secrets.token_hex(16)}"


class Writer(ABC):
    """Writes one answer. Each method returns the events that it leads to."""

    call_kind: str = "call"
    """The beginning of the ids of calls."""
    keep_alive: str = ": keep-alive\n\n"
    """Is sent while nothing else is."""

    def __init__(self) -> None:
        self._kind: PartKind | None = None

    @abstractmethod
    def begin(self, prompt_tokens: int) -> Iterator[Frame]:
        """The request is accepted."""

    def text(self, kind: PartKind, delta: str) -> Iterator[Frame]:
        """A piece of text."""
        if kind is not self._kind:
            yield from self._end_part()
            self._kind = kind
            yield from self._opened(kind)
        yield from self._added(kind, delta)

    def call(self, call: Call) -> Iterator[Frame]:
        """A whole call."""
        yield from self._end_part()
        yield from self._called(call)

    @abstractmethod
    def end(self, reply: Reply) -> Iterator[Frame]:
        """The answer is complete, or as complete as it became."""

    @abstractmethod
    def fail(self, error: GptOssError) -> Iterator[Frame]:
        """The answer ends in an error after its beginning."""

    @property
    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The whole object, after the end."""

    def _end_part(self) -> Iterator[Frame]:
        if self._kind is not None:
            kind, self._kind = self._kind, None
            yield from self._closed(kind)

    @abstractmethod
    def _opened(self, kind: PartKind) -> Iterator[Frame]: ...

    @abstractmethod
    def _added(self, kind: PartKind, delta: str) -> Iterator[Frame]: ...

    @abstractmethod
    def _closed(self, kind: PartKind) -> Iterator[Frame]: ...

    @abstractmethod
    def _called(self, call: Call) -> Iterator[Frame]: ...
