"""The same verbs for asyncio: every wait is someone else's thread, and cancelling a task stops the decoding.

    async with await gptoss.load_async("demo") as model:
        reply = await model.ask("What is 12+30?")
        async with model.stream("Why?") as events:
            async for event in events: ...

Knows no more of models than their synchronous form does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

from .chat.chat import Chat
from .chat.options import AnswerOptions, RequestOptions
from .chat.stream import Stream
from .engine.engine import MAX_STEPS, GptOss, load
from .errors import GptOssError, InvalidRequest
from .events import Event, Reply, Text
from .sampling import Effort, SamplingParams
from .tools.toolbox import AfterCall, BeforeCall

__all__ = ["AsyncChat", "AsyncGptOss", "AsyncStream", "load_async"]

Result = TypeVar("Result")
_CLOSING_SECONDS = 0.15  # seconds that closing waits for what runs


async def load_async(
    reference: str | Path = "demo",
    *,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    download: bool = False,
    kv_bits: int | None = None,
    context: int | None = None,
    max_cache_bytes: int | None = None,
) -> AsyncGptOss:
    """:func:`load` for asyncio; the arguments and the errors are the same.

    Example:
        >>> import asyncio
        >>> async def main() -> str:
        ...     async with await load_async("demo") as model:
        ...         reply = await model.ask("Hello", choices=["hi"], max_thinking_tokens=0)
        ...     return reply.parsed
        >>> asyncio.run(main())
        'hi'
    """
    model = await asyncio.to_thread(
        load,
        reference,
        dtype=dtype,
        download=download,
        kv_bits=kv_bits,
        context=context,
        max_cache_bytes=max_cache_bytes,
    )
    return AsyncGptOss(model)


class AsyncGptOss:
    """A loaded model, for asyncio. Any number of tasks may use it: each request runs to its end before the next
    starts, in the order they came.

    Args:
        model: as :func:`load` gives it; it may go on being used from threads.

    Example:
        >>> async def main() -> tuple[str, str, int]:
        ...     shared = AsyncGptOss(model)
        ...     async with shared.stream("Yes or no?", choices=["yes"], max_thinking_tokens=0) as stream:
        ...         said = "".join([delta async for delta in stream.text])
        ...     reply = await shared.chat().send("Yes or no?", choices=["no"], max_thinking_tokens=0)
        ...     prompt = model.tokenizer.encode("Once upon a time")
        ...     tokens = [token async for token in shared.generate(prompt, SamplingParams(max_tokens=1))]
        ...     return said, reply.text, len(tokens)
        >>> asyncio.run(main())
        ('yes', 'no', 1)
    """

    def __init__(self, model: GptOss) -> None:
        self.model = model

    async def ask(self, prompt: str, **options: Unpack[RequestOptions]) -> Reply:
        """Answers one question; the options are those of ``GptOss.ask``.

        Example:
            >>> shared = AsyncGptOss(model)
            >>> asyncio.run(shared.ask("Yes or no?", choices=["yes"], max_thinking_tokens=0)).text
            'yes'
        """
        async with self.stream(prompt, **options) as events:
            return await events.finish()

    def stream(self, prompt: str, **options: Unpack[RequestOptions]) -> AsyncStream:
        """Answers one question, event by event."""
        return AsyncStream(lambda loop: self._stream(prompt, loop, **options))

    def chat(
        self,
        *,
        instructions: str | None = None,
        effort: Effort = "medium",
        tools: Sequence[Any] = (),
        sampling: SamplingParams | None = None,
        date: str | None = None,
        before_call: BeforeCall | None = None,
        after_call: AfterCall | None = None,
        max_steps: int = MAX_STEPS,
    ) -> AsyncChat:
        """Starts a conversation; the arguments are those of ``GptOss.chat``."""
        chat = self.model.chat(
            instructions=instructions,
            effort=effort,
            tools=tools,
            sampling=sampling,
            date=date,
            before_call=before_call,
            after_call=after_call,
            max_steps=max_steps,
        )
        return AsyncChat(chat)

    async def load_chat(
        self, path: str | Path, *, tools: Sequence[Any] = (), keep_readable: bool = False
    ) -> AsyncChat:
        """Goes on with a chat that was saved; the arguments are those of ``GptOss.load_chat``.

        Example:
            >>> model.chat(instructions="Be terse.").save(directory / "chat.json")
            >>> asyncio.run(AsyncGptOss(model).load_chat(directory / "chat.json")).chat.instructions
            'Be terse.'
        """
        load_chat = self.model.load_chat
        return AsyncChat(await asyncio.to_thread(load_chat, path, tools=tools, keep_readable=keep_readable))

    def generate(self, tokens: Sequence[int], sampling: SamplingParams | None = None) -> AsyncIterator[int]:
        """Generates tokens after a prompt, as ``GptOss.generate`` does; leaving the loop stops it."""
        return _tokens(self.model, tokens, sampling)

    async def close(self) -> None:
        """Stops what runs and frees the memory.

        Example:
            >>> asyncio.run(AsyncGptOss(load("demo")).close())
        """
        await asyncio.to_thread(self.model.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _stream(self, prompt: str, loop: asyncio.AbstractEventLoop, **options: Any) -> Stream:
        own = {name: options.pop(name) for name in tuple(options) if name in AnswerOptions.__annotations__}
        chat = self.model.chat(**options)
        chat.loop = loop
        return chat.stream(prompt, **own)


class AsyncChat:
    """A conversation, for asyncio. One task at a time may use it.

    ``chat`` is the same conversation in its synchronous form: messages, undo, save and what else does not wait.

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

    Calls that are the caller's, and the other verbs as events:
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

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    async def send(self, text: str, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Reply:
        """Says something and waits for the answer."""
        async with self.stream(text, effort=effort, **options) as events:
            return await events.finish()

    def stream(self, text: str, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> AsyncStream:
        """Says something; the answer comes as events."""
        return self._started(lambda: self.chat.stream(text, effort=effort, **options))

    async def send_results(self, *results: Any, **options: Unpack[AnswerOptions]) -> Reply:
        """Answers the calls that the last turn left to the caller (``chat.pending_calls``)."""
        async with self.stream_results(*results, **options) as events:
            return await events.finish()

    def stream_results(self, *results: Any, **options: Unpack[AnswerOptions]) -> AsyncStream:
        """:meth:`send_results`, as events."""
        return self._started(lambda: self.chat.stream_results(*results, **options))

    async def retry(self, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Reply:
        """Throws the last answer away and asks again."""
        async with self.stream_retry(effort=effort, **options) as events:
            return await events.finish()

    def stream_retry(self, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> AsyncStream:
        """:meth:`retry`, as events."""
        return self._started(lambda: self.chat.stream_retry(effort=effort, **options))

    async def edit(self, index: int, text: str, **options: Unpack[AnswerOptions]) -> Reply:
        """Changes what the user said and asks again."""
        async with self.stream_edit(index, text, **options) as events:
            return await events.finish()

    def stream_edit(self, index: int, text: str, **options: Unpack[AnswerOptions]) -> AsyncStream:
        """:meth:`edit`, as events."""
        return self._started(lambda: self.chat.stream_edit(index, text, **options))

    def continue_stream(self) -> AsyncStream:
        """Goes on with an answer that was cut short.

        Example:
            >>> async def main() -> int:
            ...     chat = AsyncGptOss(model).chat(sampling=SamplingParams(temperature=0, max_tokens=5))
            ...     await chat.send("Who are you?", max_thinking_tokens=0)
            ...     return (await chat.continue_stream().finish()).usage.completion_tokens
            >>> asyncio.run(main()) <= 5
            True
        """
        return self._started(self.chat.continue_stream)

    async def fork(self) -> AsyncChat:
        """An independent chat that begins with the same messages."""
        return AsyncChat(await asyncio.to_thread(self.chat.fork))

    async def save(self, path: str | Path) -> None:
        """Writes the chat to a file."""
        await asyncio.to_thread(self.chat.save, path)

    def _started(self, start: Callable[[], Stream]) -> AsyncStream:
        def begin(loop: asyncio.AbstractEventLoop) -> Stream:
            # For this turn alone: the chat may outlive the loop.
            before, self.chat.loop = self.chat.loop, loop
            try:
                return start()
            finally:
                self.chat.loop = before

        return AsyncStream(begin)


class AsyncStream(AsyncIterator[Event]):
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

    def __init__(self, start: Callable[[asyncio.AbstractEventLoop], Stream]) -> None:
        self._start = start
        self._stream: Stream | None = None
        self._closed = False
        self._drained: Future[None] | None = None
        # A thread of its own: a request that waits for another must not keep others from being waited for.
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
        """The pieces of the final answer alone."""
        return (event.delta async for event in self if isinstance(event, Text))

    @property
    def reply(self) -> Reply:
        """The whole answer.

        Raises:
            InvalidRequest: the stream has not ended, or was closed before it began.
        """
        if self._stream is None and self._closed:
            raise InvalidRequest("the stream was closed before it began; ask again")
        if self._stream is None:
            raise InvalidRequest("the stream has not begun; iterate it to its end first, or await finish()")
        return self._stream.reply

    async def finish(self) -> Reply:
        """Waits for the end; of a stream that was closed, until what still runs is over.

        Example:
            >>> asyncio.run(AsyncGptOss(model).stream("Yes?", choices=["yes"]).finish()).text
            'yes'
        """
        async for _ in self:
            pass
        return self.reply

    async def aclose(self) -> None:
        """Stops the decoding, if it still runs. What came until then stays in the chat."""
        if self._closed:
            return
        self._closed = True
        stream = self._stream
        if stream is not None:
            stream.cancel()
            self._drained = self._thread.submit(_drain, stream)
            # A tool may hold the thread for longer; nobody is to wait for that.
            await asyncio.wait({asyncio.wrap_future(self._drained)}, timeout=_CLOSING_SECONDS)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begun(self) -> Stream:
        if self._stream is None:
            self._stream = self._start(self._loop)
            if self._closed:
                self._stream.cancel()
        return self._stream

    async def _run(self, step: Callable[[], Result]) -> Result:
        self._loop = asyncio.get_running_loop()
        try:
            return await self._loop.run_in_executor(self._thread, step)
        except BaseException:
            # Cancelled, most of all: the thread wakes at once and finds its stream at an end.
            await self.aclose()
            raise


def _drain(stream: Stream) -> None:
    with contextlib.suppress(GptOssError):
        for _ in stream:
            pass


async def _tokens(model: GptOss, tokens: Sequence[int], sampling: SamplingParams | None) -> AsyncIterator[int]:
    generation = model.generate(tokens, sampling)
    thread = ThreadPoolExecutor(1, thread_name_prefix="gptoss-stream")
    loop = asyncio.get_running_loop()
    try:
        while (token := await loop.run_in_executor(thread, lambda: next(generation, None))) is not None:
            yield token
    finally:
        generation.cancel()
        thread.shutdown(wait=False)
