"""MCP servers side by side, and their tools as functions that a model may call."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ...errors import InvalidRequest, ToolError
from ..tool import Tool
from .file import Entry, read_entries, read_file

if TYPE_CHECKING:
    from .connection import Connection, State

__all__ = ["MCPServers", "Server"]

Result = TypeVar("Result")
_CALL_SECONDS: Final = 120.0
_CLOSE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server as it is now."""

    name: str
    state: State
    """``starting``, ``ready``, ``off`` or ``failed``."""
    reason: str = ""
    """Why it failed."""
    tools: tuple[Tool, ...] = ()
    """``declared_name`` is ``SERVER.TOOL``, ``recipient`` the name that the model calls."""
    read_only: frozenset[str] = frozenset()
    """The declared names of the tools that only read, as the server says. Nothing checks that."""


class MCPServers:
    """The servers of an ``mcpServers`` file. As a context manager, sync or async, it starts them together and ends
    them; a server that fails does not fail the others.

    Args:
        content: the file's content, ``{"mcpServers": {...}}``.
        call_seconds: the most time for a call.
        on_notice: is called with a line when a server fails, or ended and is started again. From another thread.
        on_progress: is called with the full name of a tool that runs, and its progress in a line. From another
            thread.

    Raises:
        InvalidRequest: the content is not such an object.
        ToolError: the package ``mcp`` is not installed.

    Example:
        >>> with MCPServers({"mcpServers": {"time": {"command": "no-such-server"}}}) as servers:
        ...     servers.tools, servers.servers[0].state, servers.servers[0].reason
        ((), 'failed', 'no-such-server: there is no such program or directory')
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        *,
        call_seconds: float = _CALL_SECONDS,
        on_notice: Callable[[str], None] = lambda line: None,
        on_progress: Callable[[str, str], None] = lambda tool, line: None,
    ) -> None:
        if importlib.util.find_spec("mcp") is None:
            raise ToolError("servers of MCP need the package mcp: pip install 'gptoss-mlx[mcp]'")
        self._read: Callable[[], tuple[Entry, ...]] = lambda: read_entries(content, "mcpServers")
        self._entries = self._read()
        self._options = (call_seconds, on_notice, on_progress)
        self._connections: dict[str, Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Self:
        """The servers of a file, as Claude Desktop, Cursor and LM Studio have it.

        Args:
            path: of the file.
            options: as of the class.

        Raises:
            InvalidRequest: the file cannot be read, or is not such a file.
            ToolError: the package ``mcp`` is not installed.
        """
        path = Path(path).expanduser()
        read_file(path)
        made = cls({"mcpServers": {}}, **options)
        made._read = lambda: read_file(path)
        made._entries = made._read()
        return made

    def start(self) -> None:
        """Begins to start the servers, and returns at once.

        Raises:
            InvalidRequest: they were started before.
        """
        if self._loop is not None:
            raise InvalidRequest("these servers were started already; make others with MCPServers(...)")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gptoss-mcp", daemon=True)
        self._thread.start()
        self._wait(self._start(self._entries))

    def close(self) -> None:
        """Ends every server; their processes have ended when it returns. May be called twice."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return
        try:
            self._wait(self._stop(self._connections), _CLOSE_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools of all servers that are ready, for ``model.chat(tools=...)``; waits for those that start."""
        self.wait()
        return tuple(tool for server in self.servers for tool in server.tools)

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers as they are now, in the file's order."""
        return tuple(
            Server(
                name=name,
                state=connection.state,
                reason=connection.reason,
                tools=connection.tools if connection.state == "ready" else (),
                read_only=connection.read_only,
            )
            for name, connection in self._connections.items()
        )

    def wait(self) -> None:
        """Waits until no server is starting."""
        self._wait(_all(connection.settled.wait() for connection in self._connections.values()))

    def turn_on(self, name: str) -> None:
        """Starts a server that is off or has failed.

        Raises:
            InvalidRequest: there is no such server.
        """
        self._wait(_now(self._connection(name).start))

    def turn_off(self, name: str) -> None:
        """Ends a server; its tools are gone.

        Raises:
            InvalidRequest: there is no such server.
        """
        self._wait(self._connection(name).stop())

    def reload(self) -> None:
        """Ends all servers, reads the file again, and starts its servers.

        Raises:
            InvalidRequest: the file cannot be read any more; the servers go on.
        """
        entries = self._read()
        self._wait(self._stop(self._connections))
        self._wait(self._start(entries))

    def log(self, name: str) -> str:
        """The end of what a server wrote to standard error.

        Raises:
            InvalidRequest: there is no such server.
        """
        return self._connection(name).log.text

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        await asyncio.to_thread(self.wait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _connection(self, name: str) -> Connection:
        if name not in self._connections:
            raise InvalidRequest(
                f"there is no server {name!r}; there are {', '.join(self._connections) or 'none'}"
            )
        return self._connections[name]

    def _wait(self, work: Coroutine[Any, Any, Result], seconds: float | None = None) -> Result:
        """The result of work in the loop.

        Raises:
            InvalidRequest: the servers do not run.
        """
        if self._loop is None or self._loop.is_closed():
            work.close()
            raise InvalidRequest("these servers do not run; use them inside `with MCPServers(...)`")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    async def _start(self, entries: Iterable[Entry]) -> None:
        from .connection import Connection, Listener

        seconds, notice, progress = self._options
        listener = Listener(notice, progress)
        self._connections = {entry.name: Connection(entry, seconds, listener) for entry in entries}
        for connection in self._connections.values():
            if connection.entry.disabled:
                connection.settled.set()
            else:
                connection.start()

    async def _stop(self, connections: Mapping[str, Connection]) -> None:
        await _all(connection.stop() for connection in connections.values())


async def _all(work: Iterable[Awaitable[Any]]) -> None:
    await asyncio.gather(*work)


async def _now(function: Callable[[], None]) -> None:
    function()
