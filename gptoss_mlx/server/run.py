"""Runs the app on a socket with uvicorn, and ends it in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import InvalidRequest
from .service import Service

__all__ = ["Server", "listen", "run"]

_CONNECTIONS: Final = 256
_CLOSING_SECONDS: Final = 1
_REQUEST_SECONDS: Final = 20.0  # for a request's line and headers


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: an address or a name of this machine.
        port: 0 takes a free one.

    Raises:
        InvalidRequest: the address is not this machine's, or the port is in use.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OverflowError:
        raise InvalidRequest(f"--port is {port}; 0 to 65535 is needed") from None
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()
        raise InvalidRequest(f"{host} port {port}: {reason}; choose others with --host and --port") from None


def run(app: Starlette, listener: socket.socket, ready: Callable[[], None]) -> int | None:
    """Serves until a signal comes; what runs then is cancelled and ends as its API ends an answer.

    Args:
        app: as :func:`create_app` returns it.
        listener: a socket that listens.
        ready: is called once requests are answered.

    Returns:
        The signal that ended it.
    """
    server = Server(app, ready)
    server.run(sockets=[listener])
    return server.ended_by


class Server(uvicorn.Server):
    """uvicorn with this server's limits. In another thread than the main one no signal ends it.

    Args:
        app: as :func:`create_app` returns it.
        ready: is called once requests are answered.
    """

    def __init__(self, app: Starlette, ready: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            lifespan="on",
            http=_Connection,
            ws="none",
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        super().__init__(config)
        self.ended_by: int | None = None
        self._service: Service = app.state.service
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._service.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _end(self, number: int) -> None:
        self.force_exit = self.should_exit  # the second signal does not wait for the answers' ends
        self.should_exit = True
        self.ended_by = number


class _Connection(H11Protocol):
    """Closes a connection on which no request is complete up to its body after some seconds, and one that is being
    closed when its client has read nothing for as long."""

    _timer: asyncio.TimerHandle
    _seen: object = None  # The last request when the timer was set.
    _unread = 0  # Bytes that the client had not read then.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _set_timer(self) -> None:
        self._timer = self.loop.call_later(_REQUEST_SECONDS, self._check)

    def _check(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if self.transport.is_closing() and unread >= self._unread > 0:
            self.transport.abort()
            return
        self._unread = unread
        if self.cycle is self._seen and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
            return
        self._seen = self.cycle
        self._set_timer()
