"""When the rows of the experts are sorted, and that sorting changes no bit."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model import experts as module
from gptoss_mlx.model.transformer import Transformer
from tests.checkpoints import random_config

FIRST_SORTED = {32: 3, 128: 6}  # tokens, by the experts of the 20b and the 120b


class Log:
    """Records the indices of each expert product of a forward pass."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sorted: list[int] = []
        self.unsorted: list[int] = []
        self._product = mx.gather_qmm
        patch.setattr(mx, "gather_qmm", self)

    def __call__(self, x: mx.array, *weights: Any, **options: Any) -> mx.array:
        indices = options["rhs_indices"]
        if options["sorted_indices"]:
            # MLX works in tiles, from 4 rows an expert on, only with one row of x for each index, in order.
            assert options["lhs_indices"] is None
            assert x.shape[:2] == (indices.size, 1)
        (self.sorted if options["sorted_indices"] else self.unsorted).append(indices.size)
        return self._product(x, *weights, **options)


@pytest.mark.parametrize(("device", "experts"), [(mx.gpu, 32), (mx.gpu, 128), (mx.cpu, 32)])
def test_every_prompt_of_a_few_tokens_is_sorted_on_a_gpu(
    device: mx.DeviceType, experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One layer whose weights are never computed: only graphs are built.
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(device))
    first = FIRST_SORTED[experts] if device == mx.gpu else math.inf
    config = ModelConfig.from_dict(random_config(num_hidden_layers=1, num_local_experts=experts))
    transformer = Transformer(config, compiled=False)
    for tokens in range(1, 201):
        with monkeypatch.context() as patch:
            log = Log(patch)
            transformer(mx.zeros((1, tokens), dtype=mx.int32))
        both = [4 * tokens] * 2
        assert (log.sorted, log.unsorted) == ((both, []) if tokens >= first else ([], both))


@pytest.mark.parametrize("tokens", [2, 3, 40])
def test_sorting_changes_no_bit(small: Transformer, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = small.layers[0].mlp.experts
    x = mx.random.normal((tokens, small.config.hidden_size), key=mx.random.key(3))
    chosen = mx.argsort(mx.random.normal((tokens, small.config.num_local_experts), key=mx.random.key(4)))[:, :4]
    results = []
    for pays in (True, False):
        monkeypatch.setattr(module, "sorting_pays", lambda indices, experts, pays=pays: pays)
        outputs, biases = layer(x, chosen.astype(mx.uint32))
        results.append(mx.stack([*outputs, *biases]))
    assert mx.array_equal(results[0], results[1])


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_one_product_is_the_sum_of_its_parts(small: Transformer, tokens: int) -> None:
    layer = small.layers[0].mlp.experts
    x = mx.random.normal((tokens, small.config.hidden_size), key=mx.random.key(3))
    chosen = mx.argsort(mx.random.normal((tokens, small.config.num_local_experts), key=mx.random.key(4)))[:, :4]
    outputs, biases = layer(x, chosen.astype(mx.uint32))
    together = layer.with_biases(x, chosen.astype(mx.uint32))
    assert mx.abs(together - mx.stack(outputs, axis=1) - mx.stack(biases, axis=1)).max() <= 1e-5


def test_sorted_rows_lie_as_their_shape_says(small: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    # MLX's gather_mm on CUDA takes the stride of a row's axis of length one for the distance between two rows.
    rows: list[mx.array] = []
    product = mx.gather_qmm

    def recorded(x: mx.array, *weights: Any, **options: Any) -> mx.array:
        rows.append(x)
        return product(x, *weights, **options)

    monkeypatch.setattr(module, "sorting_pays", lambda indices, experts: True)
    monkeypatch.setattr(mx, "gather_qmm", recorded)
    mx.eval(small(mx.arange(7, 47)[None]))
    assert rows
    for x in rows:
        strides = np.asarray(x).strides
        assert strides[1] == strides[0] == x.shape[2] * x.itemsize
