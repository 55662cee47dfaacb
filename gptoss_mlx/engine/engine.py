"""A loaded model: its files, its runner, and the requests made to it.

Knows tokens, not conversations: those are ``chat``'s.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

import mlx.core as mx

from ..arguments import checked_path, checked_sampling, checked_tokens
from ..cache import file as cachefile
from ..cache.layered import check_kv_bits
from ..cache.store import PrefixCache
from ..config import ModelConfig, read_json
from ..errors import CheckpointError, InvalidRequest
from ..events import Reply
from ..files.read import short_repr
from ..hub import models as hub
from ..memory.budget import Budget
from ..memory.device import DeviceInfo
from ..memory.metal import MLX_MEMORY, MemorySettings
from ..model.transformer import Transformer, load_transformer
from ..sampling import Effort, SamplingParams
from ..tokenizer import Tokenizer
from .generation import Generation
from .runner import ModelRunner

if TYPE_CHECKING:
    from ..chat.chat import Chat
    from ..chat.options import AnswerOptions, RequestOptions
    from ..chat.stream import Stream
    from ..structured.guide import Guide
    from ..tools.toolbox import AfterCall, BeforeCall

__all__ = ["GptOss", "load"]

MAX_STEPS: Final = 16
_DTYPES: Final = {"bfloat16": mx.bfloat16, "float32": mx.float32}
# Where generation_config.json does not say: return, call, endoftext.
_STOP_NAMES: Final = ("<|return|>", "<|call|>", "<|endoftext|>")


def load(
    reference: str | Path = "demo",
    *,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    download: bool = False,
    kv_bits: int | None = None,
    context: int | None = None,
    max_cache_bytes: int | None = None,
) -> GptOss:
    """Loads a model.

    Args:
        reference: ``demo``, ``20b``, ``120b``, a converted model's name, a directory or a Hub repository id.
        dtype: of everything that is not packed; float32 for comparisons.
        download: get it from the Hub if it is not on this machine.
        kv_bits: 8 keeps the keys and values of full-attention layers in 8 bits: a conversation of any length takes
            0.56 of the memory, at a small loss (``gptoss verify --kv-bits 8 --prompt`` measures it).
        context: the most positions of a conversation; by default as many as the model and the memory allow.
        max_cache_bytes: the most that the prompt caches of all conversations may take together; the one used
            longest ago is given up first, and computed again when it goes on. By default what the device has left.

    Raises:
        ModelNotFound: it is not on this machine; the message names the command that gets it.
        CheckpointError: it is damaged, or no gpt-oss.
        NotEnoughMemory: it does not fit this machine; the message gives the figures and the remedy.
        InvalidRequest: an unknown dtype or ``kv_bits``, or a length out of range.

    Example:
        >>> import gptoss_mlx as gptoss
        >>> with gptoss.load("demo") as model:
        ...     model.ask("hi", effort="low").finish_reason
        'stop'
    """
    _check_dtype(dtype)
    if not isinstance(reference, str | os.PathLike):
        raise InvalidRequest(
            f"reference is {short_repr(reference)}; a name, a directory or a repository id is needed"
        )
    checked_path(reference)
    directory = hub.resolve(str(reference), download=download)
    model = GptOss(
        directory,
        dtype=dtype,
        name=str(reference),
        kv_bits=kv_bits,
        context=context,
        max_cache_bytes=max_cache_bytes,
    )
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
        kv_bits: 8, or None to keep keys and values as they are.
        context: the most positions of a conversation.
        max_cache_bytes: the most that all prompt caches may take together.
        device: the machine; by default this one.
        memory: whose settings hold while the model is loaded.

    Raises:
        As :func:`load`, but for ModelNotFound.

    Example:
        >>> with GptOss(model.directory, dtype="float32", context=2048) as exact:
        ...     exact.name, exact.context_limit, exact.budget.context
        ('checkpoint', 2048, 2048)
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        name: str | None = None,
        kv_bits: int | None = None,
        context: int | None = None,
        max_cache_bytes: int | None = None,
        device: DeviceInfo | None = None,
        memory: MemorySettings = MLX_MEMORY,
    ) -> None:
        _check_dtype(dtype)
        self.directory = checked_path(directory)
        self.name = name or self.directory.name
        self.dtype = dtype
        self.kv_bits = kv_bits
        self.config = ModelConfig.from_directory(self.directory)
        """The model's shape."""
        self.tokenizer = Tokenizer.from_directory(self.directory)
        """Text to tokens and back."""
        check_kv_bits(kv_bits, self.config)
        _check_vocabulary(self.config, self.tokenizer, self.directory)
        self.stop_tokens = _stop_tokens(self.directory, self.tokenizer)
        """Generation ends after any of these."""
        budget = Budget(
            config=self.config,
            device=device or DeviceInfo.current(),
            element_bytes=_DTYPES[dtype].size,
            kv_bits=kv_bits,
            context=context,
            max_cache_bytes=max_cache_bytes,
        )
        self._runner = ModelRunner(lambda: load_transformer(self.directory, _DTYPES[dtype]), budget, memory)

    @property
    def budget(self) -> Budget:
        """What it may use of the machine."""
        return self._runner.budget

    @property
    def context_limit(self) -> int:
        """The most positions of a conversation, its answer included: what the model can take, what was asked for,
        or what there is memory for, whichever is least."""
        return self.budget.positions

    @property
    def transformer(self) -> Transformer:
        """The ``mlx.nn.Module``: tokens [B, L] -> logits [B, L, V].

        May be called from any thread while no request runs, with a cache made in that thread.

        Raises:
            ModelClosed: after :meth:`close`.

        Example:
            >>> import mlx.core as mx
            >>> logits = model.transformer(mx.array([model.tokenizer.encode("2+3")]))
            >>> logits.shape[-1] == model.config.vocab_size
            True
        """
        return self._runner.transformer

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

        Example:
            >>> prompt, prefix = model.tokenizer.encode("Once upon a time"), model.make_prefix()
            >>> len(list(model.generate(prompt, SamplingParams(seed=1, max_tokens=3), prefix=prefix))) <= 3
            True
            >>> prefix.tokens[: len(prompt)] == prompt
            True
        """
        if prefix is not None and not isinstance(prefix, PrefixCache):
            raise InvalidRequest(f"prefix is {short_repr(prefix)}; one of make_prefix() is needed")
        return self._generate(checked_tokens(tokens), checked_sampling(sampling), prefix or self.make_prefix())

    def make_prefix(self) -> PrefixCache:
        """An empty prompt cache that knows its tokens, to give to several requests."""
        return self._runner.make_prefix()

    def save_prefix(self, prefix: PrefixCache, path: str | Path) -> None:
        """Writes a prompt cache to a file (safetensors, readable by its owner alone): about 25 kB a position for
        the 20b, and up to 128 MB of marks.

        Raises:
            FileWriteError, NotEnoughDisk: it cannot be written; what stood there before is unchanged.
            ModelClosed: after :meth:`close`.

        Example:
            >>> prefix, one = model.make_prefix(), SamplingParams(max_tokens=1)
            >>> tokens = list(model.generate(model.tokenizer.encode("Once upon a time"), one, prefix=prefix))
            >>> model.save_prefix(prefix, directory / "prefix.cache")
            >>> model.load_prefix(directory / "prefix.cache").tokens == prefix.tokens
            True
        """
        self._runner.call(lambda: cachefile.write(checked_path(path), prefix, self._fingerprint))

    def load_prefix(self, path: str | Path) -> PrefixCache:
        """A prompt cache that :meth:`save_prefix` wrote, in this process or another.

        Raises:
            CacheFileError: the file cannot be read, is damaged, of a newer version, or of another model.
            ModelClosed: after :meth:`close`.
        """
        dtype, empty = _DTYPES[self.dtype], self.make_prefix()
        return self._runner.call(
            lambda: cachefile.read(checked_path(path), empty, self._fingerprint, config=self.config, dtype=dtype)
        )

    @functools.cached_property
    def _fingerprint(self) -> str:
        return cachefile.model_fingerprint(self.directory, self.dtype, self.kv_bits)

    def ask(self, prompt: str, **options: Unpack[RequestOptions]) -> Reply:
        """Answers one question: :meth:`stream` to its end.

        Example:
            >>> model.ask("What is 2+3?", regex="[0-9]", effort="low").text in "0123456789"
            True
        """
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
        """Answers one question, event by event. The arguments are those of :meth:`chat` and of ``Chat.stream``.

        Example:
            >>> with model.stream("What is 2+3?", effort="low") as stream:
            ...     *others, last = [event.type for event in stream]
            >>> last, set(others) <= {"progress", "thinking", "text"}
            ('done', True)
        """
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

        Example:
            >>> chat = model.chat(instructions="Be terse.", effort="low")
            >>> chat.send("What is 2+3?").text == chat.messages[-1].text
            True
        """
        from ..chat.chat import Chat

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

        Example:
            >>> model.chat(instructions="Be terse.").save(directory / "terse.json")
            >>> model.load_chat(directory / "terse.json").instructions
            'Be terse.'
        """
        from ..chat.chat import Chat

        return Chat.load(self, path, tools=tools, keep_readable=keep_readable)

    def close(self) -> None:
        """Stops what runs and frees the memory. May be called twice.

        Example:
            >>> again = load("demo")
            >>> again.close()
            >>> again.ask("Who are you?")
            Traceback (most recent call last):
            gptoss_mlx.errors.ModelClosed: the model was closed; load it again
        """
        self._runner.close()

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
        return self._runner.generate(
            prompt,
            prefix,
            sampling,
            stop_tokens=self.stop_tokens,
            control_tokens=self.tokenizer.special.values(),
            boundaries=boundaries,
            guide=guide,
            logprobs=logprobs,
        )

    def _fork_prefix(self, prefix: PrefixCache) -> PrefixCache:
        """A copy of a prefix, made where nothing changes it meanwhile."""
        return self._runner.call(prefix.fork)

    def _compute_ahead(self, tokens: list[int], prefix: PrefixCache, boundaries: Sequence[int]) -> None:
        self._runner.compute_ahead(tokens, prefix, boundaries)


def _check_dtype(dtype: object) -> None:
    if dtype not in tuple(_DTYPES):
        raise InvalidRequest(f"dtype is {short_repr(dtype)}; {' or '.join(_DTYPES)} is needed")


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
        raise CheckpointError(
            f"{path}: eos_token_id is {short_repr(stated)}; a token id or a list of them is needed"
        )
    return frozenset(stated) | required
