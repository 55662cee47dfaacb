"""A conversation with a model: what was said, its settings, and the turns that add to it.

The prompt of every turn is rendered from the messages, and the prompt cache finds by itself how much of it is
already computed: retry, undo, edit and fork need no more than to change the messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..arguments import (
    checked_effort,
    checked_flag,
    checked_hook,
    checked_path,
    checked_question,
    checked_sampling,
    checked_steps,
)
from ..engine.engine import MAX_STEPS
from ..errors import InvalidRequest
from ..events import Reply, ToolResult, Usage
from ..harmony import Channel, Message, Role
from ..sampling import Effort, SamplingParams
from ..tools import calls
from ..tools.toolbox import AfterCall, BeforeCall
from . import file as chatfile
from .options import AnswerOptions, guide_plan
from .prompt import Prompt, TraceEntry, trace
from .step import Step
from .stream import Stream
from .transcript import Transcript
from .turn import Turn, TurnPlan

if TYPE_CHECKING:
    from ..engine.engine import GptOss
    from ..engine.generation import Generation

__all__ = ["Chat"]


class Chat(Transcript):
    """A conversation. Start one with ``model.chat()``, or go on with a saved one: ``model.load_chat(path)``.

    One thread at a time may use it; several chats may share a model.

    Args:
        model: a loaded model.
        instructions: the developer message.
        effort: how long the model thinks; may be changed between turns.
        tools: functions the model may call.
        sampling: how tokens are chosen; may be changed between turns.
        date: the current date, YYYY-MM-DD. It stays as it is: a date that changed at midnight would make the
            model read the whole conversation again.
        messages: what was said before.
        title: for lists of chats.
        before_call: sees every call before it runs and may change or veto it.
        after_call: sees every result and may change it.
        max_steps: how often the model may generate in one turn, each time but the last to call tools.

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
    """

    def __init__(
        self,
        model: GptOss,
        *,
        instructions: str | None = None,
        effort: Effort = "medium",
        tools: Sequence[Any] = (),
        sampling: SamplingParams | None = None,
        date: str | None = None,
        messages: Sequence[Message] = (),
        title: str | None = None,
        before_call: BeforeCall | None = None,
        after_call: AfterCall | None = None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        super().__init__(
            instructions=instructions, effort=effort, tools=tools, date=date, messages=messages, title=title
        )
        self.model = model
        self.sampling = checked_sampling(sampling)
        self.before_call = checked_hook("before_call", before_call)
        self.after_call = checked_hook("after_call", after_call)
        self.max_steps = checked_steps(max_steps)
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where async tools run in the turns that begin from now on; by default, and while it does not run, each
        call has a loop of its own."""
        self._prefix = model.make_prefix()

    @property
    def context_used(self) -> int:
        """Tokens that the conversation takes up now, dropped analysis not counted."""
        return len(self._prompt().rendered(self.model.tokenizer).tokens)

    @property
    def context_limit(self) -> int:
        """Tokens that a conversation may take up, its next answer included."""
        return self.model.context_limit

    def send(self, text: str, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Reply:
        """Says something and waits for the answer: :meth:`stream` to its end.

        Example:
            >>> model.chat().send("Is 12 more than 3?", choices=["yes", "no"]).parsed in ("yes", "no")
            True
        """
        with self.stream(text, effort=effort, **options) as events:
            return events.finish()

    def stream(self, text: str, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Stream:
        """Says something; the answer comes as events. One that fails midway, or that nobody reads on, stays in the
        chat as far as it came, for :meth:`continue_stream`.

        Args:
            text: the user's message.
            effort: for this turn and the following ones.
            options: what the answer is to be like: ``schema``, ``regex`` or ``choices`` for its form,
                ``max_thinking_tokens``, ``tool_choice``, ``logprobs``; see ``AnswerOptions``.

        Raises:
            InvalidRequest: the text is empty, an option cannot be kept to, or the conversation no longer fits
                the context; SchemaError, if it is the form that cannot be kept to.
            OutputError: from the stream, in place of ``Done``: the answer was cut short before it had its form.

        Example:
            >>> with model.chat().stream("Yes or no?", choices=["yes"], max_thinking_tokens=0) as stream:
            ...     "".join(stream.text)
            'yes'
        """
        return self._ask([*self._messages, Message.user(checked_question(text))], effort, options)

    def send_results(self, *results: Any, **options: Unpack[AnswerOptions]) -> Reply:
        """Answers the calls that the last turn left to the caller, and waits for what the model makes of it.

        Args:
            results: one for each of ``pending_calls``, in order: text, a ``ToolResult``, or anything that JSON
                can hold.
            options: as in :meth:`stream`; those of the question are not carried on.

        Raises:
            InvalidRequest: there are more or fewer results than calls, or an option cannot be kept to.

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

    def stream_results(self, *results: Any, **options: Unpack[AnswerOptions]) -> Stream:
        """:meth:`send_results`, as events.

        Example:
            >>> chat = model.chat(tools=[{"name": "lamp", "parameters": {"type": "object"}}])
            >>> calls = chat.send("Is it on?", tool_choice="lamp", max_thinking_tokens=0).tool_calls
            >>> with chat.stream_results("on", tool_choice="none", choices=["yes"]) as stream:
            ...     "".join(stream.text)
            'yes'
        """
        answers = calls.answers(calls.pending(self._messages), results)
        return self._ask([*self._messages, *answers], None, options)

    def retry(self, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Reply:
        """Throws the last answer away and asks again.

        Args:
            effort: for this turn and the following ones.
            options: as in :meth:`stream`; those of the first time are not carried on.

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

    def stream_retry(self, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Stream:
        """:meth:`retry`, as events.

        Raises:
            InvalidRequest: nothing was asked yet, or an option cannot be kept to.
        """
        return self._ask(self._messages[: self._last_question() + 1], effort, options)

    def continue_stream(self) -> Stream:
        """Goes on with an answer that was cut short by ``max_tokens``, ``max_steps``, an interrupt or a failure. A
        form that the answer had to have (``schema``, ``regex``, ``choices``) is not carried on.

        Raises:
            InvalidRequest: the last answer is complete, or calls wait for their results.

        Example:
            >>> chat = model.chat(sampling=SamplingParams(temperature=0, max_tokens=5))
            >>> chat.send("Who are you?", max_thinking_tokens=0).finish_reason
            'length'
            >>> with chat.continue_stream() as stream:
            ...     stream.finish().usage.completion_tokens <= 5
            True
        """
        if self.pending_calls:
            raise InvalidRequest("calls wait for their results; give those with send_results()")
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role is Role.TOOL:
            return self._turn(Step(sampling=self.sampling), self._prompt())
        if last is None or last.role is not Role.ASSISTANT or not last.truncated:
            raise InvalidRequest("there is no unfinished answer to continue; ask something")
        prompt = self._prompt()
        begun = prompt.rendered(self.model.tokenizer).segments[-1].tokens[:-1]
        step = Step(sampling=self.sampling, begun=begun)
        return self._turn(step, replace(prompt, messages=self._messages[:-1]), unfinished=last)

    def edit(self, index: int, text: str, **options: Unpack[AnswerOptions]) -> Reply:
        """Changes what the user said and asks again; what came after is thrown away.

        Args:
            index: of the user's message in ``messages``; negative counts from the end.
            text: what it shall say.
            options: as in :meth:`stream`.

        Raises:
            InvalidRequest: there is no user message at ``index``, or an option cannot be kept to.

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

    def stream_edit(self, index: int, text: str, **options: Unpack[AnswerOptions]) -> Stream:
        """:meth:`edit`, as events."""
        return self._ask(self._edited(index, text), None, options)

    def fork(self) -> Chat:
        """An independent chat that begins with the same messages; what is computed is shared, not copied.

        Example:
            >>> chat = model.chat()
            >>> first = chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
            >>> twin = chat.fork()
            >>> twin.undo(), len(twin.messages), len(chat.messages)
            ('Yes or no?', 0, 2)
        """
        twin = Chat(
            self.model,
            instructions=self.instructions,
            effort=self.effort,
            sampling=self.sampling,
            date=self.date,
            messages=self._messages,
            title=self.title,
            before_call=self.before_call,
            after_call=self.after_call,
            max_steps=self.max_steps,
        )
        twin._tools = self._tools
        twin._prefix = self.model._fork_prefix(self._prefix)
        return twin

    def trace(self) -> list[TraceEntry]:
        """The next prompt, message by message: for people who want to see what the model will read.

        Example:
            >>> chat = model.chat(instructions="Be terse.")
            >>> [(str(entry.message.role), entry.cached) for entry in chat.trace()]
            [('system', False), ('developer', False)]
        """
        rendering = self._prompt().followed_by_a_question(self.model.tokenizer)
        return trace(rendering, self._prefix.known(rendering.tokens))

    def tokens_to_prefill(self, effort: Effort | None = None) -> int:
        """How many tokens of the conversation the next turn has to read before it comes to what is new.

        Args:
            effort: were it this one; by default as it is. A change of effort stands in the system message, before
                everything else, so after one the whole conversation is read again.

        Example:
            >>> chat = model.chat(effort="low")
            >>> first = chat.send("Yes or no?", choices=["yes"], max_thinking_tokens=0)
            >>> chat.tokens_to_prefill() < chat.tokens_to_prefill("high")
            True
        """
        prompt = self._prompt()
        if effort is not None:
            prompt = replace(prompt, effort=checked_effort(effort))
        rendering = prompt.followed_by_a_question(self.model.tokenizer)
        end = rendering.segments[-1].start
        return end - self._prefix.known(rendering.tokens[: end + 1])

    def save_cache(self, path: str | Path) -> None:
        """Writes what is computed of the chat to a file, to go on with :meth:`load_cache`: see
        ``GptOss.save_prefix``.

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
        self.model.save_prefix(self._prefix, path)

    def load_cache(self, path: str | Path) -> None:
        """Takes over what :meth:`save_cache` wrote: as much of it as fits this chat need not be computed again.

        Raises:
            CacheFileError: the file cannot be read, is damaged, of a newer version, or of another model.
        """
        self._prefix = self.model.load_prefix(path)

    @classmethod
    def load(
        cls, model: GptOss, path: str | Path, *, tools: Sequence[Any] = (), keep_readable: bool = False
    ) -> Chat:
        """See ``GptOss.load_chat``.

        Example:
            >>> model.chat(effort="high").save(directory / "high.json")
            >>> Chat.load(model, directory / "high.json").effort
            'high'
        """
        content = chatfile.read(checked_path(path), keep_readable=keep_readable)
        return cls(
            model,
            instructions=content.instructions,
            effort=checked_effort(content.effort),
            tools=tools,
            date=content.date,
            messages=content.messages,
            title=content.title,
        )

    def _ask(self, messages: Sequence[Message], effort: Effort | None, options: AnswerOptions) -> Stream:
        """Starts a turn on other messages."""
        step = Step(
            sampling=self.sampling,
            plan=guide_plan(options, self._tools.schemas),
            logprobs=checked_flag("logprobs", options.get("logprobs", False)),
        )
        effort = self.effort if effort is None else checked_effort(effort)
        return self._turn(step, replace(self._prompt(), messages=messages, effort=effort))

    def _turn(self, step: Step, prompt: Prompt, unfinished: Message | None = None) -> Stream:
        """Starts a turn.

        Args:
            step: the first of it.
            prompt: the chat as it is to be; what is refused leaves the chat as it was.
            unfinished: the message that goes on; it stays until the one that it becomes takes its place.
        """
        model, sampling, constraint = self.model, step.sampling, step.plan.constraint
        started = [step.start(model, prompt, self._prefix)]
        # The turn's own: what it still says after another one began does not get into that one.
        messages = self._messages = [*prompt.messages, *([] if unfinished is None else [unfinished])]
        self.effort, loop = prompt.effort, self.loop

        def add(more: Sequence[Message]) -> None:
            if more and messages[-1] is unfinished:
                del messages[-1]
            messages.extend(more)

        def generate(used: Usage) -> Generation:
            if started:
                return started.pop()
            following = replace(self._prompt(), messages=messages)
            return step.after_a_call(used).start(model, following, self._prefix)

        turn_plan = TurnPlan(
            generate=generate,
            add=add,
            call=lambda message: self._call(message, loop),
            runs=lambda call: not call.is_complete or not self._tools.leaves(call.recipient or "", call.text),
            max_steps=self.max_steps,
            max_tokens=sampling.max_tokens,
            stop=sampling.stop,
            stop_loops=sampling.stop_loops,
            parse=constraint.parse if constraint else None,
            begun=step.begun,
        )
        turn = Turn(turn_plan, model.tokenizer, model.stop_tokens, on_end=self._settle)
        return Stream(turn.events(), turn.cancel)

    def _call(self, message: Message, loop: asyncio.AbstractEventLoop | None) -> ToolResult:
        assert message.recipient is not None
        if not message.is_complete:
            output = f"Error: {message.recipient}: the call's header is not complete; write the whole call again"
            return ToolResult(name=message.recipient, output=output, error=True)
        outcome = self._tools.call(message.recipient, message.text, self.before_call, self.after_call, loop)
        return ToolResult(name=message.recipient, output=outcome.output, error=outcome.error)

    def _settle(self, reply: Reply) -> None:
        """Once an answer is complete its analysis will be dropped: computes the history as the next turn will
        have it, while the user reads."""
        answered = any(message.channel is Channel.FINAL for message in reply.messages)
        if reply.finish_reason != "stop" or not answered:
            return
        rendering = self._prompt().followed_by_a_question(self.model.tokenizer)
        end = rendering.segments[-1].start
        boundaries = [boundary for boundary in rendering.boundaries if boundary <= end]
        self.model._compute_ahead(rendering.tokens[:end], self._prefix, boundaries)
