"""Many questions, answered a few at a time, in the order in which their answers are complete.

Knows streams; knows nothing of models.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..errors import GptOssError
from ..events import Reply
from .stream import Stream

__all__ = ["BatchReply", "answers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReply:
    """The answer to one of many questions.

    Example:
        >>> [answer] = model.batch(["Yes or no?"], choices=["yes"], max_thinking_tokens=0)
        >>> answer.index, answer.reply.text, answer.error, answer.done, answer.total
        (0, 'yes', None, 1, 1)
    """

    index: int
    """Of the question, from 0."""
    reply: Reply | None
    """None if it failed."""
    error: GptOssError | None
    """The reason that there is no reply."""
    done: int
    """Questions that are answered, this one included."""
    total: int
    """All questions."""


def answers(questions: Sequence[Any], ask: Callable[[Any], Stream], most: int) -> Iterator[BatchReply]:
    """Answers all questions. Ending the iteration cancels those that run.

    Args:
        questions: as ``ask`` takes them.
        ask: begins an answer.
        most: how many of them run together.
    """
    read: queue.SimpleQueue[tuple[int, Reply | None, BaseException | None]] = queue.SimpleQueue()
    running: set[Stream] = set()
    lock, ended = threading.Lock(), threading.Event()

    def answer(index: int) -> None:
        try:
            with ask(questions[index]) as stream:
                with lock:
                    running.add(stream)
                if ended.is_set():
                    return
                reply = stream.finish()
                with lock:
                    running.discard(stream)
            read.put((index, reply, None))
        except BaseException as error:
            read.put((index, None, error))

    # One more than run together, so that the next one is queued when an answer ends.
    pool = ThreadPoolExecutor(most + 1, thread_name_prefix="gptoss-batch")
    try:
        for index in range(len(questions)):
            pool.submit(answer, index)
        for done in range(1, len(questions) + 1):
            index, reply, error = read.get()
            if error is not None and not isinstance(error, GptOssError):
                raise error
            yield BatchReply(index=index, reply=reply, error=error, done=done, total=len(questions))
    finally:
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)
        with lock:
            streams = tuple(running)
        for stream in streams:
            stream.cancel()
        pool.shutdown()
