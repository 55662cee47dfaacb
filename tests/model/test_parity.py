"""The transformer against transformers': in float32 the same function, up to rounding."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.model.transformer import Transformer, load_transformer
from tests.checkpoints import random_tokens
from tests.model.oracle import EVERY, GOLDEN, oracle_logits, products_rounded_once

# The largest difference seen is 7e-5; logits reach 7.
TOLERANCE = 2e-4

Logits = np.ndarray[Any, np.dtype[np.float32]]


def whole(transformer: Transformer, tokens: list[int]) -> Logits:
    return np.array(transformer(mx.array([tokens]))[0].astype(mx.float32))


def in_pieces(transformer: Transformer, tokens: list[int], lengths: list[int]) -> Logits:
    """The same, through the cache: one call a piece."""
    cache, begin, logits = transformer.make_cache(), 0, []
    for length in lengths:
        piece = transformer(mx.array([tokens[begin : begin + length]]), cache)
        mx.eval(piece, cache.arrays())
        logits.append(np.array(piece[0].astype(mx.float32)))
        begin += length
    assert begin == len(tokens)
    return np.concatenate(logits)


def random_split(total: int, seed: int) -> list[int]:
    """Lengths that add up to ``total``, with runs of single tokens and pieces longer than any window."""
    generator, lengths = random.Random(seed), []
    while total:
        length = min(total, generator.choice([1, 1, 1, 2, 5, 8, 17, 64, 130]))
        lengths.append(length)
        total -= length
    return lengths


def test_logits_equal_recorded_ones(shape: tuple[str, Path]) -> None:
    name, directory = shape
    golden = np.load(GOLDEN)
    logits = whole(load_transformer(directory, mx.float32), random_tokens(name))
    assert np.abs(logits[::EVERY] - golden[f"{name}.logits"]).max() <= TOLERANCE
    assert np.array_equal(logits.argmax(-1), golden[f"{name}.argmax"])


@pytest.mark.parametrize("seed", range(3))
def test_any_split_through_the_cache_gives_the_same_logits(shape: tuple[str, Path], seed: int) -> None:
    name, directory = shape
    transformer, tokens = load_transformer(directory, mx.float32), random_tokens(name)
    golden = np.load(GOLDEN)
    logits = in_pieces(transformer, tokens, random_split(len(tokens), seed))
    assert np.abs(logits[::EVERY] - golden[f"{name}.logits"]).max() <= TOLERANCE
    assert np.array_equal(logits.argmax(-1), golden[f"{name}.argmax"])


@pytest.mark.parametrize("compiled", [False, True])
def test_token_by_token_they_are_the_same_compiled_and_not(shape: tuple[str, Path], compiled: bool) -> None:
    if compiled and mx.default_device() == mx.cpu and not shutil.which("g++"):
        pytest.skip("MLX compiles for a CPU with g++, which is not here")
    name, directory = shape
    transformer, tokens = (
        load_transformer(directory, mx.float32, compiled=compiled),
        random_tokens(name)[: 5 * EVERY],
    )
    logits = in_pieces(transformer, tokens, [1] * len(tokens))
    golden = np.load(GOLDEN)
    assert np.abs(logits[::EVERY] - golden[f"{name}.logits"][:5]).max() <= TOLERANCE
    assert np.array_equal(logits.argmax(-1), golden[f"{name}.argmax"][: len(tokens)])


def test_logits_equal_transformers(shape: tuple[str, Path]) -> None:
    pytest.importorskip("torch", reason="needs the parity extra")
    name, directory = shape
    tokens = random_tokens(name)
    reference = oracle_logits(directory, tokens)
    transformer = load_transformer(directory, mx.float32)
    for logits in (whole(transformer, tokens), in_pieces(transformer, tokens, random_split(len(tokens), 9))):
        assert np.abs(logits - reference).max() <= TOLERANCE
        assert np.array_equal(logits.argmax(-1), reference.argmax(-1))


def test_bfloat16_is_as_near_as_transformers_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("torch", reason="needs the parity extra")
    from tests.checkpoints import SHAPES, load_shape

    ours, theirs, ours_same, theirs_same = [], [], [], []
    for name in SHAPES:
        directory, tokens = load_shape(tmp_path_factory.mktemp("bf16") / name, name), random_tokens(name)
        reference = oracle_logits(directory, tokens)
        peer = oracle_logits(directory, tokens, "bfloat16")
        with products_rounded_once():
            logits = whole(load_transformer(directory, mx.bfloat16), tokens)
        ours.append(np.abs(logits - reference))
        theirs.append(np.abs(peer - reference))
        ours_same.append(logits.argmax(-1) == reference.argmax(-1))
        theirs_same.append(peer.argmax(-1) == reference.argmax(-1))
    medians = [float(np.median(np.concatenate([rows.ravel() for rows in each]))) for each in (ours, theirs)]
    rates = [float(np.mean(np.concatenate(each))) for each in (ours_same, theirs_same)]
    print(f"bfloat16: median distance {medians[0]:.4f} (transformers {medians[1]:.4f}), ", end="")
    print(f"same argmax {rates[0]:.1%} (transformers {rates[1]:.1%})")
    assert medians[0] <= 1.05 * medians[1]
    assert rates[0] >= rates[1] - 0.02


def test_batches_are_independent(small: Transformer) -> None:
    rows = [random_tokens("small", 40), random_tokens("odd_layers", 40)]
    together = np.array(small(mx.array(rows)))
    for row, logits in zip(rows, together, strict=True):
        assert np.abs(logits - whole(small, row)).max() <= TOLERANCE


def test_last_only_is_the_last_position(small: Transformer) -> None:
    tokens = mx.array([random_tokens("small", 40)])
    logits = small(tokens, last_only=True)
    assert logits.shape == (1, 1, 320)
    assert np.allclose(np.array(logits[:, 0]), np.array(small(tokens)[:, -1]), atol=1e-5)
