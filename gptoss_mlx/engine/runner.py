"""A loaded transformer and its prompt caches in the thread that owns MLX: a few requests at a time, in the order
they came, and idle work between.

Knows tokens, caches and memory; knows nothing of text or conversations.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import mlx.core as mx

from ..arguments import DEFAULT_PARALLEL
from ..cache.batch import BatchCache
from ..cache.entry import CacheEntry
from ..cache.layered import PromptCache
from ..cache.store import CacheStore, Reservation
from ..errors import InvalidRequest, MachineLost, ModelClosed
from ..memory.budget import Budget
from ..memory.metal import MemorySettings
from ..memory.sizes import full_bytes, window_bytes
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .batch import Batch
from .entries import Entries
from .generate import LogitsProcessor, Request, Steering, check_bias, check_prompt, computing
from .generating import GeneratingRow
from .generation import Generation, TokenChannel
from .group import Team
from .row import Row
from .steps import Steps
from .worker import Worker, check_process

__all__ = ["ModelRunner"]

Result = TypeVar("Result")
Loading: TypeAlias = Callable[[Callable[[], bool]], Transformer]
"""Loads a transformer; stops when its argument returns True."""


class ModelRunner:
    """Any number of threads may use it: requests begin in the order they came, and a few of them run together.

    Args:
        load: called in the worker's thread.
        budget: what it may use of the machine.
        memory: settings that are held until :meth:`close`, or until it is garbage collected.
        team: the machines that compute it together, which this one leads; None if it is alone.
        parallel: the most requests at a time.

    Raises:
        NotEnoughMemory: the model does not fit; nothing was read.
        ProcessForked: see :class:`Worker`. Exceptions of ``load`` pass through too.
    """

    def __init__(
        self,
        load: Loading,
        budget: Budget,
        memory: MemorySettings,
        team: Team | None = None,
        parallel: int = DEFAULT_PARALLEL,
    ) -> None:
        budget.check_load()
        self.budget = budget
        self.parallel = parallel
        """The most requests at a time."""
        self._team = team
        self.when_lost: Callable[[MachineLost], None] = lambda error: None
        """Is called when a machine of the team is lost, from any thread."""
        self._window_bytes = window_bytes(budget.part, budget.element_bytes)
        self._make_cache = functools.partial(PromptCache, budget.part, budget.kv_bits)
        make_store = CacheStore if team is None else team.store
        self.store = make_store(self._make_cache, budget.cache_bytes, self._window_bytes)
        self._worker = Worker()
        self._entries = Entries(self.store, budget, computing if team is None else team.computing)
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
        self._batch = Batch(
            BatchCache(self._make_cache(), parallel),
            parallel,
            functools.partial(_following, self._worker),
            self._entries.keep,
            position_bytes=full_bytes(budget.part, 1, budget.kv_bits, budget.element_bytes),
            window_bytes=self._window_bytes,
        )
        self._steps.pace.beside_rows = self._batch.decodes
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
        request = replace(
            self._reading(channel.cancelled.is_set, channel.report_prefill),
            stop_tokens=stop_tokens,
            max_tokens=sampling.max_tokens,
            guide=guide,
            process=logits_processor,
            on_logprob=channel.report_logprob if logprobs or top_logprobs else None,
            top_logprobs=top_logprobs,
        )
        make_chooser = functools.partial(
            steps.chooser, sampling, control_tokens, changes_logits=logits_processor is not None
        )
        with self._reserved(prompt) as reservation:
            row = GeneratingRow(
                steps,
                prompt,
                boundaries,
                request,
                make_chooser,
                entries=self._entries,
                batch=self._batch,
                channel=channel,
                reservation=reservation,
            )
            return self._queued(lambda: self._batch.run(row), prompt, channel, joins=row)

    def prefill(self, tokens: list[int], boundaries: Sequence[int] = ()) -> Generation:
        """Queues the computation of tokens, without generating any; arguments and errors as in
        :meth:`generate`."""
        steps = self._open_steps()
        check_prompt(tokens, self.budget.config.vocab_size)
        self.budget.check_prompt(len(tokens))
        channel = TokenChannel()

        def job() -> None:
            reservation.end()
            if channel.cancelled.is_set():
                return
            prompt, entry = self._to_the_end(tokens, boundaries, idle=False)
            channel.cached_tokens = len(entry.tokens)
            request = self._reading(channel.cancelled.is_set, channel.report_prefill)
            self._entries.prefill(steps, prompt, entry, request)

        with self._reserved(tokens) as reservation:
            return self._queued(job, tokens, channel)

    def prefill_when_idle(self, tokens: list[int], boundaries: Sequence[int] = ()) -> None:
        """Computes tokens while no request waits; what is not finished is left to the request that needs it."""
        if not tokens or len(tokens) >= self.budget.positions:
            return

        def work() -> bool:
            if self._steps is not None and self.store.cached_length([*tokens, 0]) < len(tokens):
                prompt, entry = self._to_the_end(tokens, boundaries, idle=True)
                request = self._reading(lambda: self._worker.wanted)
                self._entries.prefill(self._steps, prompt, entry, request)
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

    def _queued(
        self, job: Callable[[], None], prompt: list[int], channel: TokenChannel, joins: Row | None = None
    ) -> Generation:
        """Queues the work of a request; see :meth:`Worker.submit`."""
        work = self._worker.submit(job, channel.cancel, joins=joins)
        work.add_done_callback(lambda done: channel.items.put(done.exception()))
        return Generation(prompt, channel)

    @contextlib.contextmanager
    def _reserved(self, prompt: list[int]) -> Iterator[Reservation]:
        """Reserves what a request will use while it is queued. Its turn ends that, or else a refusal does."""
        reservation = self.store.reserve(prompt)
        try:
            yield reservation
        except BaseException:
            reservation.end()
            raise

    def _to_the_end(
        self, tokens: list[int], boundaries: Sequence[int], *, idle: bool
    ) -> tuple[list[int], CacheEntry]:
        """A prompt that is computed up to the last of ``tokens``, and its entry."""
        # Prefill leaves the last token of a prompt out, so there is one more.
        prompt = [*tokens, tokens[-1]]
        # The same tokens as a prompt need the logits of their last one: a snapshot one token earlier serves them.
        entry = self._entries.take(prompt, (*boundaries, len(tokens) - 1), idle=idle)
        assert entry is not None
        return prompt, entry

    def _reading(
        self,
        cancelled: Callable[[], bool],
        on_prefill: Callable[[int, int], None] = lambda done, total: None,
    ) -> Request:
        """A request that only computes a prompt."""
        return Request(
            stop_tokens=frozenset(),
            max_tokens=None,
            max_positions=self.budget.positions,
            cancelled=cancelled,
            on_prefill=on_prefill,
        )

    def _warm_up(self) -> bool:
        """While the user still types."""
        if self._steps is not None:
            self._steps.warm_up(self._make_cache(), lambda: self._worker.wanted)
        return False


def _following(worker: Worker) -> Row | None:
    """The next request in the queue, if it may join those that run."""
    job = worker.next_joining()
    if job is None:
        return None
    cancel = job.cancel
    job.future.add_done_callback(lambda done: worker.finished(cancel))
    assert isinstance(job.joins, Row)
    return job.joins
