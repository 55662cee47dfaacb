"""Counts of what the server did, in Prometheus's text format (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ..events import Reply

__all__ = ["Metrics"]

_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds to the first token."""


class Metrics:
    """Grows from the start of the server on.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count(Reply(text="Hi."))
        >>> "gptoss_answers_total 1" in metrics.text(running=1, waiting=0)
        True
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route and status."""
        self._tokens: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0
        self._answers = 0

    def count(self, reply: Reply) -> None:
        """Adds an answer."""
        used = reply.usage
        self._tokens["prompt"] += used.prompt_tokens - used.cached_tokens
        self._tokens["cached"] += used.cached_tokens
        self._tokens["reasoning"] += used.reasoning_tokens
        self._tokens["other"] += used.completion_tokens - used.reasoning_tokens
        first = reply.timings.first_token
        self._answers += 1
        self._seconds += first
        for bucket in _BUCKETS:
            self._buckets[bucket] += first <= bucket

    def text(self, *, running: int, waiting: int) -> str:
        """All of it, as a scrape reads it."""
        return "".join(f"{line}\n" for line in self._lines(running, waiting))

    def _lines(self, running: int, waiting: int) -> Iterator[str]:
        yield "# TYPE gptoss_requests_running gauge"
        yield f"gptoss_requests_running {running}"
        yield "# TYPE gptoss_requests_waiting gauge"
        yield f"gptoss_requests_waiting {waiting}"
        yield "# TYPE gptoss_requests_total counter"
        for (route, status), number in sorted(self.requests.items()):
            yield f'gptoss_requests_total{{route="{route}",status="{status}"}} {number}'
        yield "# TYPE gptoss_answers_total counter"
        yield f"gptoss_answers_total {self._answers}"
        yield "# HELP gptoss_prompt_tokens_total Tokens of prompts, computed or found in the cache."
        yield "# TYPE gptoss_prompt_tokens_total counter"
        yield f'gptoss_prompt_tokens_total{{source="computed"}} {self._tokens["prompt"]}'
        yield f'gptoss_prompt_tokens_total{{source="cached"}} {self._tokens["cached"]}'
        yield "# TYPE gptoss_generated_tokens_total counter"
        yield f'gptoss_generated_tokens_total{{kind="reasoning"}} {self._tokens["reasoning"]}'
        yield f'gptoss_generated_tokens_total{{kind="other"}} {self._tokens["other"]}'
        yield "# TYPE gptoss_first_token_seconds histogram"
        for bucket in _BUCKETS:
            yield f'gptoss_first_token_seconds_bucket{{le="{bucket}"}} {self._buckets[bucket]}'
        yield f'gptoss_first_token_seconds_bucket{{le="+Inf"}} {self._answers}'
        yield f"gptoss_first_token_seconds_sum {self._seconds:.6f}"
        yield f"gptoss_first_token_seconds_count {self._answers}"
