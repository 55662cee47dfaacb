"""The engines that are measured: this library and mlx-lm, each as its users run it.

Both decode after a prompt, follow a fixed chat, and build the graph of one step. An engine must be used in the
thread that created it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

import mlx.core as mx

from ..api import GptOss
from ..cache.layered import PromptCache
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from ..share import Split
from .conversation import RecordedReply

__all__ = ["Engine", "EngineChat", "GptOssEngine", "MlxLmEngine", "decode_step", "peer_decode_step"]

_ROWS: Final = 8
"""The most rows that are measured."""


class EngineChat(Protocol):
    """A conversation that follows the recorded chat."""

    def reply(self, recorded: RecordedReply) -> tuple[float, int]:
        """Requests a reply, and continues with the recorded one.

        Returns:
            Seconds to the first token, and the number of prompt tokens that had to be computed.
        """
        ...


class Engine(Protocol):
    """A loaded model."""

    name: str
    version: str
    load_seconds: float
    weight_bytes: int
    """Memory allocated by loading."""
    parallel: int
    """The most rows that decode together."""

    def generate(self, prompt: list[int], count: int) -> Iterator[int]:
        """Decodes ``count`` tokens greedily after a prompt, with an empty cache; no token stops it."""
        ...

    def decode_rows(self, prompts: list[list[int]], count: int) -> float:
        """Decodes ``count`` tokens greedily after each of a few prompts, together; the prompts are not measured.

        Returns:
            Seconds for a token, of all rows together.
        """
        ...

    def chat(self) -> EngineChat:
        """Starts a conversation with an empty cache."""
        ...

    def decode_step(self, prompt: list[int]) -> Callable[[], list[mx.array]]:
        """See :func:`decode_step`."""
        ...

    def close(self) -> None:
        """Frees the memory."""
        ...


class GptOssEngine:
    """This library.

    Args:
        directory: the checkpoint.
        split: how several machines divide it; see ``load``.
    """

    name = "gptoss-mlx"

    def __init__(self, directory: Path, split: Split | None = None) -> None:
        self.version = metadata.version("gptoss-mlx")
        before, began = mx.get_active_memory(), time.perf_counter()
        self.model = GptOss(directory, split=split, parallel=_ROWS)
        self.parallel = self.model.parallel
        self._split = split
        self.load_seconds = time.perf_counter() - began
        self.weight_bytes = mx.get_active_memory() - before
        self.model.stop_tokens = frozenset()  # every token of a count is generated

    def generate(self, prompt: list[int], count: int) -> Iterator[int]:
        """See :class:`Engine`."""
        self.model.clear_caches()
        yield from self.model.generate(prompt, SamplingParams(temperature=0, max_tokens=count))

    def decode_rows(self, prompts: list[list[int]], count: int) -> float:
        """See :class:`Engine`."""
        self.model.clear_caches()
        for prompt in prompts:
            self.model.prefill(prompt)
        began = time.perf_counter()
        sampling = SamplingParams(temperature=0, max_tokens=count)
        rows = [self.model.generate(prompt, sampling) for prompt in prompts]
        decoded = sum(1 for row in rows for _ in row)
        return (time.perf_counter() - began) / decoded

    def chat(self, *, idle: bool = True) -> EngineChat:
        """See :class:`Engine`.

        Args:
            idle: whether there is time between the turns, in which the history is computed, as when a user reads.
        """
        return _GptOssChat(self.model, idle=idle)

    def decode_step(self, prompt: list[int]) -> Callable[[], list[mx.array]]:
        """See :func:`decode_step`."""
        # No machine of several has the graph of a whole step.
        return decode_step(self.model.transformer, prompt) if self._split is None else list

    def close(self) -> None:
        """See :class:`Engine`."""
        self.model.close()


class _GptOssChat:
    """The requests that a chat makes of its engine, for replies that are known beforehand."""

    def __init__(self, model: GptOss, *, idle: bool) -> None:
        self._model = model
        self._idle = idle
        model.clear_caches()

    def reply(self, recorded: RecordedReply) -> tuple[float, int]:
        model, one = self._model, SamplingParams(temperature=0, max_tokens=1)
        began = time.perf_counter()
        generation = model.generate(recorded.prompt, one, boundaries=recorded.boundaries)
        for _ in generation:
            pass
        seconds = time.perf_counter() - began
        model.prefill([*recorded.prompt, *recorded.tokens])
        if recorded.history is not None and self._idle:
            model.prefill(recorded.history, boundaries=recorded.history_boundaries)
        return seconds, len(recorded.prompt) - generation.cached_tokens


class MlxLmEngine:
    """mlx-lm, used as its own server uses it.

    Args:
        directory: a checkpoint in mlx-lm's layout.
    """

    name = "mlx-lm"
    parallel = _ROWS

    def __init__(self, directory: Path) -> None:
        from mlx_lm.utils import load_model

        self.version = metadata.version("mlx-lm")
        before, began = mx.get_active_memory(), time.perf_counter()
        self._model: Any = load_model(directory)[0]
        self.load_seconds = time.perf_counter() - began
        self.weight_bytes = mx.get_active_memory() - before

    def generate(self, prompt: list[int], count: int) -> Iterator[int]:
        """See :class:`Engine`."""
        from mlx_lm.generate import generate_step

        for token, _ in generate_step(mx.array(prompt), self._model, max_tokens=count):
            yield int(token)

    def decode_rows(self, prompts: list[list[int]], count: int) -> float:
        """See :class:`Engine`."""
        from mlx_lm.generate import BatchGenerator

        generator: Any = BatchGenerator(self._model, max_tokens=count)
        generator.insert(prompts)
        first: set[int] = set()
        while len(first) < len(prompts):
            first |= {response.uid for response in generator.next()[1]}
        began, decoded, ended = time.perf_counter(), 0, False
        while not ended:
            responses = generator.next()[1]
            decoded += len(responses)
            ended = any(response.finish_reason for response in responses)
        seconds = time.perf_counter() - began
        generator.close()
        return seconds / decoded

    def chat(self) -> EngineChat:
        """See :class:`Engine`."""
        return _MlxLmChat(self._model)

    def decode_step(self, prompt: list[int]) -> Callable[[], list[mx.array]]:
        """See :func:`decode_step`."""
        return peer_decode_step(self._model, prompt)

    def close(self) -> None:
        """See :class:`Engine`."""
        self._model = None
        mx.clear_cache()


class _MlxLmChat:
    """The prompt cache of mlx-lm's server: an entry at the end of the system prompt and one after each reply.

    If the prompt parts from an entry, the entry is trimmed if its layers allow that; else a shorter one is used.
    """

    def __init__(self, model: Any) -> None:
        from mlx_lm.models.cache import LRUPromptCache

        self._model = model
        self._entries: Any = LRUPromptCache()

    def reply(self, recorded: RecordedReply) -> tuple[float, int]:
        from mlx_lm.generate import generate_step

        prompt = recorded.prompt
        began = time.perf_counter()
        cache, rest = self._entries.fetch_nearest_cache("model", prompt)
        cache = self._model.make_cache() if cache is None else cache
        computed = len(rest)
        if len(prompt) - len(rest) < recorded.prefix:
            rest = self._add_system(recorded, cache, len(prompt) - len(rest))
        # With max_tokens=0 it computes the first token only.
        for _ in generate_step(mx.array(rest), self._model, max_tokens=0, prompt_cache=cache):
            pass
        seconds = time.perf_counter() - began
        _compute(self._model, recorded.tokens, cache)
        self._entries.insert_cache("model", [*prompt, *recorded.tokens], cache)
        return seconds, computed

    def _add_system(self, recorded: RecordedReply, cache: list[Any], cached: int) -> list[int]:
        """Computes and stores the system prompt; returns the rest of the prompt."""
        prefix = recorded.prefix
        _compute(self._model, recorded.prompt[cached:prefix], cache)
        self._entries.insert_cache("model", recorded.prompt[:prefix], copy.deepcopy(cache), cache_type="system")
        return recorded.prompt[prefix:]


def decode_step(
    transformer: Transformer, prompt: list[int], cache: PromptCache | None = None
) -> Callable[[], list[mx.array]]:
    """Computes a prompt except its last token; the last but one by itself, as when decoding.

    Args:
        transformer: the model.
        prompt: its tokens.
        cache: an empty one; by default the model's own kind.

    Returns:
        A function that builds the graph of the last token: logits and caches, not evaluated.
    """
    cache, last = cache or transformer.make_cache(), mx.array([prompt[-1:]])
    for piece in (prompt[:-2], prompt[-2:-1]):
        mx.eval(transformer(mx.array([piece]), cache, last_only=True), cache.arrays())

    def build() -> list[mx.array]:
        # Compiled, as on a GPU, and by itself: the operations may be stand-ins.
        twin = Transformer(transformer.config, compiled=True)
        twin.update(transformer.parameters())  # type: ignore[no-untyped-call]
        return [twin(last, cache), *cache.arrays()]

    return build


def peer_decode_step(model: Any, prompt: list[int]) -> Callable[[], list[mx.array]]:
    """:func:`decode_step` of mlx-lm's model."""
    cache, last = model.make_cache(), mx.array([prompt[-1:]])
    for piece in (prompt[:-2], prompt[-2:-1]):
        _compute(model, piece, cache)
    return lambda: [model(last, cache=cache), *_arrays(cache)]


def _compute(model: Any, tokens: list[int], cache: list[Any]) -> None:
    """Computes tokens into mlx-lm's cache."""
    model(mx.array([tokens]), cache=cache)
    mx.eval(_arrays(cache))


def _arrays(cache: list[Any]) -> list[mx.array]:
    return [array for layer in cache for array in (layer.keys, layer.values)]
