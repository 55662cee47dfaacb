"""The same verbs for asyncio: a thread waits for each stream, and cancelling a task stops the decoding.

    async with await gptoss.load_async("demo") as model:
        reply = await model.ask("What is 12+30?")
        async with model.stream("Why?") as events:
            async for event in events: ...

The async verbs are derived from the synchronous ones, with the same arguments and errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack

from .api import GptOss, load
from .chat.batch import BatchReply
from .chat.chat import Chat
from .chat.options import ChatOptions, RequestOptions, lists_options
from .chat.stream import Stream
from .chat.turn import TOOL_LOOP
from .engine.generation import Generation
from .errors import GptOssError, InvalidRequest
from .events import Event, Parsed, Reply, Text
from .harmony import Message

__all__ = ["AsyncChat", "AsyncGptOss", "AsyncStream", "load_async"]

Result = TypeVar("Result")
Options = ParamSpec("Options")
Subject = TypeVar("Subject")
Subject_co = TypeVar("Subject_co", covariant=True)
_CLOSING_SECONDS: Final = 0.15  # that closing waits for what runs


class Face(Protocol[Subject_co]):
    """An async face of a model or a chat."""

    @property
    def subject(self) -> Subject_co:
        """The synchronous form."""
        ...


def _derived(verb: Callable[..., Any], made: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
    """``made`` with the name, the documentation and the arguments of a synchronous verb."""
    made = functools.wraps(verb, assigned=("__module__", "__doc__"), updated=())(made)
    made.__name__ = made.__qualname__ = name or verb.__name__
    made.__signature__ = inspect.signature(verb)  # type: ignore[attr-defined]
    return made


def _streamed(
    verb: Callable[Concatenate[Subject, Options], Stream[Parsed]],
) -> Callable[Concatenate[Face[Subject], Options], AsyncStream[Parsed]]:
    """The async form of a verb that streams."""

    def stream(self: Face[Subject], *args: Options.args, **kwargs: Options.kwargs) -> AsyncStream[Parsed]:
        return AsyncStream(lambda: verb(self.subject, *args, **kwargs))

    return _derived(verb, stream)


def _finished(
    verb: Callable[Concatenate[Subject, Options], Stream[Parsed]], waiting: Callable[..., Reply[Any]]
) -> Callable[Concatenate[Face[Subject], Options], Awaitable[Reply[Parsed]]]:
    """The async form of a verb that waits for the reply.

    Args:
        verb: streams it.
        waiting: the synchronous form.
    """

    async def finish(self: Face[Subject], *args: Options.args, **kwargs: Options.kwargs) -> Reply[Parsed]:
        async with _streamed(verb)(self, *args, **kwargs) as events:
            return await events.finish()

    return _derived(waiting, finish)


def _in_thread(
    verb: Callable[Concatenate[Subject, Options], Result],
) -> Callable[Concatenate[Face[Subject], Options], Awaitable[Result]]:
    """The async form of any other verb that waits."""

    async def call(self: Face[Subject], *args: Options.args, **kwargs: Options.kwargs) -> Result:
        return await asyncio.to_thread(verb, self.subject, *args, **kwargs)

    return _derived(verb, call)


def _computed(
    begin: Callable[Concatenate[Subject, Options], Generation], waiting: Callable[..., int]
) -> Callable[Concatenate[Face[Subject], Options], Awaitable[int]]:
    """The async form of a prefill; cancelling the task stops it.

    Args:
        begin: queues it.
        waiting: the synchronous form.
    """

    async def compute(self: Face[Subject], *args: Options.args, **kwargs: Options.kwargs) -> int:
        reading = await asyncio.to_thread(begin, self.subject, *args, **kwargs)
        try:
            return await asyncio.to_thread(reading._computed)
        finally:
            reading.cancel()

    return _derived(waiting, compute)


def _generated(
    verb: Callable[Concatenate[Subject, Options], Generation],
) -> Callable[Concatenate[Face[Subject], Options], AsyncIterator[int]]:
    """The async form of a verb that generates tokens; leaving the loop stops it."""

    def generate(self: Face[Subject], *args: Options.args, **kwargs: Options.kwargs) -> AsyncIterator[int]:
        return _tokens(lambda: verb(self.subject, *args, **kwargs))

    return _derived(verb, generate)


@functools.wraps(load, assigned=("__module__",), updated=())
async def load_async(reference: str | Path = "demo", **options: Any) -> AsyncGptOss:
    """:func:`load` for asyncio, with the same arguments and errors.

    Example:
        >>> import asyncio
        >>> async def main() -> str:
        ...     async with await load_async("demo") as model:
        ...         reply = await model.ask("Hello", choices=["hi"], max_thinking_tokens=0)
        ...     return reply.parsed
        >>> asyncio.run(main())
        'hi'
    """
    return AsyncGptOss(await asyncio.to_thread(load, reference, **options))


class AsyncGptOss:
    """A loaded model, for asyncio. Any number of tasks may use it: their requests begin in the order they came,
    and up to ``parallel`` of them run together.

    Args:
        model: as :func:`load` returns it; threads may use it too.

    Example:
        >>> async def main() -> tuple[str, str, int]:
        ...     shared = AsyncGptOss(model)
        ...     async with shared.stream("Yes or no?", choices=["yes"], max_thinking_tokens=0) as stream:
        ...         said = "".join([delta async for delta in stream.text])
        ...     reply = await shared.chat().send("Yes or no?", choices=["no"], max_thinking_tokens=0)
        ...     prompt = model.tokenizer.encode("Once upon a time")
        ...     tokens = [token async for token in shared.generate(prompt, gptoss.SamplingParams(max_tokens=1))]
        ...     return said, reply.text, len(tokens)
        >>> asyncio.run(main())
        ('yes', 'no', 1)
    """

    def __init__(self, model: GptOss) -> None:
        self.model = model

    @property
    def subject(self) -> GptOss:
        """The synchronous form: ``model``.

        Example:
            >>> AsyncGptOss(model).subject is model
            True
        """
        return self.model

    ask = _finished(GptOss.stream, GptOss.ask)
    generate = _generated(GptOss.generate)
    stream = _streamed(GptOss.stream)
    prefill = _computed(GptOss._begin_prefill, GptOss.prefill)
    clear_caches = _in_thread(GptOss.clear_caches)
    save_cache = _in_thread(GptOss.save_cache)
    load_cache = _in_thread(GptOss.load_cache)
    close = _in_thread(GptOss.close)

    @lists_options(ChatOptions)
    def chat(
        self, *, messages: Sequence[Message | Mapping[str, Any]] = (), **options: Unpack[ChatOptions]
    ) -> AsyncChat:
        """Starts a conversation; the arguments are those of ``GptOss.chat``."""
        return AsyncChat(self.model.chat(messages=messages, **options))

    @lists_options(RequestOptions)
    async def batch(
        self,
        questions: Iterable[str | Sequence[Message | Mapping[str, Any]]],
        **options: Unpack[RequestOptions],
    ) -> AsyncIterator[BatchReply]:
        """Answers many questions; arguments and answers are those of ``GptOss.batch``. Closing it stops what
        runs; ``contextlib.aclosing`` does so when a loop is left.

        Example:
            >>> async def main() -> list[int]:
            ...     found = AsyncGptOss(model).batch(["2+3?", "4+5?"], choices=["5", "9"], max_thinking_tokens=0)
            ...     return [answer.done async for answer in found]
            >>> asyncio.run(main())
            [1, 2]
        """
        asked = list(questions)
        # One more than run together, so that the next one is queued when an answer ends.
        places = asyncio.Semaphore(self.model.parallel + 1)

        async def answer(index: int) -> tuple[int, Reply[Any] | None, GptOssError | None]:
            question = asked[index]
            async with places:
                try:
                    if isinstance(question, str):
                        return index, await self.ask(question, **options), None
                    return index, await self.ask(messages=question, **options), None
                except GptOssError as error:
                    return index, None, error

        tasks = [asyncio.create_task(answer(index)) for index in range(len(asked))]
        try:
            for done, task in enumerate(asyncio.as_completed(tasks), start=1):
                index, reply, error = await task
                yield BatchReply(index=index, reply=reply, error=error, done=done, total=len(asked))
        finally:
            for running in tasks:
                running.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @lists_options(ChatOptions)
    async def load_chat(
        self, path: str | Path, *, keep_readable: bool = False, **options: Unpack[ChatOptions]
    ) -> AsyncChat:
        """Continues a chat that was saved; the arguments are those of ``GptOss.load_chat``.

        Example:
            >>> model.chat(instructions="Be terse.").save(directory / "chat.json")
            >>> asyncio.run(AsyncGptOss(model).load_chat(directory / "chat.json")).chat.instructions
            'Be terse.'
        """
        load_chat = self.model.load_chat
        return AsyncChat(await asyncio.to_thread(load_chat, path, keep_readable=keep_readable, **options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncChat:
    """A conversation, for asyncio. One task at a time may use it.

    ``chat`` is the same conversation in its synchronous form: messages, settings, undo and whatever else does not
    wait.

    Example:
        >>> async def main() -> list[str]:
        ...     chat = AsyncGptOss(model).chat(effort="low")
        ...     first = await chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
        ...     other = await chat.retry(choices=["no"], max_thinking_tokens=0)
        ...     twin = await chat.fork()
        ...     edited = await twin.edit(0, "Left or right?", choices=["left"], max_thinking_tokens=0)
        ...     await twin.save(directory / "twin.json")
        ...     async with chat.stream("Sure?", choices=["sure"], max_thinking_tokens=0) as stream:
        ...         sure = await stream.finish()
        ...     return [reply.text for reply in (first, other, edited, sure)]
        >>> asyncio.run(main())
        ['yes', 'no', 'left', 'sure']

    Calls that the caller answers, and the other verbs as events:
        >>> async def main() -> list[str]:
        ...     chat = AsyncGptOss(model).chat(tools=[{"name": "lamp", "parameters": {"type": "object"}}])
        ...     called = await chat.send("Is it on?", tool_choice="lamp", max_thinking_tokens=0)
        ...     at_once = {"tool_choice": "none", "max_thinking_tokens": 0}
        ...     told = await chat.send_results("on", choices=["yes"], **at_once)
        ...     again = await chat.retry(tool_choice="lamp", max_thinking_tokens=0)
        ...     results = await chat.stream_results("off", choices=["no"], **at_once).finish()
        ...     retried = await chat.stream_retry(choices=["so"], **at_once).finish()
        ...     edited = await chat.stream_edit(0, "Left?", choices=["left"], **at_once).finish()
        ...     return [reply.text for reply in (told, results, retried, edited)]
        >>> asyncio.run(main())
        ['yes', 'no', 'so', 'left']
    """

    __slots__ = ("chat",)

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    @property
    def subject(self) -> Chat:
        """The synchronous form: ``chat``.

        Example:
            >>> chat = AsyncGptOss(model).chat()
            >>> chat.subject is chat.chat
            True
        """
        return self.chat

    send = _finished(Chat.stream, Chat.send)
    stream = _streamed(Chat.stream)
    send_results = _finished(Chat.stream_results, Chat.send_results)
    stream_results = _streamed(Chat.stream_results)
    retry = _finished(Chat.stream_retry, Chat.retry)
    stream_retry = _streamed(Chat.stream_retry)
    edit = _finished(Chat.stream_edit, Chat.edit)
    stream_edit = _streamed(Chat.stream_edit)
    continue_stream = _streamed(Chat.continue_stream)
    prefill = _computed(Chat._begin_prefill, Chat.prefill)
    save = _in_thread(Chat.save)
    save_cache = _in_thread(Chat.save_cache)
    load_cache = _in_thread(Chat.load_cache)

    @lists_options(ChatOptions)
    async def fork(self, **options: Unpack[ChatOptions]) -> AsyncChat:
        """An independent chat with the same messages; options change its settings."""
        return AsyncChat(self.chat.fork(**options))


class AsyncStream(AsyncIterator[Event], Generic[Parsed]):
    """The events of one request; the last one is ``Done``. Cancelling the task that waits, or leaving the block,
    stops the decoding.

    Async tools run in the loop of the task that iterates.

    Example:
        >>> async def main() -> tuple[str, str]:
        ...     stream = AsyncGptOss(model).stream("Yes or no?", choices=["yes"], max_thinking_tokens=0)
        ...     said = "".join([delta async for delta in stream.text])
        ...     other = AsyncGptOss(model).stream("Tell me everything.")
        ...     first = await anext(other)
        ...     await other.aclose()
        ...     return said, stream.reply.finish_reason
        >>> asyncio.run(main())
        ('yes', 'stop')
    """

    def __init__(self, start: Callable[[], Stream[Parsed]]) -> None:
        self._start = start
        self._stream: Stream[Parsed] | None = None
        self._closed = False
        self._drained: Future[None] | None = None
        # Its own thread, because a request that waits for another must not occupy a shared one.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gptoss-stream")

    async def __anext__(self) -> Event:
        if self._closed:
            if self._drained is not None:
                await asyncio.shield(asyncio.wrap_future(self._drained))
            raise StopAsyncIteration
        event = await self._run(lambda: next(self._begun(), None))
        if event is None:
            await self.aclose()
            raise StopAsyncIteration
        return event

    @property
    def text(self) -> AsyncIterator[str]:
        """The pieces of the final answer only."""
        return (event.delta async for event in self if isinstance(event, Text))

    @property
    def reply(self) -> Reply[Parsed]:
        """The whole answer.

        Raises:
            InvalidRequest: the stream has not ended, or was closed before it began.
        """
        if self._stream is None and self._closed:
            raise InvalidRequest("the stream was closed before it began; ask again")
        if self._stream is None:
            raise InvalidRequest("the stream has not begun; iterate it to its end first, or await finish()")
        return self._stream.reply

    async def begin(self) -> None:
        """Queues the request, so that a refusal is known before the first event is waited for.

        Example:
            >>> async def main() -> str:
            ...     stream = AsyncGptOss(model).stream("Yes?", choices=["yes"])
            ...     await stream.begin()
            ...     return (await stream.finish()).text
            >>> asyncio.run(main())
            'yes'
        """
        await self._run(self._begun)

    async def finish(self) -> Reply[Parsed]:
        """Waits for the end; of a closed stream, until nothing of it runs any more.

        Example:
            >>> asyncio.run(AsyncGptOss(model).stream("Yes?", choices=["yes"]).finish()).text
            'yes'
        """
        async for _ in self:
            pass
        return self.reply

    async def aclose(self) -> None:
        """Stops the decoding, if it still runs. The answer stays in the chat as far as it came."""
        if self._closed:
            return
        self._closed = True
        stream = self._stream
        if stream is not None:
            stream.cancel()
            self._drained = self._thread.submit(_drain, stream)
            # A tool may occupy the thread for longer; closing does not wait for it.
            await asyncio.wait({asyncio.wrap_future(self._drained)}, timeout=_CLOSING_SECONDS)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begun(self) -> Stream[Parsed]:
        if self._stream is None:
            self._stream = self._start()
            if self._closed:
                self._stream.cancel()
        return self._stream

    async def _run(self, step: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(TOOL_LOOP.set, loop)
        try:
            return await loop.run_in_executor(self._thread, context.run, step)
        except BaseException:
            # Mostly a cancellation: the thread wakes at once and finds its stream at its end.
            await self.aclose()
            raise


def _drain(stream: Stream[Any]) -> None:
    with contextlib.suppress(GptOssError):
        for _ in stream:
            pass


async def _tokens(start: Callable[[], Generation]) -> AsyncIterator[int]:
    generation = start()
    thread = ThreadPoolExecutor(1, thread_name_prefix="gptoss-stream")
    loop = asyncio.get_running_loop()
    try:
        while (token := await loop.run_in_executor(thread, lambda: next(generation, None))) is not None:
            yield token
    finally:
        generation.cancel()
        thread.shutdown(wait=False)
