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

from .chat.first_start import choose_model
from .screen.spans import DIM, YELLOW, Span
from .screen.terminal import Terminal
from .settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..server.batch import BatchRequest

__all__ = ["Batch", "answer_batch"]

_BAR = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The files, as the command line names them."""

    requests: Path
    output: Path | None
    parallel: int

    @property
    def answers(self) -> Path:
        """The file that the answers are appended to."""
        return self.output or self.requests.with_suffix(".answers.jsonl")


def answer_batch(batch: Batch, settings: Settings) -> None:
    """Answers the requests that have no answer yet; each answer is written as soon as it is complete.

    Raises:
        InvalidRequest: a file cannot be read; names the line.
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


async def _answer(app: Starlette, requests: list[BatchRequest], batch: Batch, progress: _Progress) -> None:
    from ..files.write import appended
    from ..server.batch import answers

    with appended(batch.answers) as file:
        progress.show()
        async with contextlib.aclosing(answers(app, requests, batch.parallel)) as found:
            async for answer in found:
                file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
                file.flush()
                progress.add(answer["response"]["status_code"], answer["response"]["body"])


@dataclass(slots=True, kw_only=True)
class _Progress:
    """A bar below the screen, and what it says in words."""

    total: int
    done: int
    err: Terminal
    refused: int = 0
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
