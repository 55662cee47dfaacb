"""Runs the app on a socket with uvicorn, and ends it in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.applications import Starlette

from ..errors import InvalidRequest
from .service import Service

__all__ = ["listen", "run"]

_CONNECTIONS: Final = 256
_CLOSING_SECONDS: Final = 1


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
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="on",
        ws="none",
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
    )
    server = _Server(config, app.state.service, ready)
    server.run(sockets=[listener])
    return server.ended_by


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ended_by: int | None = None
        self._service = service
        self._ready = ready
        self._closing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
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
        self._closing = asyncio.ensure_future(self._service.close())
