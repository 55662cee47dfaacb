"""The one thread that owns MLX.

MLX's streams and random state belong to a thread, so loading, prefill and decode all happen in this one. Jobs run
to their end in the order they came; idle work runs between them and stops when one comes. A job may take the jobs
behind it that join it, and run them beside its own work.

MLX must be left in order: a thread that computed destroys its streams before it ends, and no thread may still
compute when the interpreter is torn down. So at exit running jobs are cancelled first, then their threads are
joined.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import mlx.core as mx

from ..errors import InvalidRequest, ModelClosed, ProcessForked
from ..memory.metal import clear_frames

__all__ = ["Job", "Worker", "check_process"]

Result = TypeVar("Result")
_CLOSING_SECONDS: Final = 5.0  # that closing waits for a job that cannot be cancelled


class Worker:
    """Runs jobs one after another in a thread of its own, until closed or garbage collected. No job ends the
    thread.

    Raises:
        ProcessForked: this process was forked from one that uses MLX.
    """

    def __init__(self) -> None:
        global _user
        if _ending:
            raise ModelClosed("the program is ending; no model can be loaded")
        check_process()
        _user = os.getpid()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._unfinished: set[Future[Any]] = set()
        self._thread = _Thread()
        # The thread has no reference to its worker, so a worker that is garbage collected ends its thread.
        self._end = weakref.finalize(self, self._thread.end)
        self._end.atexit = False  # _end_all does more
        self._thread.start()

    def submit(
        self, work: Callable[[], Result], cancel: Callable[[], None] = lambda: None, joins: Joining | None = None
    ) -> Future[Result]:
        """Queues a job; its result or its exception is the future's.

        Args:
            work: runs in the thread.
            cancel: makes a queued or running job end soon; called when the worker is closed and at exit.
            joins: returned by :meth:`next_joining` to a running job, which then does it in place of ``work``. It
                gets the job's future.

        Raises:
            InvalidRequest: called from a job, which would wait for itself.
            ModelClosed: the worker was closed.
            ProcessForked: this process was forked from the one that uses MLX.
        """
        check_process()
        if threading.current_thread() is self._thread:
            raise InvalidRequest(
                "a guide or logits_processor made a request of the model that waits for it; "
                "use another model there"
            )
        future: Future[Result] = Future()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self.closed:
                raise ModelClosed("the model was closed; load it again")
            if joins is not None:
                joins.future = future
            self._unfinished.add(future)
            future.add_done_callback(self._unfinished.discard)
            self._thread.request(Job(work=work, future=future, cancel=cancel, joins=joins))
        return future

    def next_joining(self) -> Job | None:
        """The next queued job if it joins the one that runs. It is taken from the queue; the caller completes its
        future and calls :meth:`finished` with its ``cancel``. Called from a running job."""
        return self._thread.next_joining()

    def finished(self, cancel: Callable[[], None]) -> None:
        """Ends what :meth:`next_joining` began: the job need not be cancelled any more."""
        self._thread.finished(cancel)

    def fail(self, error: BaseException) -> None:
        """Ends every job with an error, now and later: the thread waits in MLX for what will never come. From any
        thread."""
        with self._lock:
            self._failure = error
            unfinished = tuple(self._unfinished)
        for future in unfinished:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)

    def submit_idle(self, work: Callable[[], bool]) -> None:
        """Calls ``work`` again and again, until it returns False or a request comes.

        Its exceptions end it and are not reported: nobody waits for it, and a request that needs the same meets
        the same error.
        """
        thread = self._thread

        def fill() -> None:
            while not thread.wanted and work():
                pass

        with self._lock:
            if not self.closed:
                thread.jobs.put(Job(work=fill, future=Future(), idle=True))

    @property
    def wanted(self) -> bool:
        """Whether a request waits, or the thread is to end: idle work stops then. Called from idle work."""
        return self._thread.wanted

    def close(self, timeout: float = _CLOSING_SECONDS) -> None:
        """Cancels what runs and what is queued, and ends the thread."""
        with self._lock:
            self._end()
        self._thread.cancel()
        if threading.current_thread() is not self._thread and self._failure is None:
            self._thread.join(timeout)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._end.alive


class Joining(Protocol):
    """Work that may be done beside that of another job."""

    future: Future[Any] | None
    """Completed when it is done, by whoever does it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """Work for the thread."""

    work: Callable[[], Any]
    future: Future[Any]
    cancel: Callable[[], None] = lambda: None
    joins: Joining | None = None
    idle: bool = False
    """Whether it is dropped when a request comes before its turn."""


class _Thread(threading.Thread):
    """The thread of a worker, and its queue of jobs."""

    def __init__(self) -> None:
        super().__init__(name="gptoss-mlx", daemon=True)
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._looked_at: list[Job | None] = []  # taken from the queue, but not begun
        self._lock = threading.Lock()
        self._requests = 0
        self._cancels: set[Callable[[], None]] = set()
        self._ending = False

    def request(self, job: Job) -> None:
        """Queues a job that idle work stops for."""
        with self._lock:
            self._requests += 1
            self._cancels.add(job.cancel)
        self.jobs.put(job)

    def next_joining(self) -> Job | None:
        """See :meth:`Worker.next_joining`. Nothing passes a job that does not join."""
        while True:
            if not self._looked_at:
                if self.jobs.empty():
                    return None
                self._looked_at.append(self.jobs.get())
            job = self._looked_at[0]
            if job is None or not (job.joins or (job.idle and self.wanted)):
                return None
            self._looked_at.clear()
            if job.joins:
                self._begun()
                return job

    def finished(self, cancel: Callable[[], None]) -> None:
        """Notes that a job need not be cancelled any more."""
        with self._lock:
            self._cancels.discard(cancel)

    def cancel(self) -> None:
        """Makes the running jobs and the queued ones end soon."""
        with self._lock:
            cancels = tuple(self._cancels)
        for cancel in cancels:
            cancel()

    def end(self) -> None:
        """Ends after the jobs that are queued. Takes no lock, because the garbage collector may call it
        anywhere."""
        self._ending = True
        self.jobs.put(None)

    @property
    def wanted(self) -> bool:
        """Whether idle work is to stop."""
        return self._requests > 0 or self._ending

    def run(self) -> None:
        """Runs the jobs; called in the thread."""
        while (job := self._looked_at.pop() if self._looked_at else self.jobs.get()) is not None:
            if not job.idle:
                self._begun()
            _fulfil(job.future, job.work)
            self.finished(job.cancel)
            del job  # A finished job must not keep what it computed alive.
        # Asked for by MLX of every thread that computed; without it the process may abort at exit.
        mx.clear_streams()

    def _begun(self) -> None:
        with self._lock:
            self._requests -= 1


def _fulfil(future: Future[Result], job: Callable[[], Result]) -> None:
    """Runs a job, unless the worker has failed; its result or exception becomes the future's."""
    if future.done():
        return
    with contextlib.suppress(InvalidStateError):  # Worker.fail was first
        try:
            result = job()
        except BaseException as error:
            clear_frames(error)
            future.set_exception(error)
        else:
            future.set_result(result)
    # An exception has this frame, which must not have the exception.
    del future, job


def check_process() -> None:
    """Refuses to use MLX in a forked child of a process that used it: the child's copy of MLX has no threads.

    Raises:
        ProcessForked: this is such a child.
    """
    if _user not in (None, os.getpid()):
        raise ProcessForked(
            "a model was loaded before this process was forked, and MLX does not work in the fork; "
            "start processes with multiprocessing.get_context('spawn')"
        )


_user: int | None = None
"""The process that uses MLX, once there is a worker."""


_ending = False


@atexit.register
def _end_all() -> None:
    """Leaves no thread in MLX when the interpreter is torn down."""
    global _ending
    _ending = True
    threads = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    for thread in threads:
        thread.end()
        thread.cancel()
    for thread in threads:
        thread.join()
