"""The connection to a server: one request at a time, its answer read as events or whole."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from ..errors import GptOssError, InvalidRequest
from ..files.read import short_repr

__all__ = ["Responding", "Server", "as_object", "reason_of"]

_CONNECT_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 120.0
"""Without even a comment, after which the server counts as lost; ``gptoss serve`` sends one every ten seconds."""
_MAX_LINE: Final = 16 * 2**20


def as_object(value: object) -> Mapping[str, Any]:
    """A value of a server's JSON that should be an object."""
    return value if isinstance(value, Mapping) else {}


def reason_of(body: object) -> str:
    """The reason in an error of OpenAI's form."""
    message = as_object(as_object(body).get("error")).get("message")
    return message[:500] if isinstance(message, str) else "it gave no reason"


class Responding(Iterator[dict[str, Any]]):
    """The events of one response, as they come."""

    def __init__(self, server: Server, request: Mapping[str, Any]) -> None:
        self._ended = False
        self._connection, self._answer = server.send("POST", "/v1/responses", request)

    def __next__(self) -> dict[str, Any]:
        while not self._ended:
            try:
                line = self._answer.readline(_MAX_LINE)
            except (OSError, http.client.HTTPException):
                line = b""
            if not line and not self._ended:
                raise GptOssError("the connection to the server was lost; ask again")
            if line.startswith(b"data: "):
                event = _parsed(line[6:])
                self._ended = self._ended or event.get("type") in _LAST
                return event
        raise StopIteration

    def cancel(self) -> None:
        """Ends the iteration at once, and the server's generation. From any thread."""
        self._ended = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads

    def close(self) -> None:
        """Closes the connection, in the thread that read."""
        self._answer.close()
        self._connection.close()


_LAST: Final = ("response.completed", "response.incomplete", "response.failed", "error")


class Server:
    """Sends requests to one server."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._parts = _checked_url(url, self.url)
        self._key = api_key

    def json(self, method: str, path: str) -> dict[str, Any]:
        """The whole answer to a request."""
        connection, answer = self.send(method, path)
        with contextlib.closing(connection), self._reached():
            return _parsed(answer.read(_MAX_LINE))

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Sends a request, and waits for the beginning of the answer.

        Raises:
            InvalidRequest: the server refuses the request.
            GptOssError: it cannot be reached, or fails.
        """
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=_CONNECT_SECONDS)
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        with contextlib.ExitStack() as unused, self._reached():
            unused.callback(connection.close)
            connection.connect()
            connection.sock.settimeout(_SILENCE_SECONDS)
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, f"{self._parts.path}{path}", content, headers)
            answer = connection.getresponse()
            if answer.status == 200:
                unused.pop_all()
                return connection, answer
            reason = reason_of(_parsed(answer.read(_MAX_LINE)))
        if answer.status == 401:
            raise InvalidRequest(f"{self.url}: {reason}; GPTOSS_API_KEY holds the key")
        raise (InvalidRequest if answer.status < 429 else GptOssError)(f"{self.url}: {reason}")

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Says which server it is that cannot be reached, or breaks off."""
        try:
            yield
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise GptOssError(f"{self.url}: {reason}; does gptoss serve run there?") from None


def _checked_url(url: str, address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidRequest(f"url is {short_repr(url)}; one such as http://127.0.0.1:8080 is needed")
    return parts


def _parsed(data: bytes) -> dict[str, Any]:
    """JSON from a server; an object of an error where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"error": {"message": "it does not answer with JSON"}}
