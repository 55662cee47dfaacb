"""One request as its reader sees it: tokens that come from the worker's thread into the caller's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from ..errors import ModelClosed
from ..events import Progress

__all__ = ["Generation", "TokenChannel"]


class TokenChannel:
    """The state that the worker and the reader of one generation share. The worker has no reference to the
    generation itself, so that one that nobody reads any more is garbage collected and cancelled."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[int | Progress | BaseException | None] = queue.SimpleQueue()
        self.cancelled = threading.Event()
        self.cached_tokens = 0
        self.logprobs: list[float] = []
        self.top_logprobs: list[list[tuple[int, float]]] = []

    def report_prefill(self, done: int, total: int) -> None:
        """Reports that a part of the prompt was computed."""
        self.items.put(Progress(done=done, total=total))

    def report_logprob(self, logprob: float, most_likely: list[tuple[int, float]]) -> None:
        """Reports the log-probability of the token that follows, and of the most likely ones."""
        self.logprobs.append(logprob)
        self.top_logprobs.append(most_likely)

    def cancel(self) -> None:
        """Wakes the reader at once; the worker stops at the next token, or group of layers of the prefill."""
        self.cancelled.set()
        self.items.put(None)


class Generation(Iterator[int]):
    """The tokens of one request, as they come. Dropping it, or :meth:`cancel`, stops the work.

    Example:
        >>> generation = model.generate(model.tokenizer.encode("Once"), gptoss.SamplingParams(max_tokens=2))
        >>> [type(item).__name__ for item in generation.items()][-1], generation.cached_tokens
        ('int', 0)
        >>> endless = model.generate(model.tokenizer.encode("Once"))
        >>> endless.cancel()
        >>> list(endless), endless.cancelled, endless.logprobs, endless.top_logprobs
        ([], True, [], [])
    """

    def __init__(self, prompt: list[int], channel: TokenChannel) -> None:
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
                try:
                    raise item
                finally:
                    del item  # the error has this frame, which must not have the error
            if isinstance(item, int) and self.first_token is None:
                self.first_token = time.perf_counter()
            yield item

    def _computed(self) -> int:
        """Waits for a prefill, and returns how many tokens it computed.

        Raises:
            ModelClosed: the model was closed meanwhile.
        """
        for _ in self.items():
            pass
        if self.cancelled:
            raise ModelClosed("the model was closed while it computed a prompt; load it again")
        return len(self.prompt) - self.cached_tokens

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were cached. It is set when the first item has come."""
        return self._channel.cached_tokens

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of every token so far, where they were asked for."""
        return self._channel.logprobs

    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]:
        """The most likely tokens in place of every token so far and their log-probabilities, the most likely
        first, where they were asked for."""
        return self._channel.top_logprobs

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, by :meth:`cancel` or because the model was closed."""
        return self._channel.cancelled.is_set()

    def cancel(self) -> None:
        """Ends the iteration at once; the work stops at the next token, or group of layers of the prefill. May be
        called from any thread."""
        self._channel.cancel()

    def __del__(self) -> None:
        self._channel.cancelled.set()
