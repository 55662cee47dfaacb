"""How many kernels a decoded token costs, counted on the graph.

Views cost nothing and ``mx.fast`` operations are one each, as on a GPU. mlx-lm 0.32.2 needs 34.1 a layer.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mlx.core as mx
import pytest

from gptoss_mlx.benchmark.engines import decode_step
from gptoss_mlx.benchmark.kernels import count_kernels
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.model.transformer import load_transformer
from tests.checkpoints import random_tokens, write_random_checkpoint

LAYERS = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kernels") / "source"
    write_random_checkpoint(directory, num_hidden_layers=LAYERS, num_local_experts=8)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def kernels(directory: Path) -> Counter[str]:
    # Embedding, first bias, last norm and head are counted too: four in all.
    transformer = load_transformer(directory, mx.bfloat16)
    counted = count_kernels(decode_step(transformer, random_tokens("small", 40)))
    print(f"{counted.total() / LAYERS:.1f} kernels a layer: {counted}")
    return counted


def test_a_decoded_token_costs_17_kernels_a_layer(checkpoint: Path) -> None:
    counted = kernels(checkpoint)
    assert counted.total() <= 17 * LAYERS + 4
    assert counted["GatherQMM"] == 2 * LAYERS
    assert counted["AddMM"] == 3 * LAYERS


def test_in_8_bits_it_costs_at_most_21(checkpoint: Path) -> None:
    converted = convert_checkpoint(checkpoint, checkpoint.with_name("q8"), dense="q8").destination
    counted = kernels(converted)
    assert counted.total() / LAYERS <= 21.5
    # qkv and output of every layer, and the head, which has no bias to add.
    assert counted["QuantizedMatmul"] == 2 * LAYERS + 1


def test_views_and_what_was_computed_before_cost_nothing() -> None:
    known = mx.ones((4, 6))
    mx.eval(known)
    counted = count_kernels(lambda: [(known.T.reshape(3, 8)[1:] * 2).astype(mx.bfloat16)])
    assert set(counted) >= {"Multiply", "AsType"}
    assert "Transpose" not in counted
    assert count_kernels(lambda: [mx.fast.rms_norm(known, None, 1e-5)]).total() == 1
    # The stand-in used while counting has been removed.
    assert mx.allclose(mx.fast.rms_norm(known, None, 1e-5), known, atol=1e-4).item()
