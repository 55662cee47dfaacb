"""The library's verbs: load a model, ask it, stream an answer, start a chat.

``GptOss`` is an engine with conversations. Knows no terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from .arguments import DEFAULT_PARALLEL, checked_path
from .chat.batch import BatchReply, answers
from .chat.chat import Chat
from .chat.options import ChatOptions, RequestOptions, lists_options
from .engine.engine import DTypeName, Engine
from .errors import InvalidRequest
from .events import Parsed, Reply
from .files.read import short_repr
from .hub import models
from .share import Split

if TYPE_CHECKING:
    from .chat.stream import Stream
    from .harmony import Message

__all__ = ["GptOss", "load"]


def load(
    reference: str | Path = "demo",
    *,
    dtype: DTypeName | None = None,
    download: bool = False,
    kv_bits: int | None = None,
    context: int | None = None,
    max_cache_bytes: int | None = None,
    split: Split | None = None,
    adapter: str | Path | None = None,
    parallel: int = DEFAULT_PARALLEL,
) -> GptOss:
    """Loads a model.

    Args:
        reference: ``demo``, ``20b``, ``120b``, a converted model's name, a directory, a Hub repository id or
            ``lmstudio:PUBLISHER/MODEL``. A directory is what OpenAI, mlx-lm or this library wrote.
        dtype: of everything that is not packed: ``bfloat16`` or ``float32``. None takes bfloat16 on a GPU, and
            float32 on a CPU where it fits, because a CPU computes it faster.
        download: get it from the Hub if it is not on this machine.
        kv_bits: 8 keeps the keys and values of full-attention layers in 8 bits: a long conversation takes
            0.56 of the memory that it takes in bfloat16, at a small loss (``gptoss verify DIRECTORY --kv-bits 8
            --prompt TEXT`` measures it).
        context: the most positions of a conversation; by default as many as the model and the memory allow.
        max_cache_bytes: the most that all prompt caches may take together; the least recently used is evicted
            first. By default one full context with its snapshots or an eighth of the device's memory, whichever is
            more, and never more than the weights leave.
        split: under ``mlx.launch``, how its machines divide the model: ``pipeline`` gives each whole layers, in
            proportion to its memory; ``tensor`` a part of every layer, which needs fast connections. The first
            machine gets the model; the others take part until it is closed, and then their processes end. All of
            them need the checkpoint. A process that is alone ignores it, unless ``adapter`` is given too.
        adapter: the directory of a LoRA adapter, of PEFT or mlx-lm, that changes attention or routers. One that
            changes experts is merged by ``gptoss convert --adapter``.
        parallel: the most requests that run together, 1 to 32; others wait for their turn, and so do those for
            which the memory does not suffice.

    Raises:
        ModelNotFound: it is not on this machine; the message names the command that gets it.
        DownloadError, NotEnoughDisk: with ``download``: it cannot be got.
        CheckpointError: it is damaged, or of another kind of model.
        NotEnoughMemory: it does not fit this machine; the message has the figures and the remedy.
        InvalidRequest: an unknown dtype, ``kv_bits`` or ``split``, a length out of range, or machines that
            differ in their versions, checkpoints or settings.
        MachineLost: a machine does not come, or cannot load its share.
        ProcessForked: this process was forked from one that uses a model.

    Example:
        >>> import gptoss_mlx as gptoss
        >>> with gptoss.load("demo") as model:
        ...     model.ask("hi", effort="low").finish_reason
        'stop'
    """
    if not isinstance(reference, str | os.PathLike):
        raise InvalidRequest(
            f"reference is {short_repr(reference)}; a name, a directory or a repository id is needed"
        )
    checked_path(reference)
    directory = models.resolve(str(reference), download=download)
    model = GptOss(
        directory,
        dtype=dtype,
        name=str(reference),
        kv_bits=kv_bits,
        context=context,
        max_cache_bytes=max_cache_bytes,
        split=split,
        adapter=adapter,
        parallel=parallel,
    )
    models.mark_used(directory)
    return model


class GptOss(Engine):
    """A loaded model that can be talked to. Make one with :func:`load`; use it as a context manager, or call
    :meth:`close`. It is an ``Engine``: arguments, errors and the verbs for tokens are described there.

    Example:
        >>> with GptOss(model.directory, dtype="float32", context=2048) as exact:
        ...     exact.name, exact.context_limit, exact.budget.context
        ('checkpoint', 2048, 2048)
    """

    @lists_options(RequestOptions)
    def ask(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message | Mapping[str, Any]] = (),
        **options: Unpack[RequestOptions[Parsed]],
    ) -> Reply[Parsed]:
        """Answers one question: :meth:`stream` to its end.

        Example:
            >>> model.ask("What is 2+3?", regex="[0-9]", effort="low").text in "0123456789"
            True
        """
        with self.stream(prompt, messages=messages, **options) as events:
            return events.finish()

    @lists_options(RequestOptions)
    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message | Mapping[str, Any]] = (),
        **options: Unpack[RequestOptions[Parsed]],
    ) -> Stream[Parsed]:
        """Answers one question, event by event.

        Args:
            prompt: the user's message; None answers ``messages``, which end in a question or a tool's result.
            messages: before it, as in :meth:`chat`.
            options: those of :meth:`chat` and of ``Chat.stream``.

        Example:
            >>> with model.stream("What is 2+3?", effort="low") as stream:
            ...     *others, last = [event.type for event in stream]
            >>> last, set(others) <= {"progress", "thinking", "text"}
            ('done', True)
            >>> asked = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Yes or no?"}]
            >>> model.ask(messages=asked, choices=["yes", "no"], max_thinking_tokens=0).text in ("yes", "no")
            True
        """
        of_chat = ChatOptions.__annotations__
        chat = {name: value for name, value in options.items() if name in of_chat}
        answer = {name: value for name, value in options.items() if name not in of_chat}
        return self.chat(messages=messages, **chat).stream(prompt, **answer)  # type: ignore[arg-type]

    @lists_options(RequestOptions)
    def batch(
        self,
        questions: Iterable[str | Sequence[Message | Mapping[str, Any]]],
        **options: Unpack[RequestOptions],
    ) -> Iterator[BatchReply]:
        """Answers many questions, up to ``parallel`` of them together, and yields each answer as soon as it is
        complete. Ending the iteration stops what runs.

        Args:
            questions: texts, or lists of messages as in :meth:`stream`.
            options: of every answer, those of :meth:`stream`.

        Returns:
            An iterator; each answer says which question it is of, and how many are done. A question that cannot be
            answered has an error in place of a reply, and the others are answered nevertheless.

        Example:
            >>> asked = ["What is 2+3?", "What is 4+5?"]
            >>> answers = list(model.batch(asked, choices=["5", "9"], max_thinking_tokens=0))
            >>> sorted(answer.index for answer in answers), [answer.done for answer in answers]
            ([0, 1], [1, 2])
        """

        def ask(question: str | Sequence[Message | Mapping[str, Any]]) -> Stream:
            if isinstance(question, str):
                return self.stream(question, **options)
            return self.stream(messages=question, **options)

        return answers(list(questions), ask, self.parallel)

    @lists_options(ChatOptions)
    def chat(
        self, *, messages: Sequence[Message | Mapping[str, Any]] = (), **options: Unpack[ChatOptions]
    ) -> Chat:
        """Starts a conversation.

        Args:
            messages: of the conversation so far: ``Message``, without system and developer messages, or OpenAI's
                dicts, of which the first may give the instructions.
            options: ``instructions`` is the developer message, which ranks below the system message and above the
                user; ``effort`` is how long the model thinks, ``low``, ``medium`` or ``high``; ``tools`` are
                functions that the model may call; ``sampling`` is how tokens are chosen; ``date`` is the current
                date for the system message, YYYY-MM-DD; ``before_call`` and ``after_call`` are called with every
                call and every result; ``max_steps`` is how often the model may generate in one turn.

        Raises:
            InvalidRequest: an argument out of its range.
            ToolError: a tool that cannot be declared.

        Example:
            >>> chat = model.chat(instructions="Be terse.", effort="low")
            >>> chat.send("What is 2+3?").text == chat.messages[-1].text
            True
        """
        return Chat(self, messages=messages, **options)

    @lists_options(ChatOptions)
    def load_chat(self, path: str | Path, *, keep_readable: bool = False, **options: Unpack[ChatOptions]) -> Chat:
        """Continues a chat that ``Chat.save`` wrote.

        Args:
            path: the file.
            keep_readable: of a damaged file keep the messages before the damage, if there are any.
            options: settings of the chat. Those that are in the file (``instructions``, ``effort``, ``date``) need
                not be given; tools, hooks and ``sampling`` are not in it.

        Raises:
            ChatFileError: the file cannot be read, is damaged, or is of a newer version.

        Example:
            >>> model.chat(instructions="Be terse.").save(directory / "terse.json")
            >>> model.load_chat(directory / "terse.json").instructions
            'Be terse.'
        """
        return Chat.load(self, path, keep_readable=keep_readable, **options)
