"""A loaded transformer and its prompt caches in the thread that owns MLX: requests one after another, idle work
between.

Knows tokens, caches and memory; knows nothing of text or conversations.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Final, TypeAlias, TypeVar

import mlx.core as mx

from ..cache.layered import PromptCache
from ..cache.store import CacheEntry, CacheStore
from ..errors import InvalidRequest, MachineLost, ModelClosed
from ..memory.budget import Budget
from ..memory.metal import MemorySettings
from ..memory.sizes import window_bytes
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .generate import (
    GROWTH,
    LogitsProcessor,
    Request,
    Steering,
    check_bias,
    check_prompt,
    computing,
    decode,
    prefill,
)
from .generation import Generation, TokenChannel
from .group import Team
from .sampler import make_sampler
from .steps import Pace, Steps
from .worker import Worker, check_process

__all__ = ["ModelRunner"]

Result = TypeVar("Result")
_LOGGER: Final = logging.getLogger(__name__)
Loading: TypeAlias = Callable[[Callable[[], bool]], Transformer]
"""Loads a transformer; stops when its argument returns True."""


class ModelRunner:
    """Any number of threads may use it: requests run to their end in the order they came.

    Args:
        load: called in the worker's thread.
        budget: what it may use of the machine.
        memory: settings that are held until :meth:`close`, or until it is garbage collected.
        team: the machines that compute it together, which this one leads; None if it is alone.

    Raises:
        NotEnoughMemory: the model does not fit; nothing was read.
        ProcessForked: see :class:`Worker`. Exceptions of ``load`` pass through too.
    """

    def __init__(self, load: Loading, budget: Budget, memory: MemorySettings, team: Team | None = None) -> None:
        budget.check_load()
        self.budget = budget
        self._team = team
        self.when_lost: Callable[[MachineLost], None] = lambda error: None
        """Is called when a machine of the team is lost, from any thread."""
        snapshot_bytes = window_bytes(budget.part, budget.element_bytes)
        self._make_cache = functools.partial(PromptCache, budget.part, budget.kv_bits)
        make_store = CacheStore if team is None else team.store
        self.store = make_store(self._make_cache, budget.cache_bytes, snapshot_bytes)
        self._worker = Worker()
        self._pace = Pace() if team is None else team.pace
        self._computing = computing if team is None else team.computing
        memory.hold(budget.device)
        # Also of a model that is garbage collected and never closed.
        self._release_memory = weakref.finalize(self, memory.release, budget.device)
        self._release_memory.atexit = False
        self._steps: Steps | None = None
        try:
            stop = threading.Event()
            transformer = self._worker.submit(lambda: load(stop.is_set), stop.set).result()
            self._steps = Steps(transformer) if team is None else team.lead(transformer, self._lose)
        except BaseException:
            self.close()
            raise
        self._worker.submit_idle(self._warm_up)

    @property
    def transformer(self) -> Transformer:
        """The module.

        Raises:
            ModelClosed: after :meth:`close`.
            ProcessForked: in a forked child.
        """
        if self._team is not None:
            raise InvalidRequest("several machines have this transformer; use generate()")
        return self._open_steps().transformer

    def _open_steps(self) -> Steps:
        check_process()
        if self._steps is None:
            raise ModelClosed("the model was closed; load it again")
        return self._steps

    def call(self, job: Callable[[], Result]) -> Result:
        """Runs a job in the thread that owns MLX, when its turn comes, and returns its result.

        Raises:
            ModelClosed: after :meth:`close`. Exceptions of the job pass through too.
        """
        return self._worker.submit(job).result()

    def generate(
        self,
        prompt: list[int],
        sampling: SamplingParams,
        *,
        stop_tokens: frozenset[int],
        control_tokens: Collection[int] = (),
        boundaries: Sequence[int] = (),
        guide: Steering | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        logits_processor: LogitsProcessor | None = None,
    ) -> Generation:
        """Queues a request.

        Args:
            prompt: its tokens.
            sampling: how to choose.
            stop_tokens: those that end it.
            control_tokens: those that a repetition penalty spares.
            boundaries: positions of the prompt to go back to later, ascending.
            guide: says what may come next.
            logprobs: whether the generation has log-probabilities.
            top_logprobs: how many of the most likely tokens it has for each token.
            logits_processor: changes the logits before a token is sampled.

        Raises:
            InvalidRequest: the prompt is empty or too long, or a token is out of range.
            ModelClosed: after :meth:`close`.
        """
        steps = self._open_steps()
        check_prompt(prompt, self.budget.config.vocab_size)
        check_bias(sampling, self.budget.config.vocab_size)
        self.budget.check_prompt(len(prompt))
        channel = TokenChannel()

        def job() -> None:
            entry = self._entry_for(
                prompt, (*boundaries, len(prompt)), room=min(sampling.max_tokens or GROWTH, GROWTH)
            )
            own = steps if logits_processor is None else steps.with_all_logits()
            request = Request(
                sampler=own.sampler(sampling, control_tokens),
                stop_tokens=stop_tokens,
                max_tokens=sampling.max_tokens,
                max_positions=self.budget.positions,
                max_chunk=self.budget.chunk_limit(len(prompt)),
                cancelled=channel.cancelled.is_set,
                on_prefill=channel.report_prefill,
                on_growth=lambda length: self._evict_for(entry, length),
                guide=guide,
                process=logits_processor,
                on_logprob=channel.report_logprob if logprobs or top_logprobs else None,
                top_logprobs=top_logprobs,
            )
            channel.cached_tokens = len(entry.tokens)
            _LOGGER.debug("prefill of %d tokens, %d of them cached", len(prompt), channel.cached_tokens)
            with self._computing(lambda: self.store.evict([entry.number])):
                if prefill(own, prompt, entry, request, self._pace):
                    for token in decode(own, prompt, entry, request):
                        channel.items.put(token)

        return self._submitted(job, prompt, channel)

    def prefill(self, tokens: list[int], boundaries: Sequence[int] = ()) -> Generation:
        """Queues the computation of tokens, without generating any; arguments and errors as in
        :meth:`generate`."""
        steps = self._open_steps()
        check_prompt(tokens, self.budget.config.vocab_size)
        self.budget.check_prompt(len(tokens))
        channel = TokenChannel()

        def job() -> None:
            prompt, entry = self._to_the_end(tokens, boundaries, idle=False)
            channel.cached_tokens = len(entry.tokens)
            request = self._reading(len(tokens), channel.cancelled.is_set, channel.report_prefill)
            with self._computing(lambda: self.store.evict([entry.number])):
                prefill(steps, prompt, entry, request, self._pace)

        return self._submitted(job, tokens, channel)

    def prefill_when_idle(self, tokens: list[int], boundaries: Sequence[int] = ()) -> None:
        """Computes tokens while no request waits; what is not finished is left to the request that needs it."""
        if not tokens or len(tokens) >= self.budget.positions:
            return

        def work() -> bool:
            if self._steps is not None and self.store.cached_length([*tokens, 0]) < len(tokens):
                prompt, entry = self._to_the_end(tokens, boundaries, idle=True)
                request = self._reading(len(tokens), lambda: self._worker.wanted)
                with self._computing(lambda: self.store.evict([entry.number])):
                    prefill(self._steps, prompt, entry, request, self._pace)
            return False

        self._worker.submit_idle(work)

    def _lose(self, error: MachineLost) -> None:
        """Every request ends with the error, and so does each that comes."""
        self._worker.fail(error)
        self.when_lost(error)

    def close(self) -> None:
        """Stops what runs and frees the memory. May be called twice."""
        if self._worker.closed:
            return
        self._worker.close()
        self._steps = None
        if self._team is not None:
            self._team.close()
            if self._team.is_lost:  # MLX may wait for a lost machine without end
                return
        self.store.clear()
        self._release_memory()
        mx.clear_cache()

    def _submitted(self, job: Callable[[], None], prompt: list[int], channel: TokenChannel) -> Generation:
        """Queues the work of a request. Until its turn comes, no other request rewinds the entry it will use."""
        reserved = self.store.reserve(prompt)

        def begin() -> None:
            self.store.release(reserved)
            if not channel.cancelled.is_set():
                job()

        def ended(work: Future[None]) -> None:
            channel.items.put(work.exception())

        self._worker.submit(begin, channel.cancel).add_done_callback(ended)
        return Generation(prompt, channel)

    def _entry_for(
        self, prompt: list[int], boundaries: Sequence[int], *, room: int = 0, idle: bool = False
    ) -> CacheEntry:
        plan = self.store.plan(prompt, boundaries, self.budget.cache_limit, room=room, idle=idle)
        with self._computing(lambda: None):  # a copy may run out of memory; its source stays
            return self.store.carry_out(plan)

    def _to_the_end(
        self, tokens: list[int], boundaries: Sequence[int], *, idle: bool
    ) -> tuple[list[int], CacheEntry]:
        """A prompt that is computed up to the last of ``tokens``, and its entry."""
        # Prefill leaves the last token of a prompt out, so there is one more.
        prompt = [*tokens, tokens[-1]]
        # The same tokens as a prompt need the logits of their last one: a snapshot one token earlier serves them.
        return prompt, self._entry_for(prompt, (*boundaries, len(tokens) - 1), idle=idle)

    def _reading(
        self,
        length: int,
        cancelled: Callable[[], bool],
        on_prefill: Callable[[int, int], None] = lambda done, total: None,
    ) -> Request:
        """A request that only computes a prompt."""
        return Request(
            sampler=make_sampler(SamplingParams(temperature=0)),  # is not used
            stop_tokens=frozenset(),
            max_tokens=None,
            max_positions=self.budget.positions,
            max_chunk=self.budget.chunk_limit(length),
            cancelled=cancelled,
            on_prefill=on_prefill,
        )

    def _evict_for(self, entry: CacheEntry, length: int) -> None:
        self.store.evict(self.store.plan_growth(entry, length, self.budget.cache_limit))

    def _warm_up(self) -> bool:
        """While the user still types."""
        if self._steps is not None:
            self._steps.warm_up(self._make_cache(), self._pace, lambda: self._worker.wanted)
        return False
