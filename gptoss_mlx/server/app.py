"""The ASGI app: routes, and what happens around every request.

Each endpoint reads a body, makes a question of it, and answers it with one of the writers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..arguments import Effort, checked_effort
from ..chat.prompt import Prompt
from ..errors import GptOssError
from ..tools.toolbox import AfterCall, BeforeCall, ToolBox
from .about import model_entry, model_list, model_names, ollama_tags, welcome
from .anthropic_messages import MessagesWriter
from .anthropic_messages import read as read_messages
from .errors import Refused
from .fields import Fields, parse
from .guard import Guard
from .openai_chat import ChatWriter
from .openai_chat import read as read_chat
from .openai_responses import ResponsesWriter, Stored
from .openai_responses import read as read_responses
from .question import Question
from .replies import EventStream, refusal, while_connected
from .service import Answer, Service
from .writer import Writer

if TYPE_CHECKING:
    from ..api import GptOss

__all__ = ["create_app"]

_LOGGER: Final = logging.getLogger(__name__)


def create_app(
    model: GptOss,
    *,
    effort: Effort = "medium",
    hide_thinking: bool = False,
    api_key: str | None = None,
    hosts: Collection[str] | None = (),
    origins: Collection[str] = (),
    max_waiting: int = 64,
    tools: Sequence[Any] = (),
    before_call: BeforeCall | None = None,
    after_call: AfterCall | None = None,
) -> Starlette:
    """The endpoints of OpenAI and Anthropic over a loaded model, as an ASGI app.

    Args:
        model: as ``gptoss.load`` returns it; the caller closes it. Threads may use it at the same time.
        effort: how long the model thinks where a request does not say: ``low``, ``medium`` or ``high``.
        hide_thinking: whether no answer shows the analysis.
        api_key: that every request must have; None asks for none.
        hosts: names in the Host header that are this server's, beside localhost and the loopback addresses. None
            allows all, which is for servers that have a key.
        origins: of web pages that may ask, such as ``http://localhost:3000``.
        max_waiting: the most requests that run or wait at a time; the next is answered with 429.
        tools: functions that run here, as ``model.chat`` takes them. Every request may call them, beside its own
            tools; clients see neither the calls nor their results.
        before_call: is called with every call of these before it runs and may change or veto it.
        after_call: is called with every result of these and may change it.

    Raises:
        InvalidRequest: an unknown effort. ToolError: a tool that cannot be declared.

    Example:
        >>> from starlette.testclient import TestClient
        >>> client = TestClient(create_app(model), base_url="http://localhost")
        >>> asked = {"model": "demo", "messages": [{"role": "user", "content": "Who are you?"}]}
        >>> client.post("/v1/chat/completions", json=asked).json()["object"]
        'chat.completion'
    """
    service = Service(
        model,
        effort=checked_effort(effort),
        hide_thinking=hide_thinking,
        max_waiting=max_waiting,
        tools=tools if isinstance(tools, ToolBox) else ToolBox(tools),
        hooks={"before_call": before_call, "after_call": after_call},
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.close()

    app = Starlette(
        routes=_routes(),
        middleware=[
            Middleware(_Observed, service=service),
            Middleware(Guard, api_key=api_key, hosts=hosts, origins=origins),
            Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]),
        ],
        exception_handlers={
            GptOssError: _refused,
            HTTPException: _not_routed,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.with_key = api_key is not None
    return app


def _routes() -> list[Route]:
    post, get = ["POST"], ["GET"]
    return [
        Route("/", _welcome, methods=["GET", "HEAD"]),
        Route("/health", _health, methods=get),
        Route("/metrics", _metrics, methods=get),
        Route("/v1/models", _models, methods=get),
        Route("/v1/models/{name:path}", _model, methods=get),
        Route("/v1/chat/completions", _chat, methods=post),
        Route("/v1/completions", _completions, methods=post),
        Route("/v1/responses", _responses, methods=post),
        Route("/v1/responses/{identity}", _stored_response, methods=["GET", "DELETE"]),
        Route("/v1/messages", _messages, methods=post),
        Route("/v1/messages/count_tokens", _count_tokens, methods=post),
        Route("/api/version", _ollama_version, methods=get),
        Route("/api/tags", _ollama_tags, methods=get),
    ]


async def _body(request: Request) -> Fields:
    """The JSON object of a request."""
    async with _service(request).reading():
        body = await request.body()
    return await asyncio.to_thread(parse, body)


async def _answer(
    request: Request,
    question: Question,
    writer: Writer,
    *,
    streamed: bool,
    then: Callable[[Answer], None] = lambda answer: None,
) -> Response:
    """The response to a question: a stream, or the whole object.

    Args:
        request: that is answered.
        question: of the request.
        writer: of the API that was asked.
        streamed: whether the client wants events.
        then: is called when the answer is complete.
    """
    receive = request.receive
    answer = await while_connected(receive, _service(request).answer(question, writer, then))
    request.state.answer = answer
    if streamed:
        return EventStream(answer)
    try:
        return JSONResponse(await while_connected(receive, answer.result()))
    finally:
        await answer.close()


async def _chat(request: Request) -> Response:
    service, body = _service(request), await _body(request)
    question = await asyncio.to_thread(read_chat, body, service.recall, service.effort)
    options = body.fields("stream_options")
    writer = ChatWriter(
        model=_name(service),
        tokenizer=service.model.tokenizer,
        with_usage=options is not None and options.flag("include_usage"),
    )
    return await _answer(request, question, writer, streamed=body.flag("stream"))


async def _responses(request: Request) -> Response:
    service, body = _service(request), await _body(request)
    identity = body.text("previous_response_id")
    previous = None if identity is None else _kept(service, identity)
    question, history = await asyncio.to_thread(read_responses, body, service.recall, service.effort, previous)
    writer = ResponsesWriter(
        model=_name(service), body=body, effort=question.settings.effort, tokenizer=service.model.tokenizer
    )

    def keep(answer: Answer) -> None:
        if body.values.get("store") is False or answer.reply is None:
            return
        messages = (*question.messages, *answer.reply.messages)
        names = {**history.names, **answer.calls}
        # The response repeats what the request says of tools, instructions and more.
        size = sum(len(message.text) for message in messages) + len(json.dumps(writer.result))
        service.responses.put(
            writer.identity, Stored(response=writer.result, messages=messages, names=names), size
        )

    return await _answer(request, question, writer, streamed=body.flag("stream"), then=keep)


def _kept(service: Service, identity: str) -> Stored:
    stored = service.responses.get(identity)
    if stored is None:
        raise Refused(404, f"there is no response {identity[:80]!r}: it was not stored, or is no longer kept")
    return stored


async def _stored_response(request: Request) -> Response:
    service, identity = _service(request), request.path_params["identity"]
    stored = _kept(service, identity)
    if request.method == "GET":
        return JSONResponse(stored.response)
    service.responses.remove(identity)
    return JSONResponse({"id": identity, "object": "response", "deleted": True})


async def _messages(request: Request) -> Response:
    service, body = _service(request), await _body(request)
    question = await asyncio.to_thread(read_messages, body, service.recall, service.effort)
    writer = MessagesWriter(model=_name(service))
    return await _answer(request, question, writer, streamed=body.flag("stream"))


async def _count_tokens(request: Request) -> Response:
    service, body = _service(request), await _body(request)

    def count() -> int:
        question = read_messages(body, service.recall, service.effort)
        prompt = Prompt.of(question.settings, question.messages)
        return len(prompt.rendered(service.model.tokenizer, "assistant").tokens)

    return JSONResponse({"input_tokens": await asyncio.to_thread(count)})


async def _completions(request: Request) -> Response:
    raise Refused(400, "gpt-oss is a chat model: use /v1/chat/completions or /v1/responses")


async def _models(request: Request) -> Response:
    return JSONResponse(model_list(_service(request).model))


async def _model(request: Request) -> Response:
    model, name = _service(request).model, request.path_params["name"]
    if name not in model_names(model):
        raise Refused(404, f"there is no model {name[:80]!r} here, only {model_names(model)[0]}")
    return JSONResponse(model_entry(name, model))


async def _welcome(request: Request) -> Response:
    url = str(request.base_url).rstrip("/")
    return PlainTextResponse(welcome(url, _service(request).model, with_key=request.app.state.with_key))


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _metrics(request: Request) -> Response:
    service = _service(request)
    running, waiting = service.counts
    text = service.metrics.text(running=running, waiting=waiting)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _ollama_version(request: Request) -> Response:
    # The first one that has the Responses API, which Codex asks for.
    return JSONResponse({"version": "0.13.4"})


async def _ollama_tags(request: Request) -> Response:
    return JSONResponse(ollama_tags(_service(request).model))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _name(service: Service) -> str:
    return model_names(service.model)[0]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, GptOssError)
    return refusal(error, request.url.path)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return refusal(Refused(error.status_code, reason), request.url.path)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; it is for the log


async def _broken(request: Request, error: Exception) -> Response:
    return refusal(GptOssError("the server has a bug; its log shows where"), request.url.path)


class _Observed:
    """ASGI middleware that counts requests and writes one line of the log for each, without any text of it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            route = scope["path"] if scope["path"] in _ROUTES else "other"
            self._service.metrics.requests[route, status] += 1
            answer: Answer | None = scope.get("state", {}).get("answer")
            fields = {"status": status, "seconds": f"{time.perf_counter() - started:.3f}"}
            if answer is not None:
                fields |= answer.figures
            described = " ".join(f"{name}={value}" for name, value in fields.items())
            _LOGGER.info("%s %s %s", scope["method"], route, described)


_ROUTES: Final = frozenset(route.path for route in _routes())
