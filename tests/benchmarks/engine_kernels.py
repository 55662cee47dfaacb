"""Kernels of one decoded token, counted on the graph, beside mlx-lm's.

    python -m tests.benchmarks.engine_kernels

``mx.fast`` operations are one kernel each and views none, as on a GPU; nothing is timed, so any machine gives the
same figures. Embedding, last norm and head are in the figures, spread over the layers.

With mlx 0.32.4 and mlx-lm 0.32.2: 17.2 a layer in bfloat16, 26.2 with keys and values in 8 bits, 19.8 with dense
layers in 8 bits; mlx-lm 34.1, ratio 0.50.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mlx.core as mx

from gptoss_mlx.benchmark.engines import decode_step, peer_decode_step
from gptoss_mlx.benchmark.kernels import count_kernels
from gptoss_mlx.cache.layered import PromptCache
from tests.benchmarks.engine_models import SHAPE, Row, checkpoint, load_ours, load_peer, tokens

__all__ = ["measure"]


def measure(place: Path) -> list[Row]:
    """Kernels a layer: in bfloat16, with keys and values or dense layers in 8 bits, mlx-lm's, and the ratio."""
    directory, prompt = checkpoint(place, "layers-24"), tokens(40)
    layers = SHAPE["num_hidden_layers"]
    ours, quantized = (load_ours(directory, dense, compiled=False) for dense in ("bf16", "q8"))
    counts = {
        "bf16": count_kernels(decode_step(ours, prompt)),
        "kv 8 bits": count_kernels(decode_step(ours, prompt, PromptCache(ours.config, 8))),
        "q8": count_kernels(decode_step(quantized, prompt)),
        "mlx-lm": count_kernels(peer_decode_step(load_peer(directory), prompt)),
    }
    for name, counted in counts.items():
        print(f"{name}: {dict(counted.most_common())}", file=sys.stderr)
    bf16, kv, q8, peer = (counted.total() / layers for counted in counts.values())
    return [
        Row("kernels a layer, bf16", bf16, 17.3),
        Row("kernels a layer, bf16, keys and values in 8 bits", kv, 26.2),
        Row("kernels a layer, q8", q8, 21.5),
        Row("kernels a layer, mlx-lm in bf16", peer),
        Row("kernels, ours / mlx-lm", bf16 / peer, 0.54),
    ]


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    with tempfile.TemporaryDirectory() as name:
        for row in measure(Path(name)):
            print(f"{row.name}: {row.figure:.2f}")
