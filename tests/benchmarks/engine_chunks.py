"""The forward passes of a prompt, and how soon a prefill that is cancelled stops.

    python -m tests.benchmarks.engine_chunks [--cancels 30]

Models of the 20b's kind in float32, from layers that take less than a millisecond a token to ones that take longer
than a check for a cancellation may: the lengths of the chunks in which each reads a prompt, and the seconds from a
cancellation at a random moment until prefill returns. The aim is 0.5 s wherever a layer of 64 tokens takes at most
0.25 s, elsewhere one layer.

On two hyperthreads of an x86-64 machine that was busy with other work (2026-11-26, mlx 0.32.4 on the CPU):

    24 layers of hidden 64    a layer of 64 tokens 0.012 s; 1,024 tokens as 256, 512 and 256; at most 0.278 s
    4 layers of hidden 512    a layer of 64 tokens 0.113 s; 1,024 tokens as 3 of 128 and 10 of 64; at most 0.225 s
    2 layers of hidden 2880   a layer of 64 tokens 2.362 s; 128 tokens as 64 and 64; at most 3.530 s, on a machine
                              that was busy with the test suite

On a CPU attention makes larger chunks slower for each token. Before chunks grew only from what was measured, the
first model read 1,024 tokens at once, and a cancellation took 0.789 s.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.cache.entry import CacheEntry
from gptoss_mlx.engine.generate import Request, prefill
from gptoss_mlx.engine.steps import Steps
from gptoss_mlx.model.transformer import Transformer, load_transformer
from tests.benchmarks.engine_models import checkpoint, tokens

MODELS: dict[str, dict[str, Any]] = {
    "24 layers of hidden 64": {},
    "4 layers of hidden 512": {"num_hidden_layers": 4, "hidden_size": 512, "intermediate_size": 512},
    "2 layers of hidden 2880": {
        "num_hidden_layers": 2,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_local_experts": 8,
    },
}


def main() -> None:
    """Prints the figures of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cancels", type=int, default=30)
    cancels = parser.parse_args().cancels
    with tempfile.TemporaryDirectory() as place:
        for number, (name, fields) in enumerate(MODELS.items()):
            transformer = load_transformer(checkpoint(Path(place), f"model{number}", **fields), mx.float32)
            print_figures(name, transformer, cancels)


def print_figures(name: str, transformer: Transformer, cancels: int) -> None:
    """The chunks of a prompt, and the latencies of cancellations at random moments of reading it."""
    steps = Steps(transformer)
    lengths: list[int] = []
    # As after the warm-up: 64 tokens have been computed.
    read(steps, tokens(65), lambda: False)
    layer_seconds = steps.pace.layer_seconds[64]
    prompt = tokens(1025 if layer_seconds < 0.25 else 129)
    with counted(lengths):
        began = time.perf_counter()
        read(steps, prompt, lambda: False)
        seconds = time.perf_counter() - began
    chance = random.Random(1)
    latencies = [latency(steps, prompt, seconds * chance.random()) for _ in range(cancels)]
    limit = 0.5 if layer_seconds <= 0.25 else max(0.5, layer_seconds)
    print(
        f"{name}: a layer of 64 tokens {layer_seconds:.3f} s; {len(prompt) - 1} tokens in chunks of {lengths}, "
        f"{seconds:.1f} s; cancelled after at most {max(latencies):.3f} s (limit {limit:.2f})",
        flush=True,
    )


def read(steps: Steps, prompt: list[int], cancelled: Callable[[], bool]) -> bool:
    """Prefills a prompt into an empty cache."""
    request = Request(
        stop_tokens=frozenset(),
        max_tokens=None,
        max_positions=len(prompt) + 1,
        cancelled=cancelled,
    )
    return prefill(steps, prompt, CacheEntry(0, steps.transformer.make_cache()), request)


def latency(steps: Steps, prompt: list[int], after: float) -> float:
    """Seconds from a cancellation to the end of the prefill."""
    cancelled, moment = threading.Event(), [0.0]

    def cancel() -> None:
        moment[0] = time.perf_counter()
        cancelled.set()

    timer = threading.Timer(after, cancel)
    timer.start()
    finished = read(steps, prompt, cancelled.is_set)
    ended = time.perf_counter()
    timer.cancel()
    return 0.0 if finished else ended - moment[0]


class counted:  # noqa: N801  (a context manager)
    """Notes the length of every forward pass in the block."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths, self._original = lengths, Transformer.layer_outputs

    def __enter__(self) -> None:
        original, lengths = self._original, self._lengths

        def noted(transformer: Transformer, batch: mx.array, cache: Any) -> Iterator[mx.array]:
            lengths.append(batch.shape[1])
            return original(transformer, batch, cache)

        Transformer.layer_outputs = noted  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        Transformer.layer_outputs = self._original  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
