"""The same random weights for this library and for mlx-lm, and timing the two by turns."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.utils import load_model

from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.model.transformer import Transformer, load_transformer
from tests import DEMO
from tests.checkpoints import write_random_checkpoint

__all__ = ["SHAPE", "Row", "alternate", "checkpoint", "demo", "load_ours", "load_peer", "tokens"]

SHAPE: dict[str, Any] = {
    "num_hidden_layers": 24,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_local_experts": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "sliding_window": 128,
}
"""Like the 20b in everything that decides how many kernels run, with layers so small that launches dominate."""


class Row(NamedTuple):
    """One figure and its upper limit; None if it is only reported."""

    name: str
    figure: float
    limit: float | None = None


def checkpoint(place: Path, name: str, **fields: Any) -> Path:
    """A random checkpoint of :data:`SHAPE` in the Hugging Face layout; ``fields`` override the shape."""
    directory = place / name
    if not directory.exists():
        write_random_checkpoint(directory, **(SHAPE | fields))
        (directory / "tokenizer.json").write_text("{}")
    return directory


def demo(place: Path) -> Path:
    """A copy of the demonstration model, so that it can be converted beside it."""
    return Path(shutil.copytree(DEMO, place / "demo", dirs_exist_ok=True))


def load_ours(
    directory: Path, dense: str = "bf16", *, dtype: mx.Dtype = mx.bfloat16, compiled: bool = True
) -> Transformer:
    """This library's model, its dense layers as they are or quantised."""
    directory = directory if dense == "bf16" else _converted(directory, dense=dense)
    return load_transformer(directory, dtype, compiled=compiled)


def load_peer(directory: Path) -> Any:
    """mlx-lm's model with the same weights."""
    return load_model(_converted(directory, to="mlx-lm"))[0]


def _converted(directory: Path, **options: Any) -> Path:
    target = directory.with_name("-".join([directory.name, *options.values()]))
    return target if target.exists() else convert_checkpoint(directory, target, **options).destination


def tokens(count: int, vocab_size: int = 320) -> list[int]:
    """A fixed sequence of tokens."""
    return [(7919 * n + 13) % vocab_size for n in range(count)]


def alternate(
    actions: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of each action; they take turns, so that all see the same machine."""
    seconds: list[list[float]] = [[] for _ in actions]
    for action in actions:
        action()
    for _ in range(rounds):
        for action, times in zip(actions, seconds, strict=True):
            began = clock()
            action()
            times.append(clock() - began)
    return [statistics.median(times) for times in seconds]
