"""The comparison of two devices: it accepts rounding and refuses everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.benchmark import agreement
from gptoss_mlx.benchmark.agreement import (
    DECODED,
    Agreement,
    Model,
    Run,
    compare,
    measure_agreement,
    measure_demo,
    random_transformer,
    runs,
)
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.config import ModelConfig, with_precision
from gptoss_mlx.model.transformer import load_transformer
from tests import DEMO

CONFIG = ModelConfig.from_directory(DEMO)
TOKENS = list(range(300, 312))
Perturbation = Callable[[mx.array], mx.array]


@pytest.fixture(autouse=True)
def _short_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PREFILLS", (7, 12))


def perturbed(perturb: Perturbation) -> list[Agreement]:
    """Agreements where the run in question, and only it, has its logits changed."""

    def load(dtype: mx.Dtype) -> Model:
        transformer = load_transformer(DEMO, dtype)
        if dtype == mx.float32:
            return transformer

        def model(tokens: mx.array, cache: PromptCache) -> mx.array:
            return perturb(transformer(tokens, cache))

        return model

    return list(measure_agreement("perturbed", CONFIG, load, TOKENS))


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_machine_that_computes_right_agrees(kv_bits: int | None) -> None:
    results = list(measure_demo("demo", DEMO, kv_bits=kv_bits))
    assert [(result.prefill, result.positions) for result in results] == [(7, 7 + DECODED), (12, 12 + DECODED)]
    assert all(result.ok and result.largest > 0 for result in results)


@pytest.mark.parametrize(
    "perturb",
    [
        pytest.param(lambda logits: logits + mx.random.normal(logits.shape), id="noise everywhere"),
        pytest.param(lambda logits: logits * 1.2, id="a wrong scale"),
        pytest.param(lambda logits: logits[..., ::-1], id="the wrong order"),
        pytest.param(
            lambda logits: mx.where(mx.arange(logits.shape[-1]) == 5, 30.0, logits), id="one wrong logit"
        ),
        pytest.param(lambda logits: mx.where(mx.arange(logits.shape[-1]) == 5, mx.nan, logits), id="a NaN"),
    ],
)
def test_wrong_logits_of_one_device_do_not_agree(perturb: Perturbation) -> None:
    assert not any(result.ok for result in perturbed(perturb))


def test_partings_are_the_positions_where_the_most_likely_token_differs() -> None:
    reference = np.eye(4, dtype=np.float32)
    logits = reference.copy()
    logits[2, 0] = 2
    result = compare(logits, reference, case="case", prefill=3)
    assert (result.partings, result.largest, result.largest_logit) == ((2,), 2, 1)


def test_the_reference_is_the_cpu_in_float32() -> None:
    run, reference = runs()
    assert reference == Run(device=mx.DeviceType.cpu, dtype=mx.float32)
    assert run == Run(device=mx.default_device().type, dtype=mx.bfloat16)


def test_the_default_device_is_restored(tmp_path: Path) -> None:
    before = mx.default_device()
    with pytest.raises(RuntimeError, match="interrupted"):
        perturbed(_interrupt)
    assert mx.default_device() == before


def _interrupt(logits: mx.array) -> mx.array:
    raise RuntimeError("interrupted")


@pytest.mark.parametrize("dense", ["bf16", "q8"])
def test_random_weights_are_the_same_in_every_type(dense: str) -> None:
    config = with_precision(CONFIG, "q8" if dense == "q8" else "bf16")
    logits = [
        random_transformer(config, dtype)(mx.array([TOKENS])).astype(mx.float32)
        for dtype in (mx.bfloat16, mx.float32)
    ]
    found, expected = (np.array(array)[0] for array in logits)
    assert compare(found, expected, case="random", prefill=len(TOKENS)).ok
    assert np.ptp(expected) > 1
