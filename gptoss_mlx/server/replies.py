"""HTTP responses: errors as the API that was asked writes them, and streams that end when their client leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..errors import GptOssError
from .errors import anthropic_error, openai_error, status_of
from .service import Answer
from .writer import Frame

__all__ = ["EventStream", "refusal", "while_connected"]

Result = TypeVar("Result")
_KEEP_ALIVE_SECONDS: Final = 10.0
_STALLED_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = "5"


def refusal(error: GptOssError, path: str) -> Response:
    """An error as a response.

    Args:
        error: whatever went wrong.
        path: that was asked for; Anthropic's have errors of another form.
    """
    status = status_of(error)
    headers = {"Retry-After": _RETRY_SECONDS} if status in (429, 503) else None
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    made = anthropic_error(error) if path.startswith("/v1/messages") else openai_error(error)
    return JSONResponse(made, status_code=status, headers=headers)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of some work, which is cancelled as soon as the client goes away.

    Raises:
        ClientDisconnect: the client went away.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events; comments keep the connection open while there are none.

    Args:
        answer: whose events they are. It is closed at the end, or when the client goes away.
    """

    media_type = "text/event-stream"

    def __init__(self, answer: Answer) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # A client that reads nothing any more must not keep its place.
            with contextlib.suppress(ClientDisconnect, TimeoutError):
                await while_connected(receive, self._sent(send))
        finally:
            await self._answer.close()

    async def _sent(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        frames = self._answer.frames()
        following: asyncio.Future[Frame | None] | None = None
        try:
            while True:
                following = following or asyncio.ensure_future(anext(frames, None))
                done, _ = await asyncio.wait({following}, timeout=_KEEP_ALIVE_SECONDS)
                frame = following.result() if done else None
                if done and frame is None:
                    break
                if done:
                    following = None
                text = self._answer.writer.keep_alive if frame is None else frame.encoded()
                async with asyncio.timeout(_STALLED_SECONDS):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            await frames.aclose()
