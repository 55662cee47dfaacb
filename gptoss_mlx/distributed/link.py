"""One connection between the machine that leads and one that follows: messages, and a heartbeat beside them.

A message is a JSON list, one a line. The heartbeat is what notices a machine that is stopped or unplugged: the
connections of MLX wait for it without end. Nothing that arrives is run or unpickled.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from ..files.read import parse_json

__all__ = ["SILENCE_SECONDS", "Link", "Message", "receive_line"]

Message: TypeAlias = list[Any]
BEAT_SECONDS: Final = 1.0
_CLOSING_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 6.0
"""A machine that has sent nothing for so long is lost."""
_MAX_LINE: Final = 64 * 2**20
"""The longest message: a request's ``logit_bias`` for every token."""
_BEAT: Final = ["beat"]


class Link:
    """Sends and receives messages in threads of its own, until it is closed or lost.

    Args:
        connection: connected, and both sides know who the other is.
        on_message: is called with each message, one after another.
        on_lost: is called once, with the reason, unless :meth:`close` came first.
    """

    def __init__(
        self, connection: socket.socket, on_message: Callable[[Message], None], on_lost: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._on_message, self._on_lost = on_message, on_lost
        self._sending = threading.Lock()
        self._ended = threading.Event()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(SILENCE_SECONDS)
        self.same_machine: bool = connection.getpeername()[0] == connection.getsockname()[0]
        """Whether both ends are on one machine."""
        self._reader = threading.Thread(target=self._read, name="gptoss-mlx link", daemon=True)
        self._reader.start()
        threading.Thread(target=self._beat, name="gptoss-mlx heartbeat", daemon=True).start()

    def send(self, message: Message) -> None:
        """Sends a message; after the connection was lost it does nothing."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._sending:
                if not self._ended.is_set():
                    self._connection.sendall(line)
        except OSError as error:
            self._end(_reason(error))

    def close(self) -> None:
        """Closes the connection without reporting it as lost."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        # Closed with something unread, a connection drops what was sent last.
        if threading.current_thread() is not self._reader:
            self._reader.join(_CLOSING_SECONDS)

    def _read(self) -> None:
        with self._connection.makefile("rb") as lines:
            while True:
                try:
                    message = receive_line(lines.readline, _MAX_LINE)
                except (OSError, ValueError) as error:
                    self._end(_reason(error))
                    return
                if message != _BEAT:
                    self._on_message(message)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self.send(_BEAT)

    def _end(self, reason: str) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._on_lost(reason)


def receive_line(readline: Callable[[int], bytes], limit: int) -> Message:
    """One message.

    Raises:
        OSError: the connection was closed, or was silent too long.
        ValueError: something else than a message, or a longer one than ``limit``.
    """
    line = readline(limit)
    if not line:
        raise ConnectionError("it closed its connection")
    if not line.endswith(b"\n"):
        raise ValueError("it sent a line that is too long or cut short")
    try:
        message = parse_json(line)
    except RecursionError as error:
        raise ValueError("it sent something else than a message") from error
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise ValueError("it sent something else than a message")
    return message


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"has not answered for {SILENCE_SECONDS:.0f} seconds"
    if isinstance(error, OSError):
        return "has closed its connection: its process ended"
    return f"sent what is no message ({error})"
