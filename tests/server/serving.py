"""The server in this process, and on a port of the loopback interface."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.testclient import TestClient

from gptoss_mlx.api import GptOss
from gptoss_mlx.server import create_app
from gptoss_mlx.server.run import Server, listen

__all__ = ["Event", "events_of", "in_process", "listening"]


class Event(NamedTuple):
    """One event of a stream."""

    name: str | None
    """That of its ``event:`` line."""
    data: Any
    """JSON, or the text ``[DONE]``."""


@contextlib.contextmanager
def in_process(model: GptOss, **options: Any) -> Iterator[TestClient]:
    """A client of the server, without a socket. It shows a stream when that has ended, and raises what the
    server raises.

    Args:
        model: to serve.
        options: of ``create_app``.
    """
    with TestClient(create_app(model, **options), base_url="http://127.0.0.1:8080") as client:
        yield client


@contextlib.contextmanager
def listening(model: GptOss, **options: Any) -> Iterator[str]:
    """The base URL of the server, on a free port of 127.0.0.1.

    Args:
        model: to serve.
        options: of ``create_app``.
    """
    listener, ready = listen("127.0.0.1", 0), threading.Event()
    server = Server(create_app(model, **options), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(20), "the server did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


def events_of(text: str) -> list[Event]:
    """The events of a stream. Comments are left out.

    Raises:
        AssertionError: a line is none of an event stream's.
    """
    assert text.endswith("\n\n"), f"the stream is cut off: {text[-80:]!r}"
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = dict[str, str]()
        for line in block.split("\n"):
            name, colon, value = line.partition(":")
            assert (name, colon) in (("", ":"), ("event", ":"), ("data", ":")), f"{line!r} is no line of a stream"
            assert name not in fields, f"{line!r} is the second of its kind"
            if name:
                fields[name] = value.removeprefix(" ")
        if fields:
            data = fields["data"]
            events.append(Event(fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return events
