"""The one thread that owns MLX.

MLX's streams and random state belong to a thread, so loading, prefill and decode all happen in this one.
Requests run to their end in the order they came; idle work fills the time between them and gives way.
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ..errors import ModelClosed

__all__ = ["Worker"]

Result = TypeVar("Result")
_CLOSING_SECONDS = 5.0  # seconds that closing waits for a running job


class Worker:
    """Runs jobs one after another in a thread of its own, until closed or forgotten. No job ends the thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = _Thread()
        # The thread knows nothing of its worker: one that nobody has any longer takes its thread with it.
        self._end = weakref.finalize(self, self._thread.end)
        self._end.atexit = False  # _end_all does more
        self._thread.start()

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """Queues a job; what it raises is the future's.

        Raises:
            ModelClosed: the worker was closed.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self.closed:
                raise ModelClosed("the model was closed; load it again")
            self._thread.request(lambda: _fulfil(future, job))
        return future

    def submit_idle(self, work: Callable[[], bool]) -> None:
        """Calls ``work`` again and again, until it returns False or a request comes.

        What it raises ends it and is told to nobody: nobody asked for it, and a request that needs the same meets
        the same error.
        """
        thread = self._thread

        def fill() -> None:
            while not thread.wanted and work():
                pass

        with self._lock:
            if not self.closed:
                thread.jobs.put(lambda: _fulfil(Future(), fill))

    def close(self, timeout: float = _CLOSING_SECONDS) -> None:
        """Ends the thread after the jobs that are queued."""
        with self._lock:
            self._end()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._end.alive


class _Thread(threading.Thread):
    """The thread of a worker, and the jobs that wait for it."""

    def __init__(self) -> None:
        super().__init__(name="gptoss-mlx", daemon=True)
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._requests = 0
        self._ending = False

    def request(self, job: Callable[[], None]) -> None:
        """Queues a job that idle work gives way to."""

        def begun() -> None:
            with self._lock:
                self._requests -= 1
            job()

        with self._lock:
            self._requests += 1
        self.jobs.put(begun)

    def end(self) -> None:
        """Ends after the jobs that are queued. Takes no lock: the garbage collector calls it from anywhere."""
        self._ending = True
        self.jobs.put(None)

    @property
    def wanted(self) -> bool:
        """Whether idle work is to give way."""
        return self._requests > 0 or self._ending

    def run(self) -> None:
        """Runs the jobs; called in the thread."""
        while (job := self.jobs.get()) is not None:
            job()
            del job  # A finished job must not keep its conversation's cache alive.


def _fulfil(future: Future[Result], job: Callable[[], Result]) -> None:
    """Runs a job, unless it was cancelled; whatever comes of it is the future's."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


@atexit.register
def _end_all() -> None:
    """The interpreter must not tear MLX down under a running job."""
    threads = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    for thread in threads:
        thread.end()
    for thread in threads:
        thread.join(_CLOSING_SECONDS)
