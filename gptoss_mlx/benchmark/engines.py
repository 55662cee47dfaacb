"""What is measured: this library, or mlx-lm, each as its users have it.

Both are asked for the same: tokens after a prompt, the replies of a fixed chat, one step's graph. An engine
belongs to the thread that made it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from ..cache.layered import PromptCache
from ..cache.store import PrefixCache
from ..engine.engine import GptOss
from ..engine.generate import ChunkSize, Request, decode, prefill
from ..engine.sampler import make_sampler
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .conversation import RecordedReply

__all__ = ["Engine", "EngineChat", "GptOssEngine", "MlxLmEngine", "decode_step", "peer_decode_step"]


class EngineChat(Protocol):
    """A conversation that goes as it was recorded."""

    def reply(self, recorded: RecordedReply) -> tuple[float, int]:
        """Asks for a reply and takes the recorded one in its place.

        Returns:
            Seconds to the first token, and how many tokens of the prompt had to be computed for it.
        """
        ...


class Engine(Protocol):
    """A loaded model."""

    name: str
    version: str
    load_seconds: float
    weight_bytes: int
    """Memory taken by loading."""

    def generate(self, prompt: list[int], count: int) -> Iterator[int]:
        """So many tokens after a prompt, greedily, nothing of it cached; no token stops it."""
        ...

    def chat(self) -> EngineChat:
        """A conversation with nothing cached."""
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
        directory: of the checkpoint.
    """

    name = "gptoss-mlx"

    def __init__(self, directory: Path) -> None:
        self.version = metadata.version("gptoss-mlx")
        before, began = mx.get_active_memory(), time.perf_counter()
        self.model = GptOss(directory)
        self.load_seconds = time.perf_counter() - began
        self.weight_bytes = mx.get_active_memory() - before
        self._chunk_size = ChunkSize()

    def generate(self, prompt: list[int], count: int) -> Iterator[int]:
        """See :class:`Engine`."""
        yield from self._generate(prompt, self.model.make_prefix(), count)

    def chat(self, *, idle: bool = True) -> EngineChat:
        """See :class:`Engine`.

        Args:
            idle: whether there is time between the turns, as for a user who reads: the history is computed then.
        """
        return _GptOssChat(self, idle=idle)

    def decode_step(self, prompt: list[int]) -> Callable[[], list[mx.array]]:
        """See :func:`decode_step`."""
        return decode_step(self.model.transformer, prompt)

    def close(self) -> None:
        """See :class:`Engine`."""
        self.model.close()

    def _generate(
        self, prompt: list[int], prefix: PrefixCache, count: int, boundaries: Sequence[int] = ()
    ) -> Iterator[int]:
        request = self._request(boundaries, count)
        prefill(self.model.transformer, prompt, prefix, request, self._chunk_size)
        yield from decode(self.model.transformer, prompt, prefix, request)

    def _extend(self, tokens: list[int], prefix: PrefixCache, boundaries: Sequence[int] = ()) -> None:
        """Brings a prefix up to ``tokens``; one more token, never computed, makes the last of them count."""
        request = self._request((*boundaries, len(tokens)))
        prefill(self.model.transformer, [*tokens, tokens[-1]], prefix, request, self._chunk_size)

    def _request(self, boundaries: Sequence[int], max_tokens: int | None = None) -> Request:
        return Request(
            sampler=make_sampler(SamplingParams(temperature=0)),
            stop_tokens=frozenset(),
            max_tokens=max_tokens,
            max_positions=self.model.config.max_position_embeddings,
            boundaries=tuple(boundaries),
        )


class _GptOssChat:
    """What ``Chat`` does with its prompt cache, for replies that are known beforehand."""

    def __init__(self, engine: GptOssEngine, *, idle: bool) -> None:
        self._engine = engine
        self._prefix = engine.model.make_prefix()
        self._idle = idle

    def reply(self, recorded: RecordedReply) -> tuple[float, int]:
        engine, prefix = self._engine, self._prefix
        began = time.perf_counter()
        computed = len(recorded.prompt) - prefix.known(recorded.prompt)
        for _ in engine._generate(recorded.prompt, prefix, 1, recorded.boundaries):
            pass
        seconds = time.perf_counter() - began
        engine._extend([*recorded.prompt, *recorded.tokens], prefix)
        if recorded.history is not None and self._idle:
            engine._extend(recorded.history, prefix, recorded.history_boundaries)
        return seconds, computed


class MlxLmEngine:
    """mlx-lm, driven as its own server drives it.

    Args:
        directory: of a checkpoint in its layout.
    """

    name = "mlx-lm"

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
    """Its server's prompt cache: an entry at the end of the system prompt and one after each reply; an entry that
    goes on differently is trimmed where its layers can be, otherwise the next shorter one serves."""

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
        # For no tokens it computes the first and does not go on.
        for _ in generate_step(mx.array(rest), self._model, max_tokens=0, prompt_cache=cache):
            pass
        seconds = time.perf_counter() - began
        _compute(self._model, recorded.tokens, cache)
        self._entries.insert_cache("model", [*prompt, *recorded.tokens], cache)
        return seconds, computed

    def _add_system(self, recorded: RecordedReply, cache: list[Any], known: int) -> list[int]:
        """Computes the system prompt and keeps it; gives what is left of the prompt."""
        prefix = recorded.prefix
        _compute(self._model, recorded.prompt[known:prefix], cache)
        self._entries.insert_cache("model", recorded.prompt[:prefix], copy.deepcopy(cache), cache_type="system")
        return recorded.prompt[prefix:]


def decode_step(
    transformer: Transformer, prompt: list[int], cache: PromptCache | None = None
) -> Callable[[], list[mx.array]]:
    """Computes a prompt but for its last token, the last but one by itself, as when decoding.

    Args:
        transformer: the model.
        prompt: its tokens.
        cache: an empty one; by default the model's own kind.

    Returns:
        What makes the graph of the last token: logits and caches, not evaluated.
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
    """Adds tokens to mlx-lm's cache."""
    model(mx.array([tokens]), cache=cache)
    mx.eval(_arrays(cache))


def _arrays(cache: list[Any]) -> list[mx.array]:
    return [array for layer in cache for array in (layer.keys, layer.values)]
