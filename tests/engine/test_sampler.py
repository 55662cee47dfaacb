"""Sampling: parameters are checked, and the settings agree where they must."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from gptoss_mlx.engine.sampler import keep_min_p, keep_top_k, keep_top_p, make_sampler
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.sampling import SamplingParams

LOGITS = mx.array([[0.5, 3.0, 1.0, 2.9, -4.0]])


def draws(count: int, **params: Any) -> np.ndarray[Any, Any]:
    sampler = make_sampler(SamplingParams(**{"seed": 3, **params}))
    return np.array(sampler(mx.broadcast_to(LOGITS, (count, 5))))


@pytest.mark.parametrize(
    "params",
    [
        *({"temperature": value} for value in (-0.1, math.nan, math.inf, "1", True, 101, 10**400, 10**5000)),
        *({"top_p": value} for value in (-1, 0, 1.1, math.nan, None)),
        *({"min_p": value} for value in (-1, 2, math.nan)),
        *({"top_k": value} for value in (-1, 1.5, 2**31)),
        *({"repetition_penalty": value} for value in (0, 1e-40, -1, math.nan, math.inf, "1")),
        *({"stop_loops": value} for value in (1, None)),
        *({"seed": value} for value in (-1, 1.0, 2**64, 10**5000)),
        *({"max_tokens": value} for value in (0, -1, 2.0)),
        *({"stop": value} for value in ("", ("",), (1,), 3)),
    ],
)
def test_values_out_of_range_are_named(params: dict[str, Any]) -> None:
    (name,) = params
    with pytest.raises(InvalidRequest, match=name):
        SamplingParams(**params)


def test_temperature_zero_is_greedy() -> None:
    assert set(draws(100, temperature=0)) == {1}


@pytest.mark.parametrize("params", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.01}])
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-38, 1e-20, 1e-9, 1e-6])
def test_the_smallest_temperatures_are_greedy(temperature: float, params: dict[str, Any]) -> None:
    logits = mx.array([[0.0, 1.0, 30.0, 9.0, 2.0], [-3.0, 29.999, 30.0, -30.0, 30.001]])
    sampler = make_sampler(SamplingParams(seed=3, temperature=temperature, **params))
    for _ in range(20):
        assert np.array(sampler(logits)).tolist() == [2, 4]


def test_however_small_top_p_is_the_most_likely_token_is_left() -> None:
    """Over a real vocabulary, whose probabilities in float32 do not add up to 1."""
    logits = mx.random.normal((1, 201_088), key=mx.random.key(1))
    for top_p in (1e-300, 1e-9, 1e-6):
        sampler = make_sampler(SamplingParams(seed=3, top_p=top_p))
        assert sampler(logits).item() == mx.argmax(logits).item()


@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}])
def test_the_narrowest_setting_is_greedy(params: dict[str, Any]) -> None:
    assert set(draws(200, **params)) == {1}


def test_a_high_temperature_draws_everything_and_a_low_one_little() -> None:
    assert set(draws(2000, temperature=10.0)) == {0, 1, 2, 3, 4}
    assert set(draws(2000, temperature=0.1)) == {1, 3}


def test_plain_temperature_draws_the_softmax() -> None:
    counts = np.bincount(draws(20_000), minlength=5) / 20_000
    assert np.abs(counts - np.array(mx.softmax(LOGITS[0]))).max() < 0.015


def test_top_k_and_min_p_cut_the_tail() -> None:
    assert set(draws(2000, top_k=2)) == {1, 3}
    assert set(draws(2000, min_p=0.5)) == {1, 3}


@pytest.mark.parametrize("vocabulary", [5, 320, 5000])
def test_the_filters_equal_those_of_mlx_lm(vocabulary: int) -> None:
    logits = 4 * mx.random.normal((8, vocabulary), key=mx.random.key(vocabulary))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    for top_p in (0.1, 0.5, 0.9, 0.999):
        assert mx.array_equal(keep_top_p(logprobs, top_p), sample_utils.apply_top_p(logprobs, top_p))
    for min_p in (0.001, 0.1, 0.7, 1.0):
        assert mx.array_equal(keep_min_p(logprobs, min_p), sample_utils.apply_min_p(logprobs, min_p))
    for top_k in (1, 2, vocabulary - 1):
        assert mx.array_equal(keep_top_k(logprobs, top_k), sample_utils.apply_top_k(logprobs, top_k))
    assert mx.array_equal(keep_top_k(logprobs, vocabulary), logprobs)


def test_a_first_request_imports_neither_mlx_lm_nor_transformers() -> None:
    code = """
import sys
import gptoss_mlx as gptoss
with gptoss.load("demo") as model:
    model.ask("hi", sampling=gptoss.SamplingParams(top_p=0.9, top_k=40, min_p=0.05, max_tokens=1))
assert not {"mlx_lm", "transformers", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_seed_reproduces() -> None:
    assert np.array_equal(draws(50), draws(50))


def reference_choices(rows: np.ndarray[Any, Any], penalty: float, spared: set[int]) -> list[int]:
    """CTRL's penalty, one token after the other (Keskar et al. 2019, section 4.1)."""
    chosen: list[int] = []
    for row in rows:
        logits = row.astype(np.float64).copy()
        for token in set(chosen) - spared:
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        chosen.append(int(np.argmax(logits)))
    return chosen


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.3, 3.0, 0.5])
@pytest.mark.parametrize("spared", [set(), {0, 3}])
def test_a_repetition_penalty_is_the_plain_one(penalty: float, spared: set[int]) -> None:
    rows = np.random.default_rng(1).normal(size=(60, 12)).astype(np.float32)
    params = SamplingParams(temperature=0, repetition_penalty=penalty)
    sampler = make_sampler(params, spared)
    chosen = [int(np.array(sampler(mx.array(row[None])))[0]) for row in rows]
    assert chosen == reference_choices(rows, penalty, spared)
    if penalty == 1:
        assert chosen == list(np.argmax(rows, axis=-1))


def test_a_penalty_does_not_bring_back_what_was_ruled_out() -> None:
    sampler = make_sampler(SamplingParams(seed=1, repetition_penalty=1.2))
    logits = mx.array([[1.0, -mx.inf, 2.0]])
    assert {int(np.array(sampler(logits))[0]) for _ in range(50)} == {0, 2}
