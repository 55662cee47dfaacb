"""OpenAI's batch form: each line of a file is a request, answered as the endpoint that it names would answer it.

Knows the app and the form of the lines; knows nothing of the terminal.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.types import Message, Scope

from ..errors import InvalidRequest
from ..files.read import open_regular, parse_json, read_regular, short_repr
from .fields import Fields
from .writer import new_id

__all__ = ["BatchRequest", "answered_ids", "answers", "read_requests"]

_LOGGER: Final = logging.getLogger(__name__)
_MAX_BYTES: Final = 200 * 2**20
_MAX_REQUESTS: Final = 50_000
"""Both are OpenAI's limits."""
_MAX_LINE: Final = 64 * 2**20
"""Bytes of one answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One line of a file."""

    custom_id: str
    url: str
    body: dict[str, Any]


def read_requests(path: Path) -> list[BatchRequest]:
    """The requests of a file, in their order.

    Raises:
        InvalidRequest: it cannot be read, or a line is not a request; names the line.
    """
    requests: dict[str, BatchRequest] = {}
    for number, line in _lines(path):
        place = f"{path}: line {number}"
        if len(requests) == _MAX_REQUESTS:
            raise InvalidRequest(f"{place}: at most {_MAX_REQUESTS:,} requests are allowed; divide the file")
        try:
            fields = Fields(parse_json(line), "")
            request = BatchRequest(
                custom_id=fields.required_text("custom_id"),
                url=fields.required_text("url"),
                body=dict(fields.required_fields("body").values),
            )
            if (fields.text("method") or "POST") != "POST":
                raise fields.refused("method", "POST is needed")
            request.custom_id.encode()  # without half a surrogate pair, so that it can be written again
        except (ValueError, RecursionError, InvalidRequest) as error:
            raise InvalidRequest(f"{place}: {error}") from error
        if request.custom_id in requests:
            raise InvalidRequest(f"{place}: custom_id is {short_repr(request.custom_id)}, as of a line before it")
        requests[request.custom_id] = request
    if not requests:
        raise InvalidRequest(f"{path}: has no requests; a JSON object in each line is needed")
    return list(requests.values())


def answered_ids(path: Path) -> set[str]:
    """The ids of the requests whose answers are in a file; a line that is not complete is not one.

    Raises:
        InvalidRequest: it cannot be read, or holds something else.
    """
    found = set()
    for number, line in _answer_lines(path) if path.exists() else ():
        if not line.endswith(b"\n"):
            break
        try:
            fields = Fields(parse_json(line), "")
            fields.required_fields("response")
            found.add(fields.required_text("custom_id"))
        except (ValueError, RecursionError, InvalidRequest) as error:
            raise InvalidRequest(
                f"{path}: line {number} is not an answer of a batch ({error}); name another file with --output"
            ) from error
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    try:
        content = read_regular(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"{path}: {reason.lower()}") from error
    return ((n, line) for n, line in enumerate(content.splitlines(keepends=True), 1) if line.strip())


def _answer_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The same of a file of answers, which may be of any length."""
    try:
        file, _ = open_regular(path)
        with file:
            for number in itertools.count(1):
                line = file.readline(_MAX_LINE)
                if not line:
                    return
                if line.strip():
                    yield number, line
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"{path}: {reason.lower()}") from error


async def answers(app: Starlette, requests: Sequence[BatchRequest], most: int) -> AsyncGenerator[dict[str, Any]]:
    """The lines of the answers, in the order in which they are complete. Ending the iteration stops what runs.

    Args:
        app: from :func:`create_app`.
        requests: from :func:`read_requests`.
        most: how many of them run together.
    """
    waiting = iter(requests)
    # One more than run together, so that the next one is queued when an answer ends.
    running = {asyncio.ensure_future(_answer(app, request)) for _, request in zip(range(most + 1), waiting)}  # noqa: B905
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running |= {
                asyncio.ensure_future(_answer(app, request))
                for _, request in zip(done, waiting)  # noqa: B905
            }
            for answer in done:
                yield answer.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await app.state.service.close()


async def _answer(app: Starlette, request: BatchRequest) -> dict[str, Any]:
    status, body = await _post(app, request.url, json.dumps({**request.body, "stream": False}).encode())
    identity = new_id("batch_req")
    try:
        found = json.loads(body)
    except ValueError:
        found = body.decode(errors="replace")
    return {
        "id": identity,
        "custom_id": request.custom_id,
        "response": {"status_code": status, "request_id": identity, "body": found},
        "error": None,
    }


async def _post(app: Starlette, path: str, body: bytes) -> tuple[int, bytes]:
    """The status and the body of a response to a POST request in this process."""
    sent = [{"type": "http.request", "body": body, "more_body": False}]
    status, received = 500, b""

    async def receive() -> Message:
        if not sent:
            await asyncio.Event().wait()  # the client stays
        return sent.pop()

    async def send(message: Message) -> None:
        nonlocal status, received
        status = message.get("status", status)
        received += message.get("body", b"")

    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
        "state": {},
    }
    try:
        await app(scope, receive, send)
    except Exception:  # which comes after the answer that says so
        _LOGGER.exception("a bug ended a request")
    return status, received
