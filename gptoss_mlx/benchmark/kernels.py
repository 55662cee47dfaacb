"""Counts the kernels of a computation on its graph, without evaluating it.

The count is that of a GPU: views cost nothing, each operation of ``mx.fast`` is one kernel, and compiled functions
are fused. MLX's CPU backend splits the fast operations, so stand-ins replace them while the graph is built.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

__all__ = ["count_kernels"]

# Operations that move no data.
_VIEWS = frozenset(
    (
        "AsStrided",
        "Broadcast",
        "BroadcastAxes",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
    )
)
_FAST = ("rms_norm", "rope", "scaled_dot_product_attention")


def count_kernels(build: Callable[[], Sequence[mx.array]]) -> Counter[str]:
    """Counts kernels by operation.

    Args:
        build: returns the arrays whose graph is counted. Inputs that must not be counted must be evaluated
            before.
    """
    with _as_on_a_gpu(), tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.dot"
        mx.export_to_dot(str(path), *build())
        names = re.findall(r'label ?= ?"([^"]+)", shape=rectangle', path.read_text())
    return Counter(name for name in names if name not in _VIEWS)


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Replaces each operation of ``mx.fast`` by one of the same shape."""
    kept = {name: getattr(mx.fast, name) for name in _FAST}
    for name in _FAST:
        setattr(mx.fast, name, _stand_in)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(mx.fast, name, function)


def _stand_in(x: mx.array, *_: Any, **__: Any) -> mx.array:
    return mx.erf(x)
