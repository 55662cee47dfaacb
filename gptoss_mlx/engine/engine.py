"""A loaded model: its files, its runner, and requests in tokens.

Knows tokens, memory and caches; knows nothing of conversations, which are ``GptOss``'s in ``api``.
"""

from __future__ import annotations

import functools
import logging
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import mlx.core as mx

from ..arguments import (
    DEFAULT_PARALLEL,
    MAX_PARALLEL,
    checked_flag,
    checked_hook,
    checked_integer,
    checked_path,
    checked_tokens,
)
from ..cache import file as cache_file
from ..cache.layered import check_kv_bits
from ..checkpoint.tensors import open_model
from ..config import ModelConfig
from ..distributed.group import join
from ..errors import CheckpointError, InvalidRequest, MachineLost
from ..files.read import read_json, short_repr
from ..memory.budget import Budget
from ..memory.device import DeviceInfo
from ..memory.metal import MLX_MEMORY, MemorySettings
from ..model.transformer import Transformer, load_transformer
from ..sampling import SamplingParams, checked_sampling
from ..share import Split
from ..tokenizer import Tokenizer
from .generate import LogitsProcessor, Steering
from .generation import Generation
from .group import Team
from .runner import ModelRunner

__all__ = ["DTypeName", "Engine"]

_LOGGER: Final = logging.getLogger(__name__)
# A library stays silent unless the program asks for its messages.
logging.getLogger("gptoss_mlx").addHandler(logging.NullHandler())
DTypeName: TypeAlias = Literal["bfloat16", "float32"]
_DTYPES: Final = {"bfloat16": mx.bfloat16, "float32": mx.float32}
# Used beside those that generation_config.json names: return, call, endoftext.
_STOP_NAMES: Final = ("<|return|>", "<|call|>", "<|endoftext|>")


class Engine:
    """A loaded model that turns tokens into tokens.

    Any number of threads may make requests. They begin in the order they came, and up to ``parallel`` of them run
    together, which reads the weights once for all of them. One for which the memory does not suffice beside the
    others waits. Whatever a request computes stays in one store of prompt caches, and every later request finds
    the longest beginning of its prompt there.

    Args:
        directory: of the checkpoint.
        dtype: of everything that is not packed; None takes bfloat16 on a GPU, and float32 on a CPU where it fits.
        name: the user's name for it.
        kv_bits: 8, or None to keep keys and values unquantised.
        context: the most positions of a conversation.
        max_cache_bytes: the most that all prompt caches together may take.
        adapter: the directory of a LoRA adapter of attention and routers.
        compiled: whether MLX compiles what it can fuse; by default on a GPU only, because on a CPU it needs a C++
            compiler for that. The results are the same to rounding.
        split: how the machines that ``mlx.launch`` has started divide the model: ``pipeline`` or ``tensor``. The
            first of them gets the model; on the others this takes part until the first one closes it, and then
            raises SystemExit. A process that is alone ignores it, unless ``adapter`` is given too.
        parallel: the most requests that run together, 1 to 32.
        device: the machine; by default this one.
        memory: settings that are held while the model is loaded.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another kind of model.
        NotEnoughMemory: it does not fit this machine; the message has the figures and the remedy.
        InvalidRequest: an unknown dtype, ``kv_bits`` or ``split``, a length out of range, or machines that
            differ in their versions, checkpoints or settings.
        MachineLost: a machine of the group does not come, or cannot load its share.
        ProcessForked: this process was forked from one that uses a model.

    Example:
        >>> with Engine(model.directory, context=2048) as engine:
        ...     prompt = engine.tokenizer.encode("Once upon a time")
        ...     tokens = list(engine.generate(prompt, SamplingParams(max_tokens=3)))
        >>> len(tokens) <= 3, engine.name, engine.context_limit
        (True, 'checkpoint', 2048)
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        dtype: DTypeName | None = None,
        name: str | None = None,
        kv_bits: int | None = None,
        context: int | None = None,
        max_cache_bytes: int | None = None,
        adapter: str | Path | None = None,
        compiled: bool | None = None,
        split: Split | None = None,
        parallel: int = DEFAULT_PARALLEL,
        device: DeviceInfo | None = None,
        memory: MemorySettings = MLX_MEMORY,
    ) -> None:
        if dtype is not None and dtype not in tuple(_DTYPES):
            raise InvalidRequest(f"dtype is {short_repr(dtype)}; {' or '.join(_DTYPES)} is needed")
        if split is not None and split not in get_args(Split):
            raise InvalidRequest(f"split is {short_repr(split)}; {' or '.join(get_args(Split))} is needed")
        checked_integer("parallel", parallel, 1, MAX_PARALLEL)
        group = None if split is None else join()
        self.directory = checked_path(directory)
        self.name = name or self.directory.name
        self.adapter = None if adapter is None else checked_path(adapter)
        if adapter is not None and split is not None:
            command = shlex.join(["gptoss", "convert", str(self.directory), "--adapter", str(self.adapter)])
            raise InvalidRequest(f"adapter: several machines compute none; merge it: {command}")
        self.kv_bits = kv_bits
        self.config = open_model(self.directory).config
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
            element_bytes=4,
            kv_bits=kv_bits,
            context=context,
            max_cache_bytes=max_cache_bytes,
            source=self.directory,
        )
        team = None
        if group is not None and split is not None:
            checkpoint = cache_file.model_fingerprint(self.directory, "", None)[:16]
            facts = _facts(budget, dtype, split, parallel) | {"the checkpoint": checkpoint}
            team, budget = Team.form(group, split, facts, budget)
            dtype = group.decided(lambda: dtype or _default_dtype(budget))
        self.dtype: DTypeName = dtype or _default_dtype(budget)
        """Of everything that is not packed."""
        budget = budget.of_elements(_DTYPES[self.dtype].size)
        load = functools.partial(
            load_transformer,
            self.directory,
            _DTYPES[self.dtype],
            adapter=self.adapter,
            compiled=compiled,
            peers=None if team is None else team.peers,
        )
        if team is not None and not team.leads:
            memory.hold(budget.device)
            team.follow(load, budget, parallel)
        self._runner = ModelRunner(lambda cancelled: load(cancelled=cancelled), budget, memory, team, parallel)
        _LOGGER.debug("loaded %s in %s, context %d", self.name, self.dtype, self.context_limit)

    @property
    def budget(self) -> Budget:
        """What it may use of the machine."""
        return self._runner.budget

    @property
    def context_limit(self) -> int:
        """The most positions of a conversation, its answer included: the model's own limit, ``context``, or what
        the memory allows, whichever is least."""
        return self.budget.positions

    @property
    def parallel(self) -> int:
        """The most requests that run together.

        Example:
            >>> model.parallel
            4
        """
        return self._runner.parallel

    @property
    def transformer(self) -> Transformer:
        """The ``mlx.nn.Module``: tokens [B, L] -> logits [B, L, V].

        May be called from any thread while no request runs, with a cache made in that thread.

        Raises:
            ModelClosed: after :meth:`close`.
            ProcessForked: in a forked child.

        Example:
            >>> import mlx.core as mx
            >>> logits = model.transformer(mx.array([model.tokenizer.encode("2+3")]))
            >>> logits.shape[-1] == model.config.vocab_size
            True
        """
        return self._runner.transformer

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingParams | None = None,
        *,
        boundaries: Sequence[int] = (),
        guide: Steering | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        logits_processor: LogitsProcessor | None = None,
    ) -> Generation:
        """Generates tokens after a prompt; only what no request before it has computed is computed.

        Args:
            tokens: the prompt.
            sampling: how to choose; by default as OpenAI recommends. ``stop`` is for text and not used here.
            boundaries: positions of the prompt where a later prompt may part from it, ascending.
            guide: says before each token what may come next.
            logprobs: whether the generation has log-probabilities.
            top_logprobs: for how many of the most likely tokens it has them too, 0 to 20.
            logits_processor: changes the logits before each token is sampled, as in mlx-lm: is called with the
                tokens so far [N] and the logits [1, V], in the model's thread, and returns logits [1, V]. With a
                guide it is not asked about tokens that have no alternative.

        Returns:
            An iterator of token ids; the last one is the stop token, unless the length ended it.

        Raises:
            InvalidRequest: an empty or too long prompt, or a token out of range.
            ModelClosed: after :meth:`close`.
            NotEnoughMemory: the prompt does not fit the memory; from the iterator: it ran out.
            MachineLost: from the iterator: a machine of the group is lost.
            CheckpointError: from the iterator: the model computed NaN or infinity, its weights are broken.

        Example:
            >>> prompt, brief = model.tokenizer.encode("Once upon a time"), SamplingParams(seed=1, max_tokens=3)
            >>> first = list(model.generate(prompt, brief))
            >>> again = model.generate(prompt, brief)
            >>> list(again) == first, again.cached_tokens == len(prompt) - 1
            (True, True)
        """
        return self._runner.generate(
            checked_tokens(tokens),
            checked_sampling(sampling),
            stop_tokens=self.stop_tokens,
            control_tokens=self.tokenizer.special.values(),
            boundaries=_checked_boundaries(boundaries),
            guide=guide,
            logprobs=checked_flag("logprobs", logprobs),
            top_logprobs=checked_integer("top_logprobs", top_logprobs, 0, 20),
            logits_processor=checked_hook("logits_processor", logits_processor),
        )

    def prefill(self, tokens: Sequence[int], *, boundaries: Sequence[int] = ()) -> int:
        """Computes a prompt now, so that later requests that begin with it need not. Waits its turn.

        Args:
            tokens: the prompt.
            boundaries: as in :meth:`generate`.

        Returns:
            How many of the tokens were computed; the others were cached already.

        Raises:
            InvalidRequest, ModelClosed: as :meth:`generate`.

        Example:
            >>> document = model.tokenizer.encode("All happy families are alike.")
            >>> model.prefill(document) == len(document), model.prefill(document)
            (True, 0)
        """
        reading = self._begin_prefill(tokens, boundaries=boundaries)
        try:
            return reading._computed()
        finally:
            reading.cancel()

    def _begin_prefill(self, tokens: Sequence[int], *, boundaries: Sequence[int] = ()) -> Generation:
        """Queues what :meth:`prefill` waits for; dropping or cancelling it stops the work."""
        return self._runner.prefill(checked_tokens(tokens), _checked_boundaries(boundaries))

    def prefill_when_idle(self, tokens: Sequence[int], *, boundaries: Sequence[int] = ()) -> None:
        """Computes a prompt while no request waits, and returns at once. Like a request, it evicts the least
        recently used prompt caches where it needs their memory. A prompt too long for the context is left out.

        Example:
            >>> model.prefill_when_idle(model.tokenizer.encode("Every unhappy family"))
        """
        self._runner.prefill_when_idle(checked_tokens(tokens), _checked_boundaries(boundaries))

    def cached_length(self, tokens: Sequence[int]) -> int:
        """How many tokens of a prompt a request would not have to compute. The last one is always computed,
        because its logits are needed.

        Example:
            >>> prompt = model.tokenizer.encode("It was the best of times")
            >>> model.prefill(prompt) > 0, model.cached_length(prompt) == len(prompt) - 1
            (True, True)
        """
        return self._runner.store.cached_length(checked_tokens(tokens))

    def clear_caches(self) -> None:
        """Frees the memory of all prompt caches. Waits its turn.

        Example:
            >>> model.clear_caches()
            >>> model.cached_length(model.tokenizer.encode("Once upon a time"))
            0
        """
        self._runner.call(self._runner.store.clear)

    def save_cache(self, path: str | Path, tokens: Sequence[int]) -> None:
        """Writes the prompt cache that reaches furthest into a prompt to a file (safetensors, readable by its
        owner alone): about 25 kB a position for the 20b, and up to 128 MB of snapshots.

        Raises:
            FileWriteError, NotEnoughDisk: it cannot be written; the previous content, if any, is unchanged.
            InvalidRequest: nothing of the prompt is computed, or several machines have the cache.
            ModelClosed: after :meth:`close`.

        Example:
            >>> prompt = model.tokenizer.encode("Call me Ishmael.")
            >>> model.prefill(prompt) > 0
            True
            >>> model.save_cache(directory / "prompt.cache", prompt)
            >>> model.clear_caches()
            >>> model.load_cache(directory / "prompt.cache")
            >>> model.prefill(prompt)
            0
        """
        target, prompt = checked_path(path), checked_tokens(tokens)

        def save() -> None:
            entry = self._runner.store.furthest(prompt)
            if entry is None:
                raise InvalidRequest("nothing of this prompt is computed; call prefill() first")
            cache_file.write(target, entry, self._fingerprint)

        self._runner.call(save)

    def load_cache(self, path: str | Path) -> None:
        """Adds a prompt cache that :meth:`save_cache` wrote, in this process or another; others are evicted for it
        as for any request. One that is in memory already is not read again.

        Raises:
            CacheFileError: the file cannot be read, is damaged, of another version or of another model, or holds
                more than all prompt caches together may.
            InvalidRequest: several machines compute the model.
            ModelClosed: after :meth:`close`.
        """
        source = checked_path(path)

        def load() -> None:
            store, limit = self._runner.store, self.budget.cache_limit
            loaded = cache_file.read(
                source,
                self._fingerprint,
                config=self.config,
                kv_bits=self.kv_bits,
                dtype=_DTYPES[self.dtype],
                limit=limit,
                admit=lambda tokens, size: store.admit(tokens, size, limit),
            )
            if loaded is not None:
                store.adopt(loaded.cache, loaded.tokens, loaded.snapshots)

        self._runner.call(load)

    def when_lost(self, call: Callable[[MachineLost], None]) -> None:
        """Sets what is called when a machine that computes the model with this one is lost, from any thread. Every
        request then ends with the same error.

        Example:
            >>> model.when_lost(print)
        """
        self._runner.when_lost = call

    def close(self) -> None:
        """Stops what runs and frees the memory. May be called twice.

        Example:
            >>> again = gptoss.load("demo")
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

    @functools.cached_property
    def _fingerprint(self) -> str:
        return cache_file.model_fingerprint(self.directory, self.dtype, self.kv_bits, self.adapter)


def _facts(budget: Budget, dtype: DTypeName | None, split: Split, parallel: int) -> dict[str, Any]:
    """What has to be the same on all machines of a group, by the name that an error gives it."""
    return {
        "the version of gptoss-mlx": version("gptoss-mlx"),
        "split": split,
        "dtype": dtype,
        "kv_bits": budget.kv_bits,
        "context": budget.context,
        "max_cache_bytes": budget.max_cache_bytes,
        "parallel": parallel,
    }


def _default_dtype(budget: Budget) -> DTypeName:
    """bfloat16 on a GPU; on a CPU float32, which computes faster there, where it fits.

    Args:
        budget: of float32.
    """
    return "float32" if mx.default_device() == mx.cpu and budget.fits else "bfloat16"


def _checked_boundaries(boundaries: object) -> list[int]:
    if isinstance(boundaries, str) or not isinstance(boundaries, Sequence):
        raise InvalidRequest(f"boundaries is {short_repr(boundaries)}; a list of positions is needed")
    return [checked_integer(f"boundaries[{n}]", position, 0) for n, position in enumerate(boundaries)]


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
