"""The messages of a server, over the pipes of its process or over HTTP, bounded in size.

The package's own pipes read a line without an end into memory, so these have their own; HTTP is the package's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import httpx2
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage, jsonrpc_message_adapter

from ...files.read import MAX_CONTAINERS
from .file import Entry

__all__ = ["MAX_MESSAGE", "Log", "Streams", "over_http", "over_pipes"]

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]
_WhenLost = Callable[[str], None]
MAX_MESSAGE: Final = 16 * 2**20
"""Bytes of one message of a server."""
_LOG_CHARACTERS: Final = 64 * 1024
_GRACE_SECONDS: Final = 2.0
"""For a server to end after its input is closed, after SIGTERM, and after SIGKILL."""
_LAST_WORDS_SECONDS: Final = 0.3
"""For what a server that has ended wrote to standard error."""
_CONNECT_SECONDS: Final = 30.0
_SILENCE_SECONDS: Final = 300.0


class Log:
    """The end of what a server wrote to standard error, and of what it wrote to standard output by mistake."""

    def __init__(self) -> None:
        self._parts: deque[str] = deque()
        self._length = 0

    def add(self, text: str) -> None:
        """Append text; the oldest is dropped."""
        self._parts.append(text[-_LOG_CHARACTERS:])
        self._length += len(self._parts[-1])
        while self._length > _LOG_CHARACTERS and len(self._parts) > 1:
            self._length -= len(self._parts.popleft())

    @property
    def text(self) -> str:
        """At most the last 64 K characters. From any thread."""
        return "".join(self._parts.copy())


@asynccontextmanager
async def over_pipes(entry: Entry, log: Log, when_lost: _WhenLost) -> AsyncGenerator[Streams]:
    """Runs a server's command. At the end the process and what it started have ended.

    Args:
        entry: with a command.
        log: takes standard error.
        when_lost: is called with the reason when no message can come any more.

    Raises:
        OSError: it cannot be run.
    """
    process = await asyncio.create_subprocess_exec(
        entry.command,
        *entry.args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=get_default_environment() | dict(entry.env),
        cwd=entry.cwd,
        start_new_session=True,
        limit=MAX_MESSAGE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    arrived, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    sent, leaving = anyio.create_memory_object_stream[SessionMessage](0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_receive, process.stdout, arrived, log, when_lost)
        tasks.start_soon(_send, process.stdin, leaving, when_lost)
        kept = anyio.Event()
        tasks.start_soon(_keep, process.stderr, log, kept)
        try:
            yield received, sent
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
                with anyio.move_on_after(_LAST_WORDS_SECONDS):
                    await kept.wait()
            # A process that left the group may hold a pipe open; nothing public closes our end.
            process._transport.close()  # type: ignore[attr-defined]
            for stream in (arrived, received, sent, leaving):
                stream.close()
            tasks.cancel_scope.cancel()


async def _receive(
    stdout: asyncio.StreamReader,
    arrived: MemoryObjectSendStream[SessionMessage | Exception],
    log: Log,
    when_lost: _WhenLost,
) -> None:
    with arrived, contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        try:
            while line := await stdout.readline():
                if line.lstrip()[:1] == b"{":
                    await arrived.send(SessionMessage(_parsed(line)))
                else:
                    log.add(line[:1000].decode(errors="replace"))
            cause = "it ended"
        except ValueError as error:  # of readline, or of parsing
            cause = (
                str(error) if isinstance(error, _Unreadable) else f"a message is longer than {MAX_MESSAGE:,} bytes"
            )
            log.add(f"{cause}\n")
        when_lost(cause)


class _Unreadable(ValueError):
    """A message cannot be read."""


def _parsed(line: bytes) -> JSONRPCMessage:
    """A line as a message.

    Raises:
        _Unreadable: it is not one, is nested too deeply, or has too many lists and objects.
    """
    if line.count(b"[") + line.count(b"{") > MAX_CONTAINERS:
        raise _Unreadable(f"a message has more than {MAX_CONTAINERS:,} lists and objects")
    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        raise _Unreadable("a message is not JSON-RPC, or nested too deeply") from None


async def _send(
    stdin: asyncio.StreamWriter,
    leaving: MemoryObjectReceiveStream[SessionMessage],
    when_lost: _WhenLost,
) -> None:
    try:
        async with leaving:
            async for item in leaving:
                stdin.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await stdin.drain()
    except (OSError, anyio.ClosedResourceError):
        when_lost("it ended")


async def _keep(stderr: asyncio.StreamReader, log: Log, kept: anyio.Event) -> None:
    while part := await stderr.read(4096):
        log.add(part.decode(errors="replace"))
    kept.set()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a server and its whole process group: asks by closing its input, then by signals."""
    assert process.stdin is not None
    process.stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            _signal(process.pid, number)
        if await _ended(process):
            break
    _signal(process.pid, signal.SIGKILL)  # what the server started and left


async def _ended(process: asyncio.subprocess.Process) -> bool:
    """Whether the process ends in time. ``process.wait()`` would also wait for whoever has its pipes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_SECONDS):
            while process.returncode is None:
                await asyncio.sleep(0.01)
    return process.returncode is not None


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


@asynccontextmanager
async def over_http(entry: Entry) -> AsyncGenerator[Streams]:
    """Connects to a server's address. Bodies and events that are too large end the request."""
    client = httpx2.AsyncClient(
        headers={**entry.headers, "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(_CONNECT_SECONDS, read=_SILENCE_SECONDS),
        event_hooks={"response": [_bound]},
    )
    async with (
        client,
        streamable_http_client(entry.url, http_client=client, max_sse_event_size=MAX_MESSAGE) as streams,
    ):
        yield streams  # type: ignore[misc]  # the package's own streams, with the same methods


async def _bound(response: httpx2.Response) -> None:
    """Bounds the body of a response; events are bounded one by one."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("the server compresses its answer unasked", request=response.request)
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, response.request)


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends in an error where it is too large."""

    def __init__(self, body: httpx2.AsyncByteStream, request: httpx2.Request) -> None:
        self._body, self._request = body, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for part in self._body:
            length += len(part)
            if length > MAX_MESSAGE:
                raise httpx2.ReadError(f"the answer is larger than {MAX_MESSAGE:,} bytes", request=self._request)
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()
