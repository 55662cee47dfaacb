"""A loaded transformer in the thread that owns MLX: requests one after another, work ahead of them in between.

Knows tokens, caches and memory, but neither text nor conversations.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import TypeVar

import mlx.core as mx

from ..cache.layered import PromptCache
from ..cache.store import PrefixCache, PrefixPool
from ..errors import ModelClosed
from ..memory.budget import Budget
from ..memory.metal import MemorySettings
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .generate import ChunkSize, Request, Steering, check_prompt, computing, decode, prefill
from .generation import Channel, Generation
from .sampler import make_sampler
from .worker import Worker

__all__ = ["ModelRunner"]

Result = TypeVar("Result")


class ModelRunner:
    """Any number of threads may use it: what they ask for runs to its end in the order they came.

    Args:
        load: gives the transformer; called in the worker's thread.
        budget: what it may use of the machine.
        memory: whose settings hold until :meth:`close`, or as long as it is not forgotten.

    Raises:
        NotEnoughMemory: there is no room for it; nothing was read. What ``load`` raises goes through too.
    """

    def __init__(self, load: Callable[[], Transformer], budget: Budget, memory: MemorySettings) -> None:
        budget.check_load()
        self.budget = budget
        self._worker = Worker()
        self._chunk_size = ChunkSize()
        self._channels: set[Channel] = set()
        self._prefixes = PrefixPool()
        memory.hold(budget.device)
        # Also of a model that is forgotten and never closed.
        self._release_memory = weakref.finalize(self, memory.release, budget.device)
        self._release_memory.atexit = False
        self._transformer: Transformer | None = None
        try:
            self._transformer = self.call(load)
        except BaseException:
            self.close()
            raise
        self._worker.submit_idle(self._warm_up)

    @property
    def transformer(self) -> Transformer:
        """The module.

        Raises:
            ModelClosed: after :meth:`close`.
        """
        if self._transformer is None:
            raise ModelClosed("the model was closed; load it again")
        return self._transformer

    def make_prefix(self) -> PrefixCache:
        """An empty prompt cache that knows its tokens.

        Raises:
            ModelClosed: after :meth:`close`.
        """
        self.transformer  # noqa: B018  (raises if it was closed)
        return PrefixCache(self._make_cache())

    def call(self, job: Callable[[], Result]) -> Result:
        """Waits for a job's turn in the thread that owns MLX, and for its result.

        Raises:
            ModelClosed: after :meth:`close`. What the job raises goes through too.
        """
        return self._worker.submit(job).result()

    def generate(
        self,
        prompt: list[int],
        prefix: PrefixCache,
        sampling: SamplingParams,
        *,
        stop_tokens: frozenset[int],
        control_tokens: Collection[int] = (),
        boundaries: Sequence[int] = (),
        guide: Steering | None = None,
        logprobs: bool = False,
    ) -> Generation:
        """Queues a request.

        Args:
            prompt: its tokens.
            prefix: what is already computed of it; it grows.
            sampling: how to choose.
            stop_tokens: those that end it.
            control_tokens: those that a repetition penalty spares.
            boundaries: positions of the prompt to come back to, ascending.
            guide: says what may come next.
            logprobs: whether the generation has them.

        Raises:
            InvalidRequest: the prompt is empty or too long, or a token is out of range.
            ModelClosed: after :meth:`close`.
        """
        transformer = self.transformer
        check_prompt(prompt, self.budget.config.vocab_size)
        self.budget.check_prompt(len(prompt))
        channel = Channel()

        def job() -> None:
            request = Request(
                sampler=make_sampler(sampling, control_tokens),
                stop_tokens=stop_tokens,
                max_tokens=sampling.max_tokens,
                max_positions=self.budget.positions,
                max_chunk=self.budget.chunk_limit(len(prompt)),
                boundaries=tuple(boundaries),
                cancelled=channel.cancelled.is_set,
                on_prefill=channel.report_prefill,
                on_growth=lambda length: self._make_room(prefix, length),
                guide=guide,
                on_logprob=channel.logprobs.append if logprobs else None,
            )
            channel.cached_tokens = prefix.known(prompt)
            with computing(prefix):
                if prefill(transformer, prompt, prefix, request, self._chunk_size):
                    for token in decode(transformer, prompt, prefix, request):
                        channel.items.put(token)

        def ended(work: Future[None]) -> None:
            self._channels.discard(channel)
            channel.items.put(work.exception())

        self._channels.add(channel)
        self._worker.submit(job).add_done_callback(ended)
        return Generation(prompt, channel)

    def compute_ahead(self, tokens: list[int], prefix: PrefixCache, boundaries: Sequence[int]) -> None:
        """Brings a prefix up to ``tokens`` while nothing else is asked for."""
        if not tokens or len(tokens) >= self.budget.positions:
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
                max_positions=self.budget.positions,
                max_chunk=self.budget.chunk_limit(len(tokens)),
                boundaries=(*boundaries, len(tokens)),
                cancelled=chunk_done.is_set,
                on_prefill=lambda done, total: chunk_done.set() if done else None,
            )
            with computing(prefix):
                return not prefill(transformer, prompt, prefix, request, self._chunk_size)

        self._worker.submit_idle(work)

    def close(self) -> None:
        """Stops what runs and frees the memory. May be called twice."""
        if self._worker.closed:
            return
        for channel in tuple(self._channels):
            channel.cancel()
        self._worker.close()
        self._transformer = None
        self._release_memory()
        mx.clear_cache()

    def _make_room(self, prefix: PrefixCache, length: int) -> None:
        """Before a prefix grows to so many positions."""
        self._prefixes.make_room(prefix, self.budget.cache_bytes(length), self.budget.cache_limit)

    def _make_cache(self) -> PromptCache:
        return PromptCache(self.budget.config, self.budget.kv_bits)

    def _warm_up(self) -> bool:
        """Computes one token and throws it away: reads every weight once and compiles every kernel, while the user
        still types."""
        if self._transformer is not None:
            mx.eval(self._transformer(mx.zeros((1, 1), dtype=mx.int32), self._make_cache(), last_only=True))
        return False
