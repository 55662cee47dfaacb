"""A model that ``gptoss serve`` serves on this machine or another: the same chats, without MLX in this process.

    with connect("http://mac-studio.local:8080", api_key="…") as model:
        model.chat(effort="low").send("Why is the sky blue?").text

The conversation stays here, and every request sends all of it; the server's prompt caches make that cheap. Speaks
OpenAI's Responses API, so other servers of gpt-oss may work too.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, Unpack
from urllib.parse import SplitResult, urlsplit

from .arguments import Effort
from .chat.chat import Chat
from .chat.options import ChatOptions, ChatSettings, lists_options
from .chat.prompt import TraceEntry
from .chat.turn import Step
from .errors import GptOssError, InvalidRequest
from .events import Done, Event, FinishReason, Preamble, Reply, Text, Thinking, Timings, Usage
from .files.read import short_repr
from .harmony import Channel, Message, Role

__all__ = ["RemoteChat", "RemoteModel", "connect"]

_CONNECT_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 120.0
"""Without even a comment, after which the server counts as lost; ``gptoss serve`` sends one every ten seconds."""
_MAX_LINE: Final = 16 * 2**20
_HERE: Final = "needs a model that is loaded on this machine; this one is on a server"


def connect(url: str, *, api_key: str | None = None) -> RemoteModel:
    """Connects to a server.

    Args:
        url: of the server, such as ``http://127.0.0.1:8080``.
        api_key: that it asks for.

    Raises:
        InvalidRequest: the URL is not one.
        GptOssError: the server cannot be reached, or refuses.
    """
    return RemoteModel(url, api_key)


class RemoteModel:
    """A model on a server. Make one with :func:`connect`.

    Example:
        >>> connect("mac-studio")
        Traceback (most recent call last):
        gptoss_mlx.errors.InvalidRequest: url is 'mac-studio'; one such as http://127.0.0.1:8080 is needed
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self._server = _Server(url, api_key)
        listed = self._server.json("GET", "/v1/models").get("data")
        first = listed[0] if isinstance(listed, list) and listed else None
        if not isinstance(first, Mapping) or not isinstance(first.get("id"), str):
            raise GptOssError(f"{url}: it lists no model; is that gptoss serve?")
        self.name: str = first["id"]
        limit = first.get("context_length")
        self.context_limit = limit if type(limit) is int else 131_072
        """Tokens that a conversation may take up, its next answer included."""

    @lists_options(ChatOptions)
    def chat(
        self, *, messages: Sequence[Message | Mapping[str, Any]] = (), **options: Unpack[ChatOptions]
    ) -> Chat:
        """Starts a conversation; the arguments are those of ``GptOss.chat``. Tools cannot be given."""
        return RemoteChat(self, messages=messages, **options)

    def respond(self, request: Mapping[str, Any]) -> Responding:
        """The events of ``/v1/responses``."""
        return Responding(self._server, {"model": self.name, **request})

    def close(self) -> None:
        """Nothing stays open between requests."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteChat(Chat):
    """A chat with a model on a server. What needs the model's tokens here raises InvalidRequest."""

    __slots__ = ("used",)

    def __init__(self, model: RemoteModel, **options: Any) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        self.used = 0

    @property
    def context_used(self) -> int:
        """Tokens that the conversation took up at the last answer; 0 before it."""
        return self.used

    def tokens_to_prefill(self, effort: Effort | None = None) -> int:
        """0: only the server knows."""
        return 0

    def trace(self) -> list[TraceEntry]:
        raise InvalidRequest(f"the trace {_HERE}")

    def prefill(self) -> int:
        raise InvalidRequest(f"prefill {_HERE}")

    def _begin(
        self, settings: ChatSettings, messages: Sequence[Message], step: Step, unfinished: Message | None
    ) -> RemoteTurn:
        if unfinished is not None:
            raise InvalidRequest(f"to continue an answer {_HERE}; /retry asks again")
        if len(settings.toolbox):
            raise InvalidRequest(f"a tool {_HERE}")
        return RemoteTurn(self, settings, messages, step)


class RemoteTurn:
    """One turn of a remote chat, running; as :class:`~gptoss_mlx.chat.turn.Turn`."""

    def __init__(self, chat: RemoteChat, settings: ChatSettings, messages: Sequence[Message], step: Step) -> None:
        self.messages = list(messages)
        self._chat = chat
        self._step = step
        model: Any = chat.model
        self._responding: Responding = model.respond(_request(settings, messages, step))
        self._parts: list[tuple[Channel, list[str]]] = []
        self._started = time.perf_counter()
        self._first: float | None = None

    def cancel(self) -> None:
        """Makes :meth:`events` end at once with what there is."""
        self._responding.cancel()

    def events(self) -> Iterator[Event]:
        """Everything that happens, then Done."""
        reason: FinishReason = "cancelled"
        usage: Mapping[str, Any] = {}
        try:
            for event in self._responding:
                kind = event.get("type")
                if kind in ("response.completed", "response.incomplete"):
                    reason = "stop" if kind == "response.completed" else "length"
                    usage = _object(_object(event.get("response")).get("usage"))
                elif kind in ("response.failed", "error"):
                    raise GptOssError(_reason(event.get("response", event)))
                else:
                    yield from self._delta(kind, event)
        finally:
            self._responding.close()
            made = [Message.assistant("".join(texts), channel=channel) for channel, texts in self._parts]
            self.messages += made
        reply = self._reply(made, reason, _usage(usage))
        self._chat.used = reply.usage.prompt_tokens + reply.usage.completion_tokens
        yield Done(reply=reply)

    def _delta(self, kind: Any, event: Mapping[str, Any]) -> Iterator[Event]:
        if kind == "response.output_item.added":
            item = _object(event.get("item"))
            channel = Channel.COMMENTARY if item.get("phase") == "commentary" else Channel.FINAL
            self._parts.append((Channel.ANALYSIS if item.get("type") == "reasoning" else channel, []))
        elif kind in ("response.reasoning_text.delta", "response.output_text.delta") and self._parts:
            self._first = self._first or time.perf_counter()
            channel, texts = self._parts[-1]
            delta = str(event.get("delta", ""))
            texts.append(delta)
            made = {Channel.ANALYSIS: Thinking, Channel.COMMENTARY: Preamble, Channel.FINAL: Text}[channel]
            yield made(delta=delta)

    def _reply(self, messages: Sequence[Message], reason: FinishReason, usage: Usage) -> Reply:
        def texts(channel: Channel) -> list[str]:
            return [message.text for message in messages if message.channel is channel]

        text = "\n\n".join(texts(Channel.FINAL)) or "".join(texts(Channel.COMMENTARY)[-1:])
        now = time.perf_counter()
        first = (self._first or now) - self._started
        constraint = self._step.plan.constraint
        return Reply(
            text=text,
            thinking="\n\n".join(texts(Channel.ANALYSIS)),
            parsed=constraint.parse(text) if constraint is not None and reason == "stop" else None,
            messages=tuple(messages),
            finish_reason=reason,
            usage=usage,
            timings=Timings(first_token=first, prefill=first, decode=now - self._started - first),
        )


def _request(settings: ChatSettings, messages: Sequence[Message], step: Step) -> dict[str, Any]:
    """The body of a request. ``date`` and ``stop_loops`` are known to ``gptoss serve`` alone."""
    sampling, form = step.sampling, step.plan.constraint
    format_ = None if form is None else form.response_format
    optional = {
        "instructions": settings.instructions,
        "date": settings.date,
        "max_output_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "text": None if format_ is None else {"format": _format(format_.name, format_.schema)},
    }
    return {
        "stream": True,
        "store": False,
        "input": list(map(_item, messages)),
        "reasoning": {"effort": settings.effort},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "stop_loops": sampling.stop_loops,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "name": name, "schema": dict(schema)}


def _item(message: Message) -> dict[str, Any]:
    """A message as an item of the Responses API."""
    if message.role is Role.USER:
        return {"type": "message", "role": "user", "content": message.text}
    if message.channel is Channel.ANALYSIS:
        content = [{"type": "reasoning_text", "text": message.text}]
        return {"type": "reasoning", "summary": [], "content": content}
    if message.role is Role.TOOL or message.callee is not None:
        raise InvalidRequest(f"a conversation with calls of tools {_HERE}")
    phase = "commentary" if message.channel is Channel.COMMENTARY else "final_answer"
    return {"type": "message", "role": "assistant", "content": message.text, "phase": phase}


def _usage(usage: Mapping[str, Any]) -> Usage:
    def number(value: object) -> int:
        return value if type(value) is int and value >= 0 else 0

    return Usage(
        prompt_tokens=number(usage.get("input_tokens")),
        cached_tokens=number(_object(usage.get("input_tokens_details")).get("cached_tokens")),
        completion_tokens=number(usage.get("output_tokens")),
        reasoning_tokens=number(_object(usage.get("output_tokens_details")).get("reasoning_tokens")),
    )


def _object(value: object) -> Mapping[str, Any]:
    """A value of a server's JSON that should be an object."""
    return value if isinstance(value, Mapping) else {}


def _reason(body: object) -> str:
    """The reason in an error of OpenAI's form."""
    message = _object(_object(body).get("error")).get("message")
    return message[:500] if isinstance(message, str) else "it gave no reason"


class Responding(Iterator[dict[str, Any]]):
    """The events of one response, as they come."""

    def __init__(self, server: _Server, request: Mapping[str, Any]) -> None:
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


class _Server:
    """Sends requests to one server."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._parts = _checked_url(url, self.url)
        self._key = api_key

    def json(self, method: str, path: str) -> dict[str, Any]:
        """The whole answer to a request."""
        connection, answer = self.send(method, path)
        with contextlib.closing(connection):
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
        try:
            connection.connect()
            connection.sock.settimeout(_SILENCE_SECONDS)
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, f"{self._parts.path}{path}", content, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise GptOssError(f"{self.url}: {reason}; does gptoss serve run there?") from None
        if answer.status == 200:
            return connection, answer
        with contextlib.closing(connection):
            reason = _reason(_parsed(answer.read(_MAX_LINE)))
        if answer.status == 401:
            raise InvalidRequest(f"{self.url}: {reason}; GPTOSS_API_KEY holds the key")
        raise (InvalidRequest if answer.status < 429 else GptOssError)(f"{self.url}: {reason}")


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
