"""Requests that no honest client sends: changed bodies, broken HTTP, and clients that go away."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from tests.server.apis import CHAT, MESSAGES, RESPONSES, WEATHER, Api

__all__ = [
    "RAW",
    "WAYS_TO_LEAVE",
    "Request",
    "changed_request",
    "connected",
    "http",
    "leave_early",
    "malformed_body",
]

_IMAGE: Final = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
_CITY: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def _requests() -> list[tuple[Api, dict[str, Any]]]:
    """Valid requests in which every field occurs that an API reads."""
    function = {"type": "function", "function": dict(WEATHER)}
    called = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    chat: dict[str, Any] = {
        "model": "gpt-oss",
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": [{"type": "text", "text": "How warm is it?"}]},
            {"role": "assistant", "content": None, "reasoning": "Look.", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "call_1", "content": "4 C"},
        ],
        "tools": [function],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "strict": True, "schema": _CITY},
        },
        "stop": ["END"],
        "seed": 1,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"1": -1},
        "max_completion_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 1,
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "ada",
        "metadata": {"a": "b"},
    }
    responses: dict[str, Any] = {
        "model": "gpt-oss",
        "instructions": "Be terse.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How warm is it?"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Look."}],
            },
            {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "4 C"},
        ],
        "tools": [
            {"type": "function", "strict": False, **WEATHER},
            {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", **WEATHER}]},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "parallel_tool_calls": True,
        "text": {"format": {"type": "json_schema", "name": "city", "strict": True, "schema": _CITY}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_logprobs": 2,
        "include": ["reasoning.encrypted_content"],
        "store": True,
        "previous_response_id": None,
        "background": False,
        "truncation": "disabled",
        "stream": True,
        "metadata": {"a": "b"},
    }
    messages: dict[str, Any] = {
        "model": "gpt-oss",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be terse.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "How warm is it?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Look.", "signature": ""},
                    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "4 C"}]},
        ],
        "tools": [{"name": "get_weather", "description": "d", "input_schema": _CITY}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stream": True,
        "metadata": {"user_id": "ada"},
    }
    return [(CHAT, chat), (RESPONSES, responses), (MESSAGES, messages)]


VALID: Final = _requests()


def _nested(depth: int) -> Any:
    value: Any = 1
    for n in range(depth):
        value = [value] if n % 2 else {"a": value}
    return value


VALUES: Final[Sequence[Any]] = (
    *(None, True, False, 0, -1, 1, 2, 10**6, 2**31, 2**63, 2**64, -(2**63), 0.5, 1e308, -1e308),
    *("", "auto", "none", "x" * 100_000, "<|end|>", "\0", "\u202e", "\ud800", "a.b", "functions.x", "json_schema"),
    *(
        [],
        {},
        [None],
        [[]],
        [{}],
        {"type": None},
        {"type": []},
        {"type": "x" * 1000},
        {"": ""},
        _nested(40),
        _nested(300),
    ),
    *([0] * 5000, [{"role": "user", "content": "x"}] * 2000, {str(n): n for n in range(3000)}),
    *(_IMAGE, [_IMAGE], {"type": "input_image", "image_url": "x"}, {"type": "image", "source": {}}),
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": "string", "pattern": "(a+)+$"},
    {"type": "array", "minItems": 10**9, "items": {}},
    {"$ref": "http://127.0.0.1:1/x"},
)
"""Put in the place of any value."""


class Request(NamedTuple):
    """A request with a changed body."""

    api: Api
    place: str
    """The key of the body under which it was changed."""
    body: bytes


def changed_request(rng: random.Random) -> Request:
    """A valid request in which one to three values were replaced, removed, doubled or added."""
    api, valid_body = rng.choice(VALID)
    body = copy.deepcopy(valid_body)
    if rng.random() < 0.5:
        body = {name: value for name, value in body.items() if rng.random() < 0.6 or name in ("messages", "input")}
    changed = ""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        changed = _change(rng, body)
    return Request(api, changed, json.dumps(body).encode("utf-8", "surrogatepass"))


def _change(rng: random.Random, body: dict[str, Any]) -> str:
    """Changes one value somewhere in a body; the key of the body under which it lies."""
    parent: Any = body
    top = key = rng.choice(list(body))
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.75:
        parent = parent[key]
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    kind = rng.random()
    value = json.loads(json.dumps(rng.choice(VALUES)))
    if kind < 0.7:
        parent[key] = value
    elif kind < 0.85:
        del parent[key]
    elif isinstance(parent, dict):
        parent[rng.choice(["type", "role", "content", "name", "unknown", "", "\0"])] = value
    else:
        parent += [parent[key], value]
    return top


def malformed_body(rng: random.Random) -> bytes:
    """A body that is no JSON object, or hardly."""
    text = json.dumps(rng.choice(VALID)[1]).encode()
    place = rng.randrange(len(text))
    return rng.choice(
        [
            b"",
            b"null",
            b"[]",
            b'"text"',
            b"1e999",
            b"{",
            b'{"messages": NaN}',
            b'{"model": "a", "model": "b"}',
            b"\xff\xfe\x00",
            b"\xef\xbb\xbf" + text,
            text[:place],
            text[:place] + b"\x00" + text[place:],
            text[:place] + b"\xff" + text[place + 1 :],
            text + text,
            b"[" * rng.choice([10, 1000, 100_000]),
            b'{"a":' * 50_000,
            b'{"messages": [' + b"[]," * 100_000 + b"[]]}",
            b'{"n": ' + b"9" * 10_000 + b"}",
            rng.randbytes(rng.choice([1, 100, 10_000])),
        ]
    )


def http(path: str, body: bytes = b"", *, method: str = "POST", host: str = "127.0.0.1", **headers: str) -> bytes:
    """A request as it goes over the wire.

    Args:
        path: of the URL.
        body: with its length as a header, unless ``headers`` has one.
        method: of HTTP.
        host: the Host header.
        headers: further ones; an underscore stands for a hyphen.
    """
    lines: dict[str, str] = {"host": host, "content-type": "application/json", "content-length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


_CHUNKED: Final = b"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
RAW: Final[Mapping[str, bytes]] = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00",
    "a line without end": b"GET /" + b"a" * 100_000,
    "an unknown method": b"BREW /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n",
    "a foreign host": http("/v1/models", method="GET", host="evil.example"),
    "a foreign origin": http("/v1/models", method="GET", origin="http://evil.example"),
    "a path out of the tree": http("/v1/../../etc/passwd", method="GET"),
    "a path that is no text": b"GET /v1/%ff%fe%00 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    "a long header": b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\na: " + b"b" * 500_000 + b"\r\n\r\n",
    "a line break in a header": b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\na: b\r\n c\r\n\x00\r\n\r\n",
    "a negative length": http("/v1/responses", b"{}", content_length="-1"),
    "a length that is no number": http("/v1/responses", b"{}", content_length="two"),
    "a huge length": http("/v1/responses", b"{}", content_length=str(10**15)),
    "a body longer than its length": http("/v1/responses", b"{}" * 100, content_length="2"),
    "both lengths": http("/v1/responses", b"0\r\n\r\n", content_length="5", transfer_encoding="chunked"),
    "a chunk of no size": _CHUNKED + b"zz\r\n",
    "a huge chunk": _CHUNKED + b"ffffffffffffffff\r\n{}",
    "an unknown encoding of the body": http("/v1/responses", b"\x1f\x8b\x08", content_encoding="gzip"),
    "another type of body": http("/v1/responses", b"a=b", content_type="application/x-www-form-urlencoded"),
    "an upgrade": http("/v1/responses", method="GET", upgrade="websocket", connection="Upgrade"),
    "two requests at once": http("/v1/responses", b"{") + http("/v1/models", method="GET"),
    "an expectation": http("/v1/responses", b"{}", expect="100-continue"),
    "a wrong key": http("/v1/responses", b"{}", authorization="Bearer \xff"),
}
"""What a socket sends, by what is wrong with it."""


@contextlib.contextmanager
def connected(url: str, seconds: float = 10.0) -> Iterator[socket.socket]:
    """A connection to a server on this machine."""
    parts = urlsplit(url)
    assert parts.hostname == "127.0.0.1", url
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as connection:
        yield connection


WAYS_TO_LEAVE: Final = (
    "before the request",
    "inside the request",
    "after the request",
    "after a while",
    "inside the answer",
    "half closed",
)


def leave_early(url: str, rng: random.Random, request: bytes) -> str:
    """Sends a request, or a part of it, and goes away at a random moment.

    Returns:
        One of :data:`WAYS_TO_LEAVE`.
    """
    way = rng.choice(WAYS_TO_LEAVE)
    with connected(url) as connection:
        if way == "inside the request":
            connection.sendall(request[: rng.randrange(len(request))])
        elif way != "before the request":
            connection.sendall(request)
        if way == "after a while":
            time.sleep(rng.random() / 50)
        elif way == "inside the answer":
            connection.settimeout(0.2)  # an answer that is not streamed comes at its end
            with contextlib.suppress(TimeoutError):
                connection.recv(rng.randrange(1, 3000))
        elif way == "half closed":
            connection.shutdown(socket.SHUT_WR)
        if rng.random() < 0.5:  # with a reset in place of an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return way
