"""A conversation with a model: the only place where harmony and generation meet.

The prompt of every turn is rendered from the messages, and the prompt cache finds by itself how much of it is
already computed: retry, undo, edit and fork need no more than to change the messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from . import calls, chatfile
from .arguments import (
    Effort,
    checked_date,
    checked_effort,
    checked_flag,
    checked_hook,
    checked_messages,
    checked_path,
    checked_question,
    checked_sampling,
    checked_steps,
    checked_text,
)
from .engine import MAX_STEPS
from .errors import InvalidRequest
from .events import Reply, ToolCall, ToolResult, Usage
from .guide import GuidePlan, guide_for
from .harmony import (
    Channel,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Rendering,
    ResponseFormat,
    Role,
    SystemContent,
    render_segments,
)
from .options import AnswerOptions, guide_plan
from .sampling import SamplingParams
from .stream import Stream
from .tools import AfterCall, BeforeCall, ToolBox
from .turn import Turn, TurnPlan

if TYPE_CHECKING:
    from .engine import GptOss
    from .generation import Generation

__all__ = ["Chat", "TraceEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """One message of the next prompt."""

    message: Message
    tokens: int
    kept: bool
    """False for analysis that harmony drops once its turn is over."""
    cached: bool
    """Whether its tokens are in the prompt cache."""


class Chat:
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
        self.before_call = checked_hook("before_call", before_call)
        self.after_call = checked_hook("after_call", after_call)
        self.max_steps = checked_steps(max_steps)
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where async tools run; by default each call has a loop of its own."""
        self.model = model
        self.instructions = checked_text("instructions", instructions)
        self.effort = effort
        self.sampling = checked_sampling(sampling)
        self.date = checked_date(date)
        self.title = checked_text("title", title)
        self._tools = ToolBox(tools)
        self._messages = checked_messages(messages)
        self._prefix = model.make_prefix()

    @property
    def effort(self) -> Effort:
        """How long the model thinks: ``low``, ``medium`` or ``high``. Changing it makes the next turn read the
        whole conversation again, because it stands in the system message: :meth:`tokens_to_prefill` tells how
        much that is."""
        return self._effort

    @effort.setter
    def effort(self, effort: Effort) -> None:
        self._effort: Effort = checked_effort(effort)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said, in order; the system and developer messages are not among it."""
        return tuple(self._messages)

    @property
    def conversation(self) -> Conversation:
        """Everything that the model reads, the system and developer messages included."""
        return self._conversation(self._messages)

    @property
    def pending_calls(self) -> tuple[ToolCall, ...]:
        """The calls that wait for :meth:`send_results`, in order."""
        waiting = calls.pending(self._messages)
        return tuple(ToolCall(name=call.recipient or "", arguments=call.text) for call in waiting)

    @property
    def context_used(self) -> int:
        """Tokens that the conversation takes up now, dropped analysis not counted."""
        return len(self._render(self._messages, next_role=None).tokens)

    @property
    def context_limit(self) -> int:
        """Tokens that a conversation may take up, its next answer included."""
        return self.model.context_limit

    def send(self, text: str, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Reply:
        """Says something and waits for the answer: :meth:`stream` to its end.

        Example:
            >>> import gptoss_mlx as gptoss
            >>> with gptoss.load("demo") as model:
            ...     model.chat().send("Is 12 more than 3?", choices=["yes", "no"]).parsed in ("yes", "no")
            True
        """
        with self.stream(text, effort=effort, **options) as events:
            return events.finish()

    def stream(self, text: str, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Stream:
        """Says something; the answer comes as events.

        Args:
            text: the user's message.
            effort: for this turn and the following ones.
            options: what the answer is to be like: ``schema``, ``regex`` or ``choices`` for its form,
                ``max_thinking_tokens``, ``tool_choice``, ``logprobs``; see ``AnswerOptions``.

        Raises:
            InvalidRequest: the text is empty, an option cannot be kept to, or the conversation no longer fits
                the context; SchemaError, if it is the form that cannot be kept to.
            OutputError: from the stream, in place of ``Done``: the answer was cut short before it had its form.
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
            >>> import gptoss_mlx as gptoss
            >>> city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
            >>> weather = {"name": "get_weather", "description": "Get the weather.", "parameters": city}
            >>> with gptoss.load("demo") as model:
            ...     greedy = gptoss.SamplingParams(temperature=0)
            ...     chat = model.chat(tools=[weather], effort="low", sampling=greedy)
            ...     called = chat.send("What is the weather in Oslo?").tool_calls
            ...     reply = chat.send_results("4 C, rain")
            >>> called[0].arguments
            '{"city": "Oslo"}'
            >>> reply.text
            'The weather of Oslo: 4 C, rain.'
        """
        with self.stream_results(*results, **options) as events:
            return events.finish()

    def stream_results(self, *results: Any, **options: Unpack[AnswerOptions]) -> Stream:
        """:meth:`send_results`, as events."""
        answers = calls.answers(calls.pending(self._messages), results)
        return self._ask([*self._messages, *answers], None, options)

    def retry(self, *, effort: Effort | None = None, **options: Unpack[AnswerOptions]) -> Reply:
        """Throws the last answer away and asks again.

        Args:
            effort: for this turn and the following ones.
            options: as in :meth:`stream`; those of the first time are not carried on.
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
        """Goes on with an answer that was cut short by ``max_tokens``, ``max_steps`` or an interrupt. A form that
        the answer had to have (``schema``, ``regex``, ``choices``) is not carried on.

        Raises:
            InvalidRequest: the last answer is complete, or calls wait for their results.
        """
        if self.pending_calls:
            raise InvalidRequest("calls wait for their results; give those with send_results()")
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role is Role.TOOL:
            return self._turn(restore=list(self._messages))
        if last is None or last.role is not Role.ASSISTANT or not last.truncated:
            raise InvalidRequest("there is no unfinished answer to continue; ask something")
        before = list(self._messages)
        begun = self._render(self._messages, next_role=None).segments[-1].tokens[:-1]
        self._messages.pop()
        return self._turn(restore=before, begun=begun)

    def undo(self) -> str:
        """Takes the last question and its answer back.

        Returns:
            The question.

        Raises:
            InvalidRequest: nothing was asked yet.
        """
        position = self._last_question()
        question = self._messages[position].text
        del self._messages[position:]
        return question

    def edit(self, index: int, text: str, **options: Unpack[AnswerOptions]) -> Reply:
        """Changes what the user said and asks again; what came after is thrown away.

        Args:
            index: of the user's message in ``messages``; negative counts from the end.
            text: what it shall say.
            options: as in :meth:`stream`.

        Raises:
            InvalidRequest: there is no user message at ``index``, or an option cannot be kept to.
        """
        with self.stream_edit(index, text, **options) as events:
            return events.finish()

    def stream_edit(self, index: int, text: str, **options: Unpack[AnswerOptions]) -> Stream:
        """:meth:`edit`, as events."""
        count = len(self._messages)
        users = [position for position, message in enumerate(self._messages) if message.role is Role.USER]
        if type(index) is not int or not (index in users or index + count in users):
            raise InvalidRequest(f"message {index!r} is not the user's; those are {users}")
        return self._ask([*self._messages[: index % count], Message.user(checked_question(text))], None, options)

    def fork(self) -> Chat:
        """An independent chat that begins with the same messages; what is computed is shared, not copied."""
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
        """The next prompt, message by message: for people who want to see what the model will read."""
        rendering = self._render([*self._messages, Message.user("")], next_role=None)
        cached = self._prefix.known(rendering.tokens)
        return [
            TraceEntry(
                message=segment.message,
                tokens=len(segment.tokens),
                kept=not segment.dropped,
                cached=not segment.dropped and segment.end <= cached,
            )
            for segment in rendering.segments[:-1]
            if segment.message is not None
        ]

    def save(self, path: str | Path) -> None:
        """Writes the chat to a file of its own (JSON, readable by its owner alone).

        Raises:
            FileWriteError: it cannot be written; what stood there before is unchanged.
        """
        content = chatfile.ChatContent(
            title=self.title,
            effort=self.effort,
            instructions=self.instructions,
            date=self.date,
            messages=self.messages,
        )
        chatfile.write(checked_path(path), content)

    def tokens_to_prefill(self, effort: Effort | None = None) -> int:
        """How many tokens of the conversation the next turn has to read before it comes to what is new.

        Args:
            effort: were it this one; by default as it is. A change of effort stands in the system message, before
                everything else, so after one the whole conversation is read again.
        """
        before = self._effort
        try:
            self._effort = before if effort is None else checked_effort(effort)
            rendering = self._render([*self._messages, Message.user("")], next_role=None)
        finally:
            self._effort = before
        end = rendering.segments[-1].start
        return end - self._prefix.known(rendering.tokens[: end + 1])

    def save_cache(self, path: str | Path) -> None:
        """Writes what is computed of the chat to a file, to go on with :meth:`load_cache`: see
        ``GptOss.save_prefix``."""
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
        """See ``GptOss.load_chat``."""
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

    def _last_question(self) -> int:
        for position in range(len(self._messages) - 1, -1, -1):
            if self._messages[position].role is Role.USER:
                return position
        raise InvalidRequest("nothing was asked yet")

    def _conversation(
        self, messages: Sequence[Message], response_format: ResponseFormat | None = None
    ) -> Conversation:
        system = SystemContent(reasoning_effort=ReasoningEffort(self.effort), conversation_start_date=self.date)
        functions = self._tools.namespace()
        head = [Message.system(system)]
        developer = DeveloperContent(
            instructions=self.instructions or None,
            tools=() if functions is None else (functions,),
            response_formats=() if response_format is None else (response_format,),
        )
        if developer != DeveloperContent():
            head.append(Message.developer(developer))
        return Conversation(messages=(*head, *messages))

    def _render(
        self,
        messages: Sequence[Message],
        next_role: str | None = "assistant",
        response_format: ResponseFormat | None = None,
    ) -> Rendering:
        return render_segments(self._conversation(messages, response_format), self.model.tokenizer, next_role)

    def _ask(self, messages: list[Message], effort: Effort | None, options: AnswerOptions) -> Stream:
        """Starts a turn on other messages; whatever cannot be kept to is refused before anything changes."""
        plan = guide_plan(options, self._tools.schemas)
        logprobs = checked_flag("logprobs", options.get("logprobs", False))
        if effort is not None:
            self.effort = effort
        before, self._messages = self._messages, messages
        return self._turn(restore=before, plan=plan, logprobs=logprobs)

    def _turn(
        self,
        *,
        restore: list[Message],
        begun: tuple[int, ...] = (),
        plan: GuidePlan | None = None,
        logprobs: bool = False,
    ) -> Stream:
        """Starts a turn on the messages as they stand.

        Args:
            restore: the messages, should the request be refused before any work.
            begun: the tokens of an unfinished message that goes on.
            plan: what the answer is to be like.
            logprobs: whether the reply has them.
        """
        plan = plan or GuidePlan()
        model, sampling = self.model, self.sampling
        try:
            first = self._generate(begun, plan, sampling, logprobs)
        except BaseException:
            self._messages = restore
            raise
        started: list[Generation] = [first]
        turn_plan = TurnPlan(
            generate=lambda used: (
                started.pop() if started else self._generate_more(plan, sampling, used, logprobs)
            ),
            add=self._messages.extend,
            call=self._call,
            runs=lambda call: not call.is_complete or not self._tools.leaves(call.recipient or "", call.text),
            max_steps=self.max_steps,
            max_tokens=sampling.max_tokens,
            stop=sampling.stop,
            stop_loops=sampling.stop_loops,
            parse=plan.constraint.parse if plan.constraint else None,
            begun=begun,
        )
        turn = Turn(turn_plan, model.tokenizer, model.stop_tokens, on_end=self._settle)
        return Stream(turn.events(), turn.cancel)

    def _generate(
        self, begun: tuple[int, ...], plan: GuidePlan, sampling: SamplingParams, logprobs: bool
    ) -> Generation:
        told = plan.constraint.response_format if plan.constraint else None
        rendering = self._render(self._messages, None if begun else "assistant", told)
        prompt = [*rendering.tokens, *begun]
        boundaries = rendering.boundaries
        model = self.model
        if not plan.guides and not logprobs:
            return model._generate(prompt, sampling, self._prefix, boundaries)
        guide = guide_for(plan, model.tokenizer, model.config.vocab_size)
        return model._generate(prompt, sampling, self._prefix, boundaries, guide=guide, logprobs=logprobs)

    def _generate_more(self, plan: GuidePlan, sampling: SamplingParams, used: Usage, logprobs: bool) -> Generation:
        """The next step of a turn, with what the steps before it left of its bounds."""
        if sampling.max_tokens is not None:
            sampling = replace(sampling, max_tokens=sampling.max_tokens - used.completion_tokens)
        return self._generate((), plan.after_a_call(used.reasoning_tokens), sampling, logprobs)

    def _call(self, message: Message) -> ToolResult:
        assert message.recipient is not None
        if not message.is_complete:
            output = f"Error: {message.recipient}: the call's header is not complete; write the whole call again"
            return ToolResult(name=message.recipient, output=output, error=True)
        outcome = self._tools.call(message.recipient, message.text, self.before_call, self.after_call, self.loop)
        return ToolResult(name=message.recipient, output=outcome.output, error=outcome.error)

    def _settle(self, reply: Reply) -> None:
        """Once an answer is complete its analysis will be dropped: computes the history as the next turn will
        have it, while the user reads."""
        answered = any(message.channel is Channel.FINAL for message in reply.messages)
        if reply.finish_reason != "stop" or not answered:
            return
        rendering = self._render([*self._messages, Message.user("")], next_role=None)
        end = rendering.segments[-1].start
        boundaries = [boundary for boundary in rendering.boundaries if boundary <= end]
        self.model._compute_ahead(rendering.tokens[:end], self._prefix, boundaries)
