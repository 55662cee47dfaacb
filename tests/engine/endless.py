"""A model that never stops, and the ways to stop it: shared by the suite and the benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import mlx.core as mx

from gptoss_mlx import AsyncGptOss, GptOss, SamplingParams
from gptoss_mlx.events import Progress
from gptoss_mlx.model.transformer import Transformer
from gptoss_mlx.tokenizer import Tokenizer

__all__ = ["GREEDY", "SCRIPTS", "WAYS_TO_STOP", "endless"]

GREEDY = SamplingParams(temperature=0)

SCRIPTS: dict[str, tuple[list[str | bytes], list[str | bytes]]] = {
    "an answer": (["<|channel|>", "final", "<|message|>"], [" a", " b"]),
    "thinking": (["<|channel|>", "analysis", "<|message|>"], [" a", " b"]),
    "messages": ([], ["<|channel|>", "analysis", "<|message|>", " a", "<|end|>", "<|start|>", "assistant"]),
    "a header": ([], ["a", "b"]),
    "starts": ([], ["<|start|>"]),
    "ends": ([], ["<|end|>"]),
    "message tokens": ([], ["<|message|>"]),
    "channels and constraints": ([], ["<|channel|>", "<|constrain|>"]),
    "bytes that are not text": (["<|channel|>", "final", "<|message|>"], [b"\xff"]),
    "halves of characters": ([], [b"\xe2", b"\x82"]),
}
"""What it says once, and what it says for ever after: control tokens, text, and single bytes."""


class _Endless:
    """In the place of a transformer: computes as it does, but what follows any prompt is a script."""

    def __init__(self, transformer: Transformer, once: list[int], after: list[int]) -> None:
        self._transformer = transformer
        self._script = itertools.chain(once, itertools.cycle(after))
        self._once, self._after = once, after

    def __call__(self, tokens: mx.array, cache: Any = None, last_only: bool = False) -> mx.array:
        logits = self._transformer(tokens, cache, last_only=last_only)
        if tokens.shape[1] > 1:
            # A prompt: the script begins anew.
            self._script = itertools.chain(self._once, itertools.cycle(self._after))
            return logits
        return mx.where(mx.arange(logits.shape[-1]) == next(self._script), 100.0, -100.0)[None, None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transformer, name)


def _tokens_of(parts: Sequence[str | bytes], tokenizer: Tokenizer) -> list[int]:
    """The token ids of a script."""
    single = {tokenizer.token_bytes(token): token for token in range(256)}
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, bytes):
            tokens.append(single[part])
        elif part in tokenizer.special:
            tokens.append(tokenizer.special[part])
        else:
            tokens += tokenizer.encode(part)
    return tokens


@contextlib.contextmanager
def endless(model: GptOss, name: str) -> Iterator[None]:
    """Meanwhile the model says the script of that name, and never stops."""
    once, after = (_tokens_of(parts, model.tokenizer) for parts in SCRIPTS[name])
    transformer = model.transformer
    steps = model._runner._open_steps()
    steps.transformer = cast(Transformer, _Endless(transformer, once, after))
    try:
        yield
    finally:
        steps.transformer = transformer


def _timed(stop: Callable[[], object]) -> tuple[Callable[[], None], list[float]]:
    """``stop``, and where it notes when it was called."""
    stopped: list[float] = []

    def stop_now() -> None:
        stopped.append(time.perf_counter())
        stop()

    return stop_now, stopped


def by_thread(model: GptOss) -> float:
    """Cancels from another thread, while this one waits for the next event; the seconds until it goes on."""
    stream = model.stream("hi", sampling=GREEDY)
    stop, stopped = _timed(stream.cancel)
    for event in stream:
        if not isinstance(event, Progress) and not stopped:
            thread = threading.Thread(target=stop)
            thread.start()
            thread.join()
    assert stream.reply.finish_reason == "cancelled"
    return time.perf_counter() - stopped[0]


def by_leaving(model: GptOss) -> float:
    """Leaves the block in the middle of the answer."""
    with model.stream("hi", sampling=GREEDY) as stream:
        next(event for event in stream if not isinstance(event, Progress))
        left = time.perf_counter()
    assert stream.reply.finish_reason == "cancelled"
    return time.perf_counter() - left


def by_task(model: GptOss) -> float:
    """Cancels the task that waits."""

    async def main() -> float:
        begun = asyncio.Event()

        async def ask() -> None:
            async with AsyncGptOss(model).stream("hi", sampling=GREEDY) as stream:
                async for event in stream:
                    if not isinstance(event, Progress):
                        begun.set()

        task = asyncio.create_task(ask())
        await begun.wait()
        cancelled = time.perf_counter()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        return time.perf_counter() - cancelled

    return asyncio.run(main())


def by_interrupt(model: GptOss) -> float:
    """Ctrl-C, in the main thread."""
    stop, stopped = _timed(lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        with model.stream("hi", sampling=GREEDY) as stream:
            for event in stream:
                if not isinstance(event, Progress) and not stopped:
                    stop()
    except KeyboardInterrupt:
        return time.perf_counter() - stopped[0]
    raise AssertionError("no interrupt came")


WAYS_TO_STOP = {"a thread": by_thread, "leaving": by_leaving, "a task": by_task, "Ctrl-C": by_interrupt}
"""Each makes a request of an endless model, stops it and gives the seconds until control was back."""
