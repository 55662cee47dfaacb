"""The events of one request, and its reply at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self

from ..errors import InvalidRequest
from ..events import Done, Event, Parsed, Reply, Text

__all__ = ["Stream"]


class Stream(Iterator[Event], Generic[Parsed]):
    """Iterate it for events; the last one is ``Done``. ``Stream[City]`` is one whose reply is a ``Reply[City]``.

    As a context manager it leaves nothing behind: what still runs at the end of the block is cancelled.

    Args:
        events: ends in Done.
        cancel: makes ``events`` end soon.

    Example:
        >>> with model.stream("Hello", choices=["hi"], max_thinking_tokens=0) as stream:
        ...     said = "".join(stream.text)
        >>> said, stream.reply.finish_reason
        ('hi', 'stop')
    """

    def __init__(self, events: Iterator[Event], cancel: Callable[[], None]) -> None:
        self._events = events
        self._cancel = cancel
        self._reply: Reply[Parsed] | None = None
        self._reading = threading.Lock()
        self.ended = False
        """Whether it came to its end, failed or was cancelled, so that the chat may go on."""

    def __next__(self) -> Event:
        if not self._reading.acquire(blocking=False):
            raise InvalidRequest("another thread reads this stream; one at a time may")
        try:
            event = next(self._events)
        except BaseException:
            self.ended = True
            raise
        finally:
            self._reading.release()
        if isinstance(event, Done):
            self._reply, self.ended = event.reply, True
        return event

    @property
    def text(self) -> Iterator[str]:
        """The pieces of the final answer alone."""
        return (event.delta for event in self if isinstance(event, Text))

    @property
    def reply(self) -> Reply[Parsed]:
        """The whole answer.

        Raises:
            InvalidRequest: the stream has not ended.
        """
        if self._reply is None:
            raise InvalidRequest("the stream has not ended; iterate it to its end first, or call finish()")
        return self._reply

    def finish(self) -> Reply[Parsed]:
        """Waits for the end.

        Example:
            >>> with model.stream("Yes or no?", choices=["yes"], max_thinking_tokens=0) as stream:
            ...     stream.finish().text
            'yes'
        """
        for _ in self:
            pass
        return self.reply

    def cancel(self) -> None:
        """Ends the stream at once: what came until now is the reply, ``cancelled``. From any thread.

        Example:
            >>> with model.stream("Tell me everything.") as stream:
            ...     stream.cancel()
            ...     stream.finish().finish_reason
            'cancelled'
        """
        self.ended = True
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reply is None:
            self.cancel()
            self._settle()

    def _settle(self) -> None:
        """Of a cancelled stream, adds what came until now to the chat, unless another thread reads it."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            for event in self._events:
                if isinstance(event, Done):
                    self._reply = event.reply
        finally:
            self._reading.release()
