"""The live oracle: transformers' GptOssForCausalLM on the CPU. Needs the ``parity`` extra.

Run as a script it records its logits for the tests that have no torch:

    python -m tests.model.oracle
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import mlx.core as mx
import numpy as np

from gptoss_mlx.model.layers import ExpertsWeight
from tests import DATA
from tests.checkpoints import SHAPES, load_shape, random_tokens

GOLDEN = DATA / "logits.npz"
EVERY = 25  # golden logits are kept of every 25th position, the argmax of all


def oracle_logits(
    directory: Path, tokens: list[int], dtype: Literal["float32", "bfloat16"] = "float32"
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The logits of every position, [L, V], computed with dequantised experts and eager attention."""
    import torch

    transformers: Any = importlib.import_module("transformers")  # has types for some of its names only
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # transformers' and torch's own, about nothing of ours
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            quantization_config=transformers.Mxfp4Config(dequantize=True),
            attn_implementation="eager",
        )
        logits = model(torch.tensor([tokens])).logits[0]
    array: np.ndarray[Any, np.dtype[np.float32]] = logits.float().numpy()
    return array


@contextmanager
def products_rounded_once() -> Iterator[None]:
    """This library's expert products in float32, rounded once, as on a GPU and in torch.

    MLX's CPU backend rounds every partial sum to bfloat16.
    """
    product = ExpertsWeight.__call__

    def rounded_once(
        self: ExpertsWeight, x: mx.array, experts: mx.array, rows: mx.array | None = None
    ) -> mx.array:
        return product(self, x.astype(mx.float32), experts, rows).astype(x.dtype)

    with mock.patch.object(ExpertsWeight, "__call__", rounded_once):
        yield


def main() -> None:
    """Records the golden logits."""
    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in SHAPES:
            logits = oracle_logits(load_shape(Path(place) / name, name), random_tokens(name))
            arrays[f"{name}.logits"] = logits[::EVERY]
            arrays[f"{name}.argmax"] = logits.argmax(-1).astype(np.int16)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
