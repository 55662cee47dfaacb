"""A conversation with a model: its messages and settings, and the turns that add to it.

The prompt of every turn is rendered from the messages, and the engine's store of prompt caches finds how much of
it is computed already. So a chat holds nothing computed: retry, undo, edit and fork only change the messages.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..arguments import (
    Effort,
    checked_effort,
    checked_path,
    checked_question,
)
from ..errors import GptOssError, InvalidRequest
from ..events import Parsed, Reply
from ..harmony import Message, Role
from ..tools import calls
from . import file as chatfile
from .options import (
    ChatOptions,
    ChatSettings,
    TurnOptions,
    lists_options,
)
from .prompt import TraceEntry, trace
from .stream import Stream
from .transcript import Transcript
from .turn import RunningTurn, Step, Turn

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.generation import Generation

__all__ = ["Chat"]


class Chat(Transcript):
    """A conversation. Start one with ``model.chat()``, or continue a saved one: ``model.load_chat(path)``.

    One thread at a time may use it, and one answer is read to its end, or cancelled, before the next begins;
    anything else raises InvalidRequest. Several chats may share a model.

    Args:
        model: a loaded model.
        messages: of the conversation so far: ``Message``, without system and developer messages, or OpenAI's dicts
            (``role``, ``content``, ``tool_calls``, ``tool_call_id``, ``reasoning``), of which the first may give
            the instructions.
        title: for lists of chats.
        options: the settings, see ``ChatOptions``; each is an attribute too, and may be changed between turns.

    Raises:
        InvalidRequest: an argument out of its range.
        ToolError: a tool that cannot be declared.

    Example:
        >>> chat = model.chat(instructions="Be terse.", effort="low")
        >>> chat.send("Is water wet?", choices=["yes"], max_thinking_tokens=0).text
        'yes'
        >>> [message.text for message in chat.messages]
        ['Is water wet?', 'yes']
        >>> [str(message.role) for message in chat.conversation.messages]
        ['system', 'developer', 'user', 'assistant']
        >>> chat.effort, chat.pending_calls, chat.context_used < chat.context_limit
        ('low', (), True)
        >>> len(chat.prompt.messages)
        2
    """

    __slots__ = ("__weakref__", "_growing", "_lock", "_stream", "model")

    @lists_options(ChatOptions)
    def __init__(
        self,
        model: Engine,
        *,
        messages: Sequence[Message | Mapping[str, Any]] = (),
        title: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> None:
        super().__init__(ChatSettings.of(options), messages, title)
        self.model = model
        self._lock = threading.Lock()
        self._stream: Callable[[], Stream[Any] | None] = lambda: None  # A weak reference to the last one.
        self._growing = self._messages  # The list that it adds to; undo() detaches it.

    @property
    def context_used(self) -> int:
        """Tokens that the conversation takes up now, without dropped analysis."""
        return len(self.prompt.rendered(self.model.tokenizer).tokens)

    @property
    def context_limit(self) -> int:
        """Tokens that a conversation may take up, its next answer included."""
        return self.model.context_limit

    @lists_options(TurnOptions)
    def send(
        self, text: str | None = None, *, effort: Effort | None = None, **options: Unpack[TurnOptions[Parsed]]
    ) -> Reply[Parsed]:
        """Says something and waits for the answer: :meth:`stream` to its end.

        Example:
            >>> model.chat().send("Is 12 more than 3?", choices=["yes", "no"]).parsed in ("yes", "no")
            True
        """
        with self.stream(text, effort=effort, **options) as events:
            return events.finish()

    @lists_options(TurnOptions)
    def stream(
        self, text: str | None = None, *, effort: Effort | None = None, **options: Unpack[TurnOptions[Parsed]]
    ) -> Stream[Parsed]:
        """Says something; the answer comes as events. An answer that fails midway, or that nobody reads on, stays
        in the chat as far as it came, for :meth:`continue_stream`.

        Args:
            text: the user's message; None answers the conversation as it stands, which ends in a question or in
                the results of calls.
            effort: for this turn and the following ones.
            options: ``schema``, ``regex`` or ``choices`` for the form of the answer, ``max_thinking_tokens``,
                ``tool_choice``, ``logprobs``; see ``AnswerOptions`` and ``SamplingOptions``.

        Raises:
            InvalidRequest: the text is empty, an option is out of its range, or the conversation no longer fits
                the context. SchemaError: the form cannot be compiled.
            OutputError: from the stream, in place of ``Done``: the answer was cut short before it had its form.

        Example:
            >>> with model.chat().stream("Yes or no?", choices=["yes"], max_thinking_tokens=0) as stream:
            ...     "".join(stream.text)
            'yes'
        """
        with self._beginning():
            asked = self._unanswered() if text is None else [Message.user(checked_question(text))]
            return self._ask([*self._messages, *asked], effort, options)

    @lists_options(TurnOptions)
    def send_results(self, *results: Any, **options: Unpack[TurnOptions[Parsed]]) -> Reply[Parsed]:
        """Answers the calls that the last turn left to the caller, and waits for the model's answer.

        Args:
            results: one for each of ``pending_calls``, in order: text, a ``ToolResult``, or anything that JSON
                can hold.
            options: as in :meth:`stream`; those of the question do not hold any more.

        Raises:
            InvalidRequest: there are more or fewer results than calls, or an option is out of its range.

        Example:
            >>> city = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
            >>> chat = model.chat(tools=[{"name": "get_weather", "parameters": city}])
            >>> chat.send("How warm is it?", tool_choice="get_weather", max_thinking_tokens=0).finish_reason
            'tool_calls'
            >>> [call.name for call in chat.pending_calls]
            ['functions.get_weather']
            >>> chat.send_results("4 C, rain", tool_choice="none", choices=["cold"], max_thinking_tokens=0).text
            'cold'
        """
        with self.stream_results(*results, **options) as events:
            return events.finish()

    @lists_options(TurnOptions)
    def stream_results(self, *results: Any, **options: Unpack[TurnOptions[Parsed]]) -> Stream[Parsed]:
        """:meth:`send_results`, as events.

        Example:
            >>> chat = model.chat(tools=[{"name": "lamp", "parameters": {"type": "object"}}])
            >>> calls = chat.send("Is it on?", tool_choice="lamp", max_thinking_tokens=0).tool_calls
            >>> with chat.stream_results("on", tool_choice="none", choices=["yes"]) as stream:
            ...     "".join(stream.text)
            'yes'
        """
        with self._beginning():
            answers = calls.answers(calls.pending(self._messages), results)
            return self._ask([*self._messages, *answers], None, options)

    @lists_options(TurnOptions)
    def retry(self, *, effort: Effort | None = None, **options: Unpack[TurnOptions[Parsed]]) -> Reply[Parsed]:
        """Drops the last answer and asks again.

        Args:
            effort: for this turn and the following ones.
            options: as in :meth:`stream`; those of the first time do not hold any more.

        Example:
            >>> chat = model.chat()
            >>> first = chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
            >>> chat.retry(choices=["no"], max_thinking_tokens=0).text
            'no'
            >>> with chat.stream_retry(choices=["so"], max_thinking_tokens=0) as stream:
            ...     "".join(stream.text)
            'so'
        """
        with self.stream_retry(effort=effort, **options) as events:
            return events.finish()

    @lists_options(TurnOptions)
    def stream_retry(
        self, *, effort: Effort | None = None, **options: Unpack[TurnOptions[Parsed]]
    ) -> Stream[Parsed]:
        """:meth:`retry`, as events.

        Raises:
            InvalidRequest: nothing was asked yet, or an option is out of its range.
        """
        with self._beginning():
            return self._ask(self._messages[: self._last_question() + 1], effort, options)

    def continue_stream(self) -> Stream[Any]:
        """Continues an answer that was cut short by ``max_tokens``, ``max_steps``, an interrupt or a failure. A
        form that the answer had to have (``schema``, ``regex``, ``choices``) does not hold any more.

        Raises:
            InvalidRequest: the last answer is complete, or calls wait for their results.

        Example:
            >>> chat = model.chat(sampling=gptoss.SamplingParams(temperature=0, max_tokens=5))
            >>> chat.send("Who are you?", max_thinking_tokens=0).finish_reason
            'length'
            >>> with chat.continue_stream() as stream:
            ...     stream.finish().usage.completion_tokens <= 5
            True
        """
        with self._beginning():
            if self.pending_calls:
                raise InvalidRequest("calls wait for their results; give those with send_results()")
            last = self._messages[-1] if self._messages else None
            if last is not None and last.role is Role.TOOL:
                return self._turn(self.settings, self._messages, Step(sampling=self.sampling))
            if last is None or last.role is not Role.ASSISTANT or not last.truncated:
                raise InvalidRequest("there is no unfinished answer to continue; ask something")
            begun = self.prompt.rendered(self.model.tokenizer).segments[-1].tokens[:-1]
            step = Step(sampling=self.sampling, begun=begun)
            return self._turn(self.settings, self._messages[:-1], step, unfinished=last)

    @lists_options(TurnOptions)
    def edit(self, index: int, text: str, **options: Unpack[TurnOptions[Parsed]]) -> Reply[Parsed]:
        """Changes a message of the user and asks again; everything after it is dropped.

        Args:
            index: of the user's message in ``messages``; negative counts from the end.
            text: the new message.
            options: as in :meth:`stream`.

        Raises:
            InvalidRequest: there is no user message at ``index``, or an option is out of its range.

        Example:
            >>> chat = model.chat()
            >>> first = chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
            >>> chat.edit(0, "Left or right?", choices=["left"], max_thinking_tokens=0).text
            'left'
            >>> with chat.stream_edit(-2, "Up or down?", choices=["up"], max_thinking_tokens=0) as stream:
            ...     "".join(stream.text)
            'up'
            >>> [message.text for message in chat.messages]
            ['Up or down?', 'up']
        """
        with self.stream_edit(index, text, **options) as events:
            return events.finish()

    @lists_options(TurnOptions)
    def stream_edit(self, index: int, text: str, **options: Unpack[TurnOptions[Parsed]]) -> Stream[Parsed]:
        """:meth:`edit`, as events."""
        with self._beginning():
            return self._ask(self._edited(index, text), None, options)

    @lists_options(ChatOptions)
    def fork(self, **options: Unpack[ChatOptions]) -> Chat:
        """An independent chat with the same messages; options change its settings.

        Example:
            >>> chat = model.chat()
            >>> first = chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
            >>> twin = chat.fork(effort="low")
            >>> twin.undo(), twin.effort, len(twin.messages), len(chat.messages)
            ('Yes or no?', 'low', 0, 2)
        """
        twin = type(self)(self.model, messages=self._messages, title=self.title)
        twin.settings = self.settings.changed(options)
        return twin

    def prefill(self) -> int:
        """Computes the conversation now, as the next turn will read it: a document that is in the instructions or
        messages is read before the question is known.

        Returns:
            How many tokens were computed; the others were cached already.

        Example:
            >>> chat = model.chat(instructions="Answer from this page: gpt-oss-20b has 24 layers.")
            >>> chat.prefill() > 0, chat.prefill(), chat.tokens_to_prefill()
            (True, 0, 0)
        """
        tokens, boundaries = self.prompt.history(self.model.tokenizer)
        return self.model.prefill(tokens, boundaries=boundaries)

    def _begin_prefill(self) -> Generation:
        tokens, boundaries = self.prompt.history(self.model.tokenizer)
        return self.model._begin_prefill(tokens, boundaries=boundaries)

    def trace(self) -> list[TraceEntry]:
        """The next prompt, message by message.

        Example:
            >>> model.clear_caches()
            >>> chat = model.chat(instructions="Be terse.")
            >>> [(str(entry.message.role), entry.cached) for entry in chat.trace()]
            [('system', False), ('developer', False)]
        """
        rendering = self.prompt.followed_by_a_question(self.model.tokenizer)
        return trace(rendering, self.model.cached_length(rendering.tokens))

    def tokens_to_prefill(self, effort: Effort | None = None) -> int:
        """How many tokens of the conversation the next turn computes before the user's message.

        Args:
            effort: of the next turn; None is the present one. The effort is in the system message, before
                everything else, so after a change the whole conversation is computed again.

        Example:
            >>> chat = model.chat(effort="low")
            >>> first = chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
            >>> chat.tokens_to_prefill() < chat.tokens_to_prefill("high")
            True
        """
        prompt = self.prompt if effort is None else replace(self.prompt, effort=checked_effort(effort))
        tokens, _ = prompt.history(self.model.tokenizer)
        return len(tokens) - self.model.cached_length([*tokens, 0])

    def save_cache(self, path: str | Path) -> None:
        """Writes the prompt cache that reaches furthest into this chat to a file; :meth:`load_cache` reads it in
        another process. See ``Engine.save_cache``.

        Raises:
            FileWriteError, NotEnoughDisk: it cannot be written; the previous content, if any, is unchanged.
            InvalidRequest: nothing of the chat is computed; :meth:`prefill` computes it.

        Example:
            >>> chat = model.chat()
            >>> first = chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
            >>> chat.save(directory / "chat.json")
            >>> chat.save_cache(directory / "chat.cache")
            >>> again = model.load_chat(directory / "chat.json")
            >>> again.load_cache(directory / "chat.cache")
            >>> again.tokens_to_prefill() < again.context_used
            True
        """
        self.model.save_cache(path, self.prompt.followed_by_a_question(self.model.tokenizer).tokens)

    def load_cache(self, path: str | Path) -> None:
        """Reads a prompt cache that :meth:`save_cache` wrote: the beginning that it shares with this chat need not
        be computed again.

        Raises:
            CacheFileError: the file cannot be read, is damaged, of another version or of another model.
        """
        self.model.load_cache(path)

    @classmethod
    @lists_options(ChatOptions)
    def load(
        cls, model: Engine, path: str | Path, *, keep_readable: bool = False, **options: Unpack[ChatOptions]
    ) -> Chat:
        """See ``GptOss.load_chat``.

        Example:
            >>> model.chat(effort="high").save(directory / "high.json")
            >>> Chat.load(model, directory / "high.json").effort
            'high'
        """
        content = chatfile.read(checked_path(path), keep_readable=keep_readable)
        saved = ChatOptions(
            instructions=content.instructions, effort=checked_effort(content.effort), date=content.date
        )
        return cls(model, messages=content.messages, title=content.title, **(saved | options))

    def _content(self) -> chatfile.ChatContent:
        return replace(super()._content(), model=self.model.name)

    def _unanswered(self) -> tuple[()]:
        """Nothing to add: the conversation ends in what the model is to answer."""
        if self.pending_calls:
            raise InvalidRequest("calls wait for their results; give those with send_results()")
        if not self._messages or self._messages[-1].role not in (Role.USER, Role.TOOL):
            raise InvalidRequest("the conversation does not end in a question; give a text")
        return ()

    @contextlib.contextmanager
    def _beginning(self) -> Iterator[None]:
        """Surrounds the beginning of a turn.

        Raises:
            InvalidRequest: another answer of this chat is still read, or begins in another thread.
        """
        free = self._lock.acquire(blocking=False)
        try:
            stream = self._stream()
            unread = stream is not None and not stream.ended and self._messages is self._growing
            if not free or unread:
                raise InvalidRequest(
                    "another answer of this chat is not read to its end; finish() or cancel() its stream first, "
                    "or fork() the chat: one thread at a time may use it"
                )
            if stream is not None and self._messages is self._growing:
                with contextlib.suppress(GptOssError):  # it was that stream's reader's to know
                    stream._settle()
            yield
        finally:
            if free:
                self._lock.release()

    def _ask(
        self, messages: Sequence[Message], effort: Effort | None, options: TurnOptions[Parsed]
    ) -> Stream[Parsed]:
        """Starts a turn on other messages."""
        settings = self.settings if effort is None else self.settings.changed({"effort": effort})
        return self._turn(settings, messages, Step.of(options, settings))

    def _turn(
        self, settings: ChatSettings, messages: Sequence[Message], step: Step, unfinished: Message | None = None
    ) -> Stream[Any]:
        """Starts a turn; a refusal leaves the chat unchanged."""
        turn = self._begin(settings, messages, step, unfinished)
        # The list is the turn's own: another turn that begins meanwhile has another.
        self.settings, self._messages, self._growing = settings, turn.messages, turn.messages
        stream = Stream(turn.events(), turn.cancel)
        self._stream = weakref.ref(stream)
        return stream

    def _begin(
        self, settings: ChatSettings, messages: Sequence[Message], step: Step, unfinished: Message | None
    ) -> RunningTurn:
        return Turn(self.model, settings, messages, step, unfinished=unfinished)
