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

from .errors import ModelClosed

__all__ = ["Worker"]

Result = TypeVar("Result")
_Job = Callable[[], None]
_PATIENCE = 5.0  # seconds that closing waits for a running job


class Worker:
    """Runs jobs one after another in a thread of its own, until closed."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=_run, args=(self._jobs,), name="gptoss-mlx", daemon=True)
        self._thread.start()
        # The interpreter must not tear MLX down under a running job.
        atexit.register(_close_at_exit, weakref.ref(self))

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """Queues a job.

        Raises:
            ModelClosed: the worker was closed.
        """
        future: Future[Result] = Future()

        def run() -> None:
            with self._lock:
                self._waiting -= 1
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            if self._closed:
                raise ModelClosed("the model was closed; load it again")
            self._waiting += 1
            self._jobs.put(run)
        return future

    def submit_idle(self, work: Callable[[], bool]) -> None:
        """Calls ``work`` again and again, until it returns False or a request comes."""

        def run() -> None:
            while not self._busy() and work():
                pass

        with self._lock:
            if not self._closed:
                self._jobs.put(run)

    def close(self, timeout: float = _PATIENCE) -> None:
        """Ends the thread after the jobs that are queued."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _busy(self) -> bool:
        with self._lock:
            return self._waiting > 0 or self._closed


def _run(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # A finished job must not keep its conversation's cache alive.


def _close_at_exit(reference: weakref.ref[Worker]) -> None:
    worker = reference()
    if worker is not None:
        worker.close()
