"""Attention over a sliding window in bands, of one query, and over 8-bit states in each device's best shape."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.benchmark.kernels import count_kernels
from gptoss_mlx.cache.quantized import QuantizedStates
from gptoss_mlx.model.attention import banded_attention, one_query_attention, quantized_attention, sliding_mask

HEADS, KEY_HEADS, LENGTH, DIM = 16, 2, 1100, 64


def one_query() -> tuple[mx.array, QuantizedStates, QuantizedStates, mx.array]:
    mx.random.seed(7)
    keys, values = (QuantizedStates.of(mx.random.normal((1, KEY_HEADS, LENGTH, DIM))) for _ in range(2))
    queries, sinks = mx.random.normal((1, HEADS, 1, DIM)), mx.random.normal((HEADS,))
    mx.eval(queries, *keys.parts, *values.parts, sinks)
    return queries, keys, values, sinks


def attend(
    monkeypatch: pytest.MonkeyPatch, device: mx.DeviceType, *, cuda: bool = False, mask: mx.array | None = None
) -> tuple[mx.array, int, list[tuple[int, ...]]]:
    """As on such a device: the result, its kernels, and the shape of what is multiplied with the values."""
    queries, keys, values, sinks = one_query()
    shapes: list[tuple[int, ...]] = []
    product = mx.quantized_matmul

    def recorded(x: mx.array, *weights: Any, **options: Any) -> mx.array:
        if not options["transpose"]:
            shapes.append(x.shape)
        return product(x, *weights, **options)

    with monkeypatch.context() as patch:
        patch.setattr(mx, "quantized_matmul", recorded)
        patch.setattr(mx, "default_device", lambda: mx.Device(device))
        patch.setattr(mx.cuda, "is_available", lambda: cuda)
        attended = quantized_attention(queries, keys, values, scale=0.2, sinks=sinks, mask=mask)
    kernels = count_kernels(lambda: [attended]).total()
    mx.eval(attended)
    return attended, kernels, shapes


def test_one_query_is_one_row_a_product_with_the_values_except_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # For one row Metal takes qvm_split_k; for four or more qmm_n, of 16 threadgroups for the 20b.
    on_cpu, cpu_kernels, cpu_shapes = attend(monkeypatch, mx.cpu)
    on_gpu, gpu_kernels, gpu_shapes = attend(monkeypatch, mx.gpu)
    assert cpu_shapes == [(1, KEY_HEADS, 1, HEADS // KEY_HEADS, LENGTH)]
    assert gpu_shapes == [(1, KEY_HEADS, HEADS // KEY_HEADS, 1, LENGTH)]
    assert gpu_kernels == cpu_kernels
    assert mx.array_equal(on_gpu, on_cpu)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("lengths", [None, [1], [5, 64, 1]])
def test_attention_of_one_query_is_that_of_mlx(lengths: list[int] | None, dtype: mx.Dtype) -> None:
    rows, positions = len(lengths or [0]), 64
    keys = mx.random.split(mx.random.key(3), 4)
    queries = mx.random.normal((rows, HEADS, 1, DIM), key=keys[0]).astype(dtype)
    states = [mx.random.normal((rows, KEY_HEADS, positions, DIM), key=key).astype(dtype) for key in keys[1:3]]
    mask = None if lengths is None else (mx.arange(positions) < mx.array(lengths)[:, None])[:, None, None]
    options: dict[str, Any] = {"scale": 0.2, "sinks": mx.random.normal((HEADS,), key=keys[3]).astype(dtype)}
    attended = one_query_attention(queries, *states, mask=mask, **options)
    assert attended.dtype == dtype
    theirs = mx.fast.scaled_dot_product_attention(queries, *states, mask=mask, **options)
    assert mx.abs(attended - theirs).max() <= (1e-6 if dtype == mx.float32 else 0.03)


@pytest.mark.parametrize("positions", [None, 900])
def test_on_cuda_no_codes_are_multiplied(positions: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # They are a part of a larger buffer, which MLX's CUDA backend does not multiply.
    mask = None if positions is None else (mx.arange(LENGTH) < positions)[None, None, None]
    on_cpu, _, _ = attend(monkeypatch, mx.cpu, mask=mask)
    on_cuda, _, shapes = attend(monkeypatch, mx.gpu, cuda=True, mask=mask)
    assert shapes == []
    assert mx.abs(on_cuda - on_cpu).max() <= 1e-5


@pytest.mark.parametrize("window", [1, 7, 8])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("length", [9, 16, 30])
def test_bands_equal_one_mask_over_all_keys(window: int, batch: int, length: int) -> None:
    for before in range(window + 1):
        mx.random.seed(before)
        queries = mx.random.normal((batch, 4, length, 16))
        keys, values = (mx.random.normal((batch, 2, before + length, 16)) for _ in range(2))
        options: dict[str, Any] = {"scale": 0.5, "sinks": mx.random.normal((4,))}
        bands = sliding_mask(window, before, length)
        banded = banded_attention(queries, keys, values, window=window, mask=bands, **options)
        positions = mx.arange(before + length)
        seen = positions <= positions[before:, None]
        mask = seen & (positions > positions[before:, None] - window)
        whole = mx.fast.scaled_dot_product_attention(queries, keys, values, mask=mask, **options)
        assert mx.allclose(banded, whole, atol=1e-5)
