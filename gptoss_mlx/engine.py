"""A loaded model: the thread that runs it, and the requests made to it.

Knows tokens, not conversations: those are ``chat``'s.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

import mlx.core as mx

from . import hub
from .arguments import Effort, checked_sampling, checked_tokens
from .config import ModelConfig, read_json
from .errors import CheckpointError, InvalidRequest, ModelClosed
from .events import Progress, Reply
from .generate import ChunkSize, Request, check_prompt, decode, prefill
from .model import Transformer, load_transformer
from .prefix import PrefixCache
from .reading import shown
from .sampling import SamplingParams, make_sampler
from .tokenizer import Tokenizer
from .worker import Worker

if TYPE_CHECKING:
    from .chat import Chat
    from .guide import Guide
    from .options import AnswerOptions, RequestOptions
    from .stream import Stream
    from .tools import AfterCall, BeforeCall

__all__ = ["Generation", "GptOss", "load"]

MAX_STEPS: Final = 16
_DTYPES: Final = {"bfloat16": mx.bfloat16, "float32": mx.float32}
# Where generation_config.json does not say: return, call, endoftext.
_STOP_NAMES: Final = ("<|return|>", "<|call|>", "<|endoftext|>")


def load(
    reference: str | Path = "demo",
    *,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    download: bool = False,
) -> GptOss:
    """Loads a model.

    Args:
        reference: ``demo``, ``20b``, ``120b``, a converted model's name, a directory or a Hub repository id.
        dtype: of everything that is not packed; float32 for comparisons.
        download: get it from the Hub if it is not on this machine.

    Raises:
        ModelNotFound: it is not on this machine; the message names the command that gets it.
        CheckpointError: it is damaged, or no gpt-oss.
        InvalidRequest: an unknown dtype.

    Example:
        >>> import gptoss_mlx as gptoss
        >>> with gptoss.load("demo") as model:
        ...     model.ask("hi", effort="low").finish_reason
        'stop'
    """
    if dtype not in tuple(_DTYPES):
        raise InvalidRequest(f"dtype is {dtype!r}; {' or '.join(_DTYPES)} is needed")
    if not isinstance(reference, str | os.PathLike):
        raise InvalidRequest(f"reference is {reference!r}; a name, a directory or a repository id is needed")
    directory = hub.resolve(str(reference), download=download)
    model = GptOss(directory, dtype=dtype, name=str(reference))
    hub.mark_used(directory)
    return model


class GptOss:
    """A loaded model. Make one with :func:`load`; use it as a context manager, or call :meth:`close`.

    Any number of threads may make requests: each runs to its end before the next starts, in the order they
    came.

    Args:
        directory: of the checkpoint.
        dtype: of everything that is not packed.
        name: what the user called it.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        name: str | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.name = name or self.directory.name
        self.dtype = dtype
        self.config = ModelConfig.from_directory(self.directory)
        """The model's shape."""
        self.tokenizer = Tokenizer.from_directory(self.directory)
        """Text to tokens and back."""
        _check_vocabulary(self.config, self.tokenizer, self.directory)
        self.stop_tokens = _stop_tokens(self.directory, self.tokenizer)
        """Generation ends after any of these."""
        if mx.default_device() == mx.cpu:
            # There, MLX calls the system's C++ compiler for every fused kernel: seconds before the first token,
            # and an error where there is no compiler. Unfused, the same operations run.
            mx.disable_compile()
        self._worker = Worker()
        self._chunk_size = ChunkSize()
        self._channels: set[Channel] = set()
        try:
            loading = self._worker.submit(lambda: load_transformer(self.directory, _DTYPES[dtype]))
            self._transformer: Transformer | None = loading.result()
        except BaseException:
            self._worker.close()
            raise

    @property
    def transformer(self) -> Transformer:
        """The ``mlx.nn.Module``: tokens [B, L] -> logits [B, L, V].

        May be called from any thread while no request runs, with a cache made in that thread.

        Raises:
            ModelClosed: after :meth:`close`.
        """
        if self._transformer is None:
            raise ModelClosed("the model was closed; load it again")
        return self._transformer

    def generate(
        self, tokens: Sequence[int], sampling: SamplingParams | None = None, *, prefix: PrefixCache | None = None
    ) -> Generation:
        """Generates tokens after a prompt.

        Args:
            tokens: the prompt.
            sampling: how to choose; by default as OpenAI recommends. ``stop`` is for text and not used here.
            prefix: what is already computed, from :meth:`make_prefix`; it grows.

        Returns:
            An iterator of token ids; the last one is the stop token, unless the length ended it.

        Raises:
            InvalidRequest: an empty or too long prompt, or a token out of range.
            ModelClosed: after :meth:`close`.
        """
        if prefix is not None and not isinstance(prefix, PrefixCache):
            raise InvalidRequest(f"prefix is {prefix!r}; one of make_prefix() is needed")
        return self._generate(checked_tokens(tokens), checked_sampling(sampling), prefix or self.make_prefix())

    def make_prefix(self) -> PrefixCache:
        """An empty prompt cache that knows its tokens, to give to several requests."""
        return PrefixCache(self.transformer.make_cache())

    def ask(self, prompt: str, **options: Unpack[RequestOptions]) -> Reply:
        """Answers one question: :meth:`stream` to its end."""
        with self.stream(prompt, **options) as events:
            return events.finish()

    def stream(
        self,
        prompt: str,
        *,
        effort: Effort = "medium",
        instructions: str | None = None,
        sampling: SamplingParams | None = None,
        tools: Sequence[Any] = (),
        date: str | None = None,
        before_call: BeforeCall | None = None,
        after_call: AfterCall | None = None,
        max_steps: int = MAX_STEPS,
        **options: Unpack[AnswerOptions],
    ) -> Stream:
        """Answers one question, event by event. The arguments are those of :meth:`chat` and of ``Chat.stream``."""
        chat = self.chat(
            instructions=instructions,
            effort=effort,
            sampling=sampling,
            tools=tools,
            date=date,
            before_call=before_call,
            after_call=after_call,
            max_steps=max_steps,
        )
        return chat.stream(prompt, **options)

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
    ) -> Chat:
        """Starts a conversation.

        Args:
            instructions: the developer message. What it says ranks below the system message and above the user.
            effort: how long the model thinks: ``low``, ``medium`` or ``high``.
            tools: functions the model may call.
            sampling: how tokens are chosen.
            date: the current date for the system message, YYYY-MM-DD; by default it has none.
            before_call: sees every call before it runs and may change or veto it.
            after_call: sees every result and may change it.
            max_steps: how often the model may generate in one turn, each time but the last to call tools.
        """
        from .chat import Chat

        return Chat(
            self,
            instructions=instructions,
            effort=effort,
            tools=tools,
            sampling=sampling,
            date=date,
            before_call=before_call,
            after_call=after_call,
            max_steps=max_steps,
        )

    def load_chat(self, path: str | Path, *, tools: Sequence[Any] = (), keep_readable: bool = False) -> Chat:
        """Goes on with a chat that ``Chat.save`` wrote.

        Args:
            path: the file.
            tools: functions are not in the file; give them again.
            keep_readable: of a damaged file keep the messages before the damage, if there are any.

        Raises:
            ChatFileError: the file cannot be read, is damaged, or is of a newer version.
        """
        from .chat import Chat

        return Chat.load(self, path, tools=tools, keep_readable=keep_readable)

    def close(self) -> None:
        """Stops what runs and frees the memory. May be called twice."""
        for channel in tuple(self._channels):
            channel.cancel()
        self._worker.close()
        self._transformer = None
        mx.clear_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generate(
        self,
        prompt: list[int],
        sampling: SamplingParams,
        prefix: PrefixCache,
        boundaries: Sequence[int] = (),
        guide: Guide | None = None,
        logprobs: bool = False,
    ) -> Generation:
        transformer = self.transformer
        check_prompt(prompt, self.config.vocab_size, self.config.max_position_embeddings)
        channel = Channel()

        def job() -> None:
            request = Request(
                sampler=make_sampler(sampling),
                stop_tokens=self.stop_tokens,
                max_tokens=sampling.max_tokens,
                max_positions=self.config.max_position_embeddings,
                boundaries=tuple(boundaries),
                cancelled=channel.cancelled.is_set,
                on_prefill=channel.report_prefill,
                guide=guide,
                on_logprob=channel.logprobs.append if logprobs else None,
            )
            channel.cached_tokens = prefix.known(prompt)
            try:
                if prefill(transformer, prompt, prefix, request, self._chunk_size):
                    for token in decode(transformer, prompt, prefix, request):
                        channel.items.put(token)
            finally:
                # The token computed ahead may still run; the process must not end under it.
                mx.synchronize()

        def ended(work: Future[None]) -> None:
            self._channels.discard(channel)
            channel.items.put(work.exception())

        self._channels.add(channel)
        self._worker.submit(job).add_done_callback(ended)
        return Generation(prompt, channel)

    def _fork_prefix(self, prefix: PrefixCache) -> PrefixCache:
        """A copy of a prefix, made where nothing changes it meanwhile."""
        return self._worker.submit(prefix.fork).result()

    def _compute_ahead(self, tokens: list[int], prefix: PrefixCache, boundaries: Sequence[int]) -> None:
        """Brings a prefix up to ``tokens`` while nothing else is asked for."""
        if not tokens or len(tokens) >= self.config.max_position_embeddings:
            return
        # One more token, never computed, so that all of ``tokens`` is.
        prompt = [*tokens, tokens[-1]]

        def work() -> bool:
            transformer = self._transformer
            if transformer is None:
                return False
            chunk_done = threading.Event()
            request = Request(
                sampler=make_sampler(SamplingParams(temperature=0)),
                stop_tokens=frozenset(),
                max_tokens=None,
                max_positions=self.config.max_position_embeddings,
                boundaries=(*boundaries, len(tokens)),
                cancelled=chunk_done.is_set,
                on_prefill=lambda done, total: chunk_done.set() if done else None,
            )
            return not prefill(transformer, prompt, prefix, request, self._chunk_size)

        self._worker.submit_idle(work)


class Channel:
    """What the worker and the reader of one generation share. The worker holds no more of it than this, so
    that a generation nobody reads any longer can be told from one that is merely slow."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[int | Progress | BaseException | None] = queue.SimpleQueue()
        self.cancelled = threading.Event()
        self.cached_tokens = 0
        self.logprobs: list[float] = []

    def report_prefill(self, done: int, total: int) -> None:
        """A part of the prompt was read."""
        self.items.put(Progress(done=done, total=total))

    def cancel(self) -> None:
        """Wakes the reader at once; the worker looks at the next token or chunk."""
        self.cancelled.set()
        self.items.put(None)


class Generation(Iterator[int]):
    """The tokens of one request, as they come. Forgetting it, or :meth:`cancel`, stops the work."""

    def __init__(self, prompt: list[int], channel: Channel) -> None:
        self.prompt = prompt
        self.started = time.perf_counter()
        self.first_token: float | None = None
        """When the first token came, on the clock of ``started``."""
        self._channel = channel
        self._ended = False

    def __next__(self) -> int:
        for item in self.items():
            if isinstance(item, int):
                return item
        raise StopIteration

    def items(self) -> Iterator[int | Progress]:
        """Tokens, and before them the progress of the prefill."""
        channel = self._channel
        while not self._ended:
            item = None if channel.cancelled.is_set() else channel.items.get()
            if item is None or channel.cancelled.is_set():
                self._ended = True
                return
            if isinstance(item, BaseException):
                self._ended = True
                raise item
            if isinstance(item, int) and self.first_token is None:
                self.first_token = time.perf_counter()
            yield item

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt cost nothing. Known when the first item has come."""
        return self._channel.cached_tokens

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of every token so far, where they were asked for."""
        return self._channel.logprobs

    def cancel(self) -> None:
        """Ends the iteration at once, whatever it waits for; the work stops at the next token or prefill
        chunk. May be called from any thread."""
        self._channel.cancel()

    def __del__(self) -> None:
        self._channel.cancelled.set()


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, directory: Path) -> None:
    if tokenizer.size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: tokenizer.json has ids up to {tokenizer.size - 1}, config.json vocab_size "
            f"{config.vocab_size}; the two are of different models"
        )


def _stop_tokens(directory: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """From generation_config.json, where there is one, and always those that end a harmony message for good."""
    required = {tokenizer.special[name] for name in _STOP_NAMES}
    path = directory / "generation_config.json"
    if not path.exists():
        return frozenset(required)
    stated = read_json(path).get("eos_token_id")
    stated = [stated] if type(stated) is int else stated
    if not isinstance(stated, list) or not all(type(token) is int and 0 <= token < 2**31 for token in stated):
        raise CheckpointError(f"{path}: eos_token_id is {shown(stated)}; a token id or a list of them is needed")
    return frozenset(stated) | required
