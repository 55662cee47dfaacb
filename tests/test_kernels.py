"""How many kernels a decoded token costs, counted on the graph.

Views cost nothing and ``mx.fast`` operations are one each, as on a GPU. (MLX's CPU backend breaks the latter up,
so stand-ins are counted.) mlx-lm 0.32.2 needs 34.1 a layer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.model import load_transformer
from tests.checkpoints import write_random_checkpoint

LAYERS = 8
VIEWS = {
    *(
        "Broadcast",
        "BroadcastAxes",
        "Squeeze",
        "ExpandDims",
        "Reshape",
        "Transpose",
        "Flatten",
        "Unflatten",
        "Slice",
    ),
    *("AsStrided", "Split"),
}


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compilation on, and one operation in the place of each of ``mx.fast``'s."""

    def rms_norm(x: mx.array, *_: Any) -> mx.array:
        return mx.erf(x)

    def rope(x: mx.array, *_: Any, **__: Any) -> mx.array:
        return mx.erf(x)

    def attention(queries: mx.array, *_: Any, **__: Any) -> mx.array:
        return mx.erf(queries)

    monkeypatch.setattr(mx.fast, "rms_norm", rms_norm)
    monkeypatch.setattr(mx.fast, "rope", rope)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", attention)
    mx.enable_compile()
    yield
    mx.disable_compile()


def kernels(path: Path, *outputs: mx.array) -> Counter[str]:
    mx.export_to_dot(str(path), *outputs)
    names = re.findall(r'label ?= ?"([^"]+)", shape=rectangle', path.read_text())
    return Counter(name for name in names if name not in VIEWS)


@pytest.mark.usefixtures("fused")
def test_a_decoded_token_costs_at_most_18_kernels_a_layer(tmp_path: Path) -> None:
    # Nothing is evaluated after the cache is filled, so nothing is compiled for the machine.
    directory = write_random_checkpoint(tmp_path, num_hidden_layers=LAYERS, num_local_experts=8)
    transformer = load_transformer(directory, mx.bfloat16)
    cache = transformer.make_cache()
    for layer in cache.layers:
        states = mx.zeros((1, 2, 40, 16), dtype=mx.bfloat16)
        layer.append(states, states)
        mx.eval(layer.arrays())
    counted = kernels(tmp_path / "graph.dot", transformer(mx.array([[3]]), cache), *cache.arrays())
    a_layer = counted.total() / LAYERS
    print(f"{a_layer:.1f} kernels a layer: {counted}")
    # Embedding, first bias, last norm and head are counted too: some four in all.
    assert a_layer <= 18.5
    assert counted["GatherQMM"] == 2 * LAYERS
    assert counted["AddMM"] == 3 * LAYERS
