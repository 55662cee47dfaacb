"""``gptoss run --batch FILE``: answers the requests of a file, in OpenAI's batch form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GptOssError
from .chat.first_start import choose_model
from .screen.spans import DIM, YELLOW, Span
from .screen.terminal import Terminal
from .settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..server.batch import BatchRequest

__all__ = ["Batch", "answer_batch"]

_BAR = 24
_MAY_PASS = 429
"""This status and those above it say nothing of the request: the memory ran out, or the model was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The files, as the command line names them."""

    requests: Path
    output: Path | None
    parallel: int

    @property
    def answers(self) -> Path:
        """The file that the answers are appended to."""
        return self.output or self.requests.with_name(f"{self.requests.name.removesuffix('.jsonl')}.answers.jsonl")


def answer_batch(batch: Batch, settings: Settings) -> None:
    """Answers the requests that have no answer yet; each answer is written as soon as it is complete.

    Raises:
        InvalidRequest: a file cannot be read; names the line.
        GptOssError: some could not be answered for a reason that may pass, and have no answer yet.
    """
    err = Terminal(sys.stderr)
    from .. import load
    from ..server import create_app
    from ..server.batch import answered_ids, read_requests

    requests, answered = read_requests(batch.requests), answered_ids(batch.answers)
    left = [request for request in requests if request.custom_id not in answered]
    progress = _Progress(total=len(requests), done=len(requests) - len(left), err=err)
    if left:
        reference = choose_model(settings.model, err, interactive=False)
        err.line(f"loading {reference}", DIM)
        with load(reference, parallel=batch.parallel, **settings.loading) as model:
            app = create_app(model, effort=settings.effort)
            try:
                with err.live():
                    asyncio.run(_answer(app, left, batch, progress))
            except KeyboardInterrupt:
                err.line(f"interrupted: {progress.text}; the same command goes on", YELLOW)
                raise
    err.line(f"{progress.text}: {batch.answers}", YELLOW if progress.refused else DIM)
    if progress.postponed:
        raise GptOssError(
            f"{progress.postponed} more failed ({progress.reason}); the same command asks them again"
        )


async def _answer(app: Starlette, requests: list[BatchRequest], batch: Batch, progress: _Progress) -> None:
    from ..files.write import appended
    from ..server.batch import answers

    with appended(batch.answers) as file:
        progress.show()
        async with contextlib.aclosing(answers(app, requests, batch.parallel)) as found:
            async for answer in found:
                status, body = answer["response"]["status_code"], answer["response"]["body"]
                if status >= _MAY_PASS:
                    progress.postpone(body)
                    continue
                file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
                file.flush()
                progress.add(status, body)


@dataclass(slots=True, kw_only=True)
class _Progress:
    """A bar below the screen, and what it says in words."""

    total: int
    done: int
    err: Terminal
    refused: int = 0
    postponed: int = 0
    """Those that failed for a reason that may pass."""
    reason: str = ""
    """That of the last of them."""
    _tokens: int = 0
    _began: float = 0.0

    def add(self, status: int, body: object) -> None:
        """One more answer."""
        self.done += 1
        self.refused += status != 200
        usage = body.get("usage") if isinstance(body, dict) else None
        if isinstance(usage, dict):
            self._tokens += usage.get("completion_tokens") or usage.get("output_tokens") or 0
        self.show()

    def postpone(self, body: object) -> None:
        """One could not be answered now."""
        self.postponed += 1
        error = body.get("error") if isinstance(body, dict) else None
        self.reason = str(error.get("message")) if isinstance(error, dict) else "the server has a bug"

    def show(self) -> None:
        """Draws the bar; nothing where stderr is not a terminal."""
        self._began = self._began or time.monotonic()
        filled = _BAR * self.done // self.total
        rate = self._tokens / max(time.monotonic() - self._began, 1e-3)
        speed = f" · {rate:,.0f} tokens/s" if self._tokens else ""
        self.err.frame((), [(Span(f"{'█' * filled}{'░' * (_BAR - filled)} {self.text}{speed}", DIM),)])

    @property
    def text(self) -> str:
        """How far it is."""
        refused = f", {self.refused} of them with an error" if self.refused else ""
        return f"{self.done:,} of {self.total:,} requests answered{refused}"
