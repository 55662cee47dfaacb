"""A loaded transformer and its prompt caches in the thread that owns MLX: a few requests at a time, in the order
they came, and idle work between.

Knows tokens, caches and memory; knows nothing of text or conversations.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

import mlx.core as mx

from ..arguments import DEFAULT_PARALLEL
from ..cache.batch import BatchCache
from ..cache.entry import CacheEntry
from ..cache.layered import PromptCache
from ..cache.store import CachePlan, CacheStore
from ..errors import InvalidRequest, MachineLost, ModelClosed
from ..memory.budget import Budget
from ..memory.metal import MemorySettings
from ..memory.sizes import full_bytes, window_bytes
from ..model.transformer import Transformer
from ..sampling import SamplingParams
from .batch import Batch, Row
from .chooser import Chooser
from .generate import (
    GROWTH,
    Decoding,
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
from .steps import Pace, Steps
from .worker import Worker, check_process

__all__ = ["ModelRunner"]

Result = TypeVar("Result")
_LOGGER: Final = logging.getLogger(__name__)
Loading: TypeAlias = Callable[[Callable[[], bool]], Transformer]
"""Loads a transformer; stops when its argument returns True."""
Computing: TypeAlias = Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]]
"""Surrounds a computation; see :func:`computing`."""


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
        self._pace = Pace() if team is None else team.pace
        self._computing: Computing = computing if team is None else team.computing
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
            functools.partial(_keep, self.store, budget, self._computing),
            position_bytes=full_bytes(budget.part, 1, budget.kv_bits, budget.element_bytes),
            window_bytes=self._window_bytes,
        )
        self._pace.beside_rows = self._batch.decodes
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

        def request(row: Row) -> Request:
            return Request(
                stop_tokens=stop_tokens,
                max_tokens=sampling.max_tokens,
                max_positions=self.budget.positions,
                max_chunk=self.budget.chunk_limit(len(prompt)),
                cancelled=channel.cancelled.is_set,
                on_prefill=channel.report_prefill,
                on_pause=self._batch.turn,
                on_growth=lambda length: self._grow(row, length),
                on_token=row.read,
                guide=guide,
                process=logits_processor,
                on_logprob=channel.report_logprob if logprobs or top_logprobs else None,
                top_logprobs=top_logprobs,
            )

        def chooser() -> Chooser:
            return steps.chooser(sampling, control_tokens, changes_logits=logits_processor is not None)

        room = min(sampling.max_tokens or GROWTH, GROWTH)
        with self._reservation(prompt) as reserved:
            row = _GeneratingRow(
                self, steps, prompt, (*boundaries, len(prompt)), room, request, chooser, channel, reserved
            )
            work = self._worker.submit(lambda: self._batch.run(row), channel.cancel, joins=row)
        work.add_done_callback(lambda done: channel.items.put(done.exception()))
        return Generation(prompt, channel)

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
        """Queues the work of a request."""

        def begin() -> None:
            self.store.release(reserved)
            if not channel.cancelled.is_set():
                job()

        with self._reservation(prompt) as reserved:
            work = self._worker.submit(begin, channel.cancel)
        work.add_done_callback(lambda done: channel.items.put(done.exception()))
        return Generation(prompt, channel)

    @contextlib.contextmanager
    def _reservation(self, prompt: list[int]) -> Iterator[CacheEntry | None]:
        """Reserves what a request will use while it is queued: until its turn comes, no other request rewinds that
        entry. Its turn ends the reservation, or else a refusal does."""
        reserved = self.store.reserve(prompt)
        try:
            yield reserved
        except BaseException:
            self.store.release(reserved)
            raise

    def _entry_for(
        self, prompt: list[int], boundaries: Sequence[int], *, room: int = 0, idle: bool = False
    ) -> CacheEntry:
        return self._carried_out(
            self.store.plan(prompt, boundaries, self.budget.cache_limit, room=room, idle=idle)
        )

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
            stop_tokens=frozenset(),
            max_tokens=None,
            max_positions=self.budget.positions,
            max_chunk=self.budget.chunk_limit(length),
            cancelled=cancelled,
            on_prefill=on_prefill,
        )

    def _plan(self, row: Row, prompt: list[int], boundaries: Sequence[int], room: int) -> CachePlan:
        """What a request does that may join others."""
        spare = self._batch.spare_bytes(row, len(prompt) + room)
        return self.store.plan(prompt, boundaries, self.budget.cache_limit - spare, room=room)

    def _carried_out(self, plan: CachePlan) -> CacheEntry:
        with self._computing(lambda: None):  # a copy may run out of memory; its source stays
            return self.store.carry_out(plan)

    def _grow(self, row: Row, length: int) -> None:
        """Makes place for a row that grows: evicts what nobody uses, or else has the youngest row suspended."""
        assert row.entry is not None
        limit = self.budget.cache_limit - self._batch.spare_bytes(row, length)
        evict, fits = self.store.plan_growth(row.entry, length, limit)
        row.grow(length)
        self.store.evict(evict)
        self._batch.crowded |= not fits

    def _warm_up(self) -> bool:
        """While the user still types."""
        if self._steps is not None:
            self._steps.warm_up(self._make_cache(), self._pace, lambda: self._worker.wanted)
        return False


def _following(worker: Worker) -> Row | None:
    """The next request in the queue, if it may join those that run."""
    job = worker.next_joining()
    if job is None:
        return None
    job.future.set_running_or_notify_cancel()
    cancel = job.cancel
    job.future.add_done_callback(lambda done: worker.finished(cancel))
    assert isinstance(job.joins, Row)
    return job.joins


def _keep(store: CacheStore, budget: Budget, computing: Computing, row: Row, unused: int) -> bool:
    """Takes the entry of a row out of its batch; evicts others for it, or itself if that is not enough."""
    entry = row.entry
    assert entry is not None
    evict, fits = store.plan_growth(entry, len(entry.tokens) + 1, budget.cache_limit - unused)
    store.evict(evict if fits else [entry.number])
    if fits:
        with computing(lambda: store.evict([entry.number])):
            row.steps.leave(entry, len(entry.tokens))
    return fits


class _GeneratingRow(Row):
    """A request for tokens.

    Args:
        runner: has the prompt caches.
        steps: see :class:`Row`.
        prompt: its tokens.
        boundaries: positions of the prompt to go back to later, ascending.
        room: tokens after the prompt that there is place for from the beginning.
        request: makes its settings, in the worker's thread.
        chooser: makes who chooses its tokens.
        channel: its reader's.
        reserved: the entry that no other request rewinds until its turn comes.
    """

    def __init__(
        self,
        runner: ModelRunner,
        steps: Steps,
        prompt: list[int],
        boundaries: Sequence[int],
        room: int,
        request: Callable[[Row], Request],
        chooser: Callable[[], Chooser],
        channel: TokenChannel,
        reserved: CacheEntry | None,
    ) -> None:
        super().__init__(steps)
        self._runner = runner
        self._prompt = prompt
        self._boundaries = boundaries
        self._room = room
        self._make_request = request
        self._make_chooser = chooser
        self._channel = channel
        self._request: Request | None = None
        self._reserved = reserved

    @property
    def cancelled(self) -> bool:
        return self._channel.cancelled.is_set()

    @property
    def to_compute(self) -> int:
        return len(self._prompt) - self._runner.store.cached_length(self._prompt)

    def prepare(self, may_wait: bool) -> bool:
        self._runner.store.release(self._reserved)
        self._reserved = None
        if not self.cancelled:
            plan = self._runner._plan(self, self._prompt, self._boundaries, self._room)
            if may_wait and not plan.fits:
                return False
            self._use(plan)
        return True

    def restore(self, may_wait: bool) -> bool:
        assert self._request is not None
        computed, positions = self.known
        tokens = [*computed, 0]
        plan = self._runner._plan(self, tokens, positions, GROWTH)
        if may_wait and not plan.fits:
            return False
        entry = self._use(plan)
        with self._runner._computing(lambda: self._runner.store.evict([entry.number])):
            prefill(self.steps, tokens, entry, self._request, self._runner._pace)
        return True

    def decoded(self) -> Decoding:
        if self.entry is None:
            return  # it was cancelled before its turn
        self._request = self._make_request(self)
        self._channel.cached_tokens = len(self.entry.tokens)
        self.chooser = self._make_chooser()
        _LOGGER.debug("prefill of %d tokens, %d of them cached", len(self._prompt), self._channel.cached_tokens)
        try:
            with self._runner._computing(self._evict):
                if prefill(self.steps, self._prompt, self.entry, self._request, self._runner._pace):
                    yield from decode(self._prompt, self._request, self.chooser)
        finally:
            self.chooser.close()
            self._request = None  # it refers to this row, and so to a model that nobody may need any more

    def read(self, token: int) -> None:
        super().read(token)
        self._channel.items.put(token)

    def _use(self, plan: CachePlan) -> CacheEntry:
        self.entry = self._runner._carried_out(plan)
        self.entry.running = True
        return self.entry

    def _evict(self) -> None:
        if self.entry is not None:
            self._runner.store.evict([self.entry.number])
