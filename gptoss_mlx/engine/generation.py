"""One request as its reader sees it: tokens as they come, from the worker's thread into the caller's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from ..events import Progress

__all__ = ["Channel", "Generation"]


class Channel:
    """What the worker and the reader of one generation share. The worker holds no more of it than this, so
    that a generation nobody reads any longer can be told from one that is merely slow."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[int | Progress | BaseException | None] = queue.SimpleQueue()
        self.cancelled = threading.Event()
        self.cached_tokens = 0
        self.logprobs: list[float] = []

    def report_prefill(self, done: int, total: int) -> None:
        """A part of the prompt was read."""
        self.items.put(Progress(done=done, total=total))

    def cancel(self) -> None:
        """Wakes the reader at once; the worker looks at the next token or chunk."""
        self.cancelled.set()
        self.items.put(None)


class Generation(Iterator[int]):
    """The tokens of one request, as they come. Forgetting it, or :meth:`cancel`, stops the work.

    Example:
        >>> generation = model.generate(model.tokenizer.encode("Once"), gptoss.SamplingParams(max_tokens=2))
        >>> [type(item).__name__ for item in generation.items()][-1], generation.cached_tokens
        ('int', 0)
        >>> endless = model.generate(model.tokenizer.encode("Once"))
        >>> endless.cancel()
        >>> list(endless), endless.cancelled, endless.logprobs
        ([], True, [])
    """

    def __init__(self, prompt: list[int], channel: Channel) -> None:
        self.prompt = prompt
        self.started = time.perf_counter()
        self.first_token: float | None = None
        """When the first token came, on the clock of ``started``."""
        self._channel = channel
        self._ended = False

    def __next__(self) -> int:
        for item in self.items():
            if isinstance(item, int):
                return item
        raise StopIteration

    def items(self) -> Iterator[int | Progress]:
        """Tokens, and before them the progress of the prefill."""
        channel = self._channel
        while not self._ended:
            item = None if channel.cancelled.is_set() else channel.items.get()
            if item is None or channel.cancelled.is_set():
                self._ended = True
                return
            if isinstance(item, BaseException):
                self._ended = True
                raise item
            if isinstance(item, int) and self.first_token is None:
                self.first_token = time.perf_counter()
            yield item

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt cost nothing. Known when the first item has come."""
        return self._channel.cached_tokens

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of every token so far, where they were asked for."""
        return self._channel.logprobs

    @property
    def cancelled(self) -> bool:
        """Whether it was told to end, by :meth:`cancel` or because the model was closed."""
        return self._channel.cancelled.is_set()

    def cancel(self) -> None:
        """Ends the iteration at once, whatever it waits for; the work stops at the next token or prefill
        chunk. May be called from any thread."""
        self._channel.cancel()

    def __del__(self) -> None:
        self._channel.cancelled.set()
