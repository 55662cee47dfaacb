"""One server: started, asked, restarted once when it dies, and ended. Runs in the event loop of ``MCPServers``."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from mcp import Client, MCPError
from mcp import types as protocol

from ...errors import ToolError
from ..tool import Tool, as_tool
from .file import Entry
from .results import result_text
from .transport import Log, Streams, over_http, over_pipes

__all__ = ["Connection", "State"]

State = Literal["starting", "ready", "off", "failed"]

_ANSWER_SECONDS: Final = 60.0
"""For a server to answer while it starts; ``npx`` and ``uvx`` may have to download it first."""
_STOP_SECONDS: Final = 8.0
_MAX_PAGES: Final = 100
_MAX_TOOLS: Final = 256
_MAX_DECLARATION: Final = 32 * 1024
"""Characters of a tool's schema; a longer one is declared as any object."""
_MAX_DESCRIPTION: Final = 4096

# The package logs what goes wrong on a connection; a program without handlers would print that.
for _name in ("mcp", "client"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Listener:
    """Functions that are told what happens, in the thread of the loop."""

    notice: Callable[[str], None]
    """Takes a line about a server that ended or failed."""
    progress: Callable[[str, str], None]
    """Takes the full name of a tool that runs, and its progress in a line."""


class Connection:
    """One server of a file.

    Args:
        entry: of the file.
        seconds: the most time for a call.
        listener: is told what happens.
    """

    def __init__(self, entry: Entry, seconds: float, listener: Listener) -> None:
        self.entry = entry
        self.log = Log()
        self.state: State = "off" if entry.disabled else "starting"
        self.reason = ""
        """Why the server failed."""
        self.tools: tuple[Tool, ...] = ()
        self.read_only: frozenset[str] = frozenset()
        """The tools that only read, as the server says."""
        self.settled = asyncio.Event()
        """Set while the server is not starting."""
        self._seconds = seconds
        self._listener = listener
        self._client: Client | None = None
        self._lost = asyncio.Event()
        self._cause = ""
        self._stopping = False
        self._may_restart = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to start the server, unless it runs."""
        if self._task is None or self._task.done():
            self._set("starting")
            self._stopping, self._may_restart = False, True
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the server; what it was asked ends in errors."""
        self._stopping = True
        self._lost.set()
        self._client = None
        if self._task is not None:
            if self.state == "starting":
                self._task.cancel()
            _, late = await asyncio.wait([self._task], timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)
        self._set("off")

    async def call(self, tool: str, name: str, arguments: Mapping[str, Any]) -> str:
        """Calls a tool; cancelling it tells the server.

        Args:
            tool: as the server names it.
            name: as the model does.
            arguments: checked.

        Raises:
            ToolError: the tool failed, or the server died or did not answer in time.
        """
        await self.settled.wait()
        client = self._client
        if client is None:
            state = "is off" if self.state == "off" else f"failed: {self.reason}"
            raise ToolError(f"the server {self.entry.name} {state}")
        try:
            result = await client.call_tool(
                tool, dict(arguments), self._seconds, functools.partial(self._progress, name)
            )
        except MCPError as error:
            raise ToolError(self._failure(error)) from None
        except Exception as error:  # a result that is not one
            raise ToolError(_reason(error)) from None
        self._may_restart = True
        text = result_text(result)
        if result.is_error:
            raise ToolError(text or "the tool failed and gave no reason")
        return text

    def _failure(self, error: MCPError) -> str:
        if error.code == protocol.CONNECTION_CLOSED:
            self._lose("it ended")
            return f"the server {self.entry.name} ended during the call; it may have done a part of it"
        if error.code == protocol.REQUEST_TIMEOUT:
            return f"no result in {self._seconds:g} s; the server was told to stop"
        return _reason(error)

    async def _progress(self, name: str, progress: float, total: float | None, message: str | None) -> None:
        done = f"{progress:g}" if total is None else f"{progress:g} of {total:g}"
        self._listener.progress(name, " ".join(filter(None, (done, (message or "")[:200]))))

    async def _run(self) -> None:
        """Serve until the server is stopped, has failed, or died a second time without an answer between."""
        while True:
            self._lost.clear()
            self._cause = ""
            try:
                await self._serve()
                self.reason = self._cause
            except asyncio.CancelledError:
                return
            except Exception as error:
                self.reason, self._may_restart = _reason(error, self._cause), False
            if self._stopping:
                return
            if not self._may_restart:
                break
            self._may_restart = False
            self._listener.notice(f"{self.entry.name}: the server ended; it is started again")
        self._set("failed")
        self._listener.notice(f"{self.entry.name}: the server failed: {self.reason}")

    async def _serve(self) -> None:
        """Start the server and have it ready until it is lost or stopped."""
        if self.entry.mistake:
            raise ToolError(self.entry.mistake)
        client = Client(self._transport(), read_timeout_seconds=_ANSWER_SECONDS, cache=None)
        async with client:
            # It would check results by the server's own schema, whose patterns may take for ever.
            client.session.validate_tool_result = _unchecked  # type: ignore[method-assign]
            listed = await _listed(client)
            self.tools = tuple(self._declared(listed))
            self._client, self.reason = client, ""
            self._set("ready")
            await self._lost.wait()

    def _transport(self) -> AbstractAsyncContextManager[Streams]:
        if self.entry.url:
            return over_http(self.entry)
        return over_pipes(self.entry, self.log, self._lose)

    def _lose(self, cause: str) -> None:
        """The connection is of no use any more: later calls wait for the next one."""
        self._cause = self._cause or cause
        self._client = None
        if self.state == "ready" and not self._stopping:
            self._set("starting")
        self._lost.set()

    def _set(self, state: State) -> None:
        self.state = state
        if state == "starting":
            self.settled.clear()
        else:
            self.settled.set()

    def _declared(self, listed: Mapping[str, protocol.Tool]) -> list[Tool]:
        """The tools as the model calls them: ``functions.SERVER_TOOL``, known to people as ``SERVER.TOOL``."""
        server, made, read_only = self.entry.name, [], set()
        for own, tool in listed.items():
            schema = tool.input_schema
            if len(json.dumps(schema)) > _MAX_DECLARATION:
                self.log.add(f"{own}: its schema is too long; it takes any object\n")
                schema = {"type": "object", "additionalProperties": True}
            described = tool.description or tool.title or ""
            if len(described) > _MAX_DESCRIPTION:
                described = described[:_MAX_DESCRIPTION] + "…"
            name = own.replace(".", "_")
            name = name if name.startswith(f"{server}_") else f"{server}_{name}"
            source = {"name": name, "inputSchema": schema, "description": described}
            try:
                declared = as_tool(source)
            except ToolError as error:
                self.log.add(f"{error}\n")
                continue
            function = self._function(own, declared.recipient)
            made.append(replace(declared, function=function, declared_name=f"{server}.{own}"))
            if tool.annotations is not None and tool.annotations.read_only_hint:
                read_only.add(f"{server}.{own}")
        self.read_only = frozenset(read_only)
        return made

    def _function(self, tool: str, name: str) -> Callable[..., Any]:
        """The function of a tool, for any thread and any event loop; cancelling it cancels the call."""
        loop = asyncio.get_running_loop()

        async def call(**arguments: Any) -> str:
            running = asyncio.run_coroutine_threadsafe(self.call(tool, name, arguments), loop)
            return await asyncio.wrap_future(running)

        return call


async def _unchecked(name: str, result: protocol.CallToolResult) -> None:
    """Accept the result."""


async def _listed(client: Client) -> dict[str, protocol.Tool]:
    """The tools of a server by their names: the first of each name, and not more than are allowed."""
    tools: dict[str, protocol.Tool] = {}
    cursor = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if len(tools) < _MAX_TOOLS and tool.name:
                tools.setdefault(tool.name[:200], tool)
        cursor = page.next_cursor
        if cursor is None or len(tools) >= _MAX_TOOLS:
            break
    return tools


def _reason(error: BaseException, cause: str = "") -> str:
    """The first reason in an error, in a line of bounded length.

    Args:
        error: of a server or of the package.
        cause: why the connection was closed, which takes the place of an error that says only that it was.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: there is no such program or directory"
    if isinstance(error, MCPError):
        closed = error.error.code == protocol.CONNECTION_CLOSED
        return cause if closed and cause else error.error.message[:2000]
    return " ".join(str(error).split())[:500] or type(error).__name__
