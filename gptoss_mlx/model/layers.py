"""The layers with a weight: dense, embedding, norm, and the weights of all experts.

Parameters have the names of a checkpoint in the MLX layout. They are placeholders that are never evaluated:
``load_weights`` replaces them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from ..checkpoint.layouts import parts_of
from ..config import ModelConfig
from ..quantization import Quantization

__all__ = ["Dense", "Embedding", "ExpertsWeight", "RMSNorm"]


_PLACEHOLDERS: Mapping[str, mx.Dtype] = {"U32": mx.uint32, "U8": mx.uint8}


class Weight(Module):
    """A weight in floating point, or quantised: words in ``weight`` with ``scales`` and maybe ``biases``.

    Args:
        shape: of its values.
        quantization: None for floating point.
    """

    def __init__(self, shape: tuple[int, ...], quantization: Quantization | None) -> None:
        super().__init__()
        self._quantization = quantization
        self._options: dict[str, Any] = {}
        if quantization is not None:
            self._options = dataclasses.asdict(quantization)
        for part in parts_of(shape, quantization):
            setattr(self, part.name, mx.zeros(part.shape, dtype=_PLACEHOLDERS.get(part.dtypes[0], mx.float32)))

    @property
    def _biases(self) -> mx.array | None:
        """Of an affine form; the other modes have none."""
        return self.biases if "biases" in self else None


class Dense(Weight):
    """A linear layer.

    Args:
        height, width: of the weight.
        bias: whether it has one.
        quantization: of the weight; None for floating point.
    """

    def __init__(self, height: int, width: int, *, bias: bool, quantization: Quantization | None) -> None:
        super().__init__((height, width), quantization)
        if bias:
            self.bias = mx.zeros((height,))

    def adapt(self, down: mx.array, up: mx.array) -> None:
        """Adds up @ down to the weight, [height, R] and [R, width], without changing it."""
        self.adapter_down, self.adapter_up = down, up

    def product(self, x: mx.array) -> mx.array:
        """x @ weight.T, without the bias: [..., width] -> [..., height]."""
        if self._quantization is None:
            product: mx.array = x @ self.weight.T
            return product
        return mx.quantized_matmul(x, self.weight, self.scales, self._biases, **self._options)

    def __call__(self, x: mx.array, addend: mx.array | None = None) -> mx.array:
        """x @ weight.T + addend, which is the bias unless the caller has already added it to something."""
        addend = self.bias if addend is None else addend
        if "adapter_up" in self:
            addend = addend + (x @ self.adapter_down.T) @ self.adapter_up.T
        if self._quantization is None:
            return mx.addmm(addend, x, self.weight.T)
        return self.product(x) + addend


class Embedding(Dense):
    """Maps a token id to a row of the weight, which has all of the vocabulary or ``height`` rows of it."""

    def __init__(self, config: ModelConfig, height: int) -> None:
        quantization = config.form("embed_tokens")
        super().__init__(height, config.hidden_size, bias=False, quantization=quantization)

    def rows(self, tokens: mx.array) -> mx.array:
        """[...] -> [..., H]."""
        if self._quantization is None:
            rows: mx.array = self.weight[tokens]
            return rows
        biases = None if self._biases is None else self._biases[tokens]
        return mx.dequantize(self.weight[tokens], self.scales[tokens], biases, **self._options)


class RMSNorm(Module):
    """Root mean square norm, in float32 inside.

    ``mx.fast.rms_norm`` is one kernel on a GPU and 11 operations on a CPU, where 7 are enough.
    """

    def __init__(self, config: ModelConfig, compiled: bool) -> None:
        super().__init__()
        H = config.hidden_size
        self.weight = mx.ones((H,))
        self._eps = config.rms_norm_eps
        self._mean, self._least = mx.full((H, 1), 1 / H), mx.array([[self._eps]])
        mx.eval(self._mean, self._least)
        self._compiled = compiled

    def __call__(self, x: mx.array) -> mx.array:
        """[N, H] -> [N, H]."""
        if self._compiled:
            return mx.fast.rms_norm(x, self.weight, self._eps)
        rows = x.astype(mx.float32)
        mean_square = mx.addmm(self._least, mx.square(rows), self._mean)  # [N, 1]
        return (rows * mx.rsqrt(mean_square) * self.weight).astype(x.dtype)


class ExpertsWeight(Weight):
    """The weight of one product of all experts: [E, height, width]."""

    def __call__(self, x: mx.array, experts: mx.array, rows: mx.array | None = None) -> mx.array:
        """Multiplies rows of x with the transposed weight of their expert.

        Args:
            x: [N, 1, width].
            experts: [...], the expert of each result; sorted if ``rows`` is not given.
            rows: [...], the row of x for each result; by default row n for result n.

        Returns:
            [..., 1, height].
        """
        order: dict[str, Any] = {"lhs_indices": rows, "rhs_indices": experts, "sorted_indices": rows is None}
        if self._quantization is None:
            # On a CPU MLX multiplies float32 only.
            dtype = mx.float32 if mx.default_device() == mx.cpu else x.dtype
            weight = self.weight.astype(dtype).swapaxes(-1, -2)
            return mx.gather_mm(x.astype(dtype), weight, **order).astype(x.dtype)
        return mx.gather_qmm(x, self.weight, self.scales, self._biases, **order, **self._options)
