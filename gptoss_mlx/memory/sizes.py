"""The bytes of a model's weights, caches and activations, and the bytes a token reads: from the config alone.

Nothing else is read, so that all of it can be said before anything is downloaded. Knows nothing of how the model
is computed beyond which bytes a token needs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from ..cache.quantized import quantized_bytes
from ..checkpoint.layouts import DENSE, FLOATS, MATRICES, MLX, expand, generic, kept, parts_of, shape_of, sizes
from ..checkpoint.safetensors import DTYPE_BYTES
from ..config import ModelConfig, Precision, with_precision
from ..share import Share, whole

__all__ = [
    "bytes_per_token",
    "cache_bytes",
    "full_bytes",
    "parameter_count",
    "tokens_per_second_limit",
    "weight_bytes",
    "window_bytes",
    "working_bytes",
]


@functools.lru_cache(maxsize=64)
def weight_bytes(
    config: ModelConfig, precision: Precision | None = None, element_bytes: int = 2, share: Share | None = None
) -> int:
    """Bytes of all tensors of a converted model, or of one machine's share of it.

    Args:
        config: the model's.
        precision: of the dense layers; by default the config's own.
        element_bytes: size of a value that is not packed: 2 for bfloat16, 4 for float32.
        share: the machine's; by default all of the model.
    """
    if precision is not None:
        config = with_precision(config, precision)
    return sum(nbytes for _, nbytes in _parameters(config, share, element_bytes))


def _parameters(config: ModelConfig, share: Share | None, element_bytes: int = 2) -> Iterator[tuple[str, int]]:
    """The name and the bytes of each parameter, scales and biases included, or of what a share has of it."""
    letters = sizes(config)
    share = share or whole(config)
    for row in expand(MLX, config):
        if not share.has(row.target):
            continue
        (source,) = row.sources
        lengths = {letter: sum(map(len, parts)) for letter, parts in kept(config, share, row.target).items()}
        shape = shape_of(source, letters | lengths)
        form = config.form(row.target.removesuffix(".weight")) if generic(row.target) in MATRICES else None
        yield (
            row.target,
            sum(
                math.prod(part.shape) * (element_bytes if part.dtypes == FLOATS else DTYPE_BYTES[part.dtypes[0]])
                for part in parts_of(shape, form)
            ),
        )


def parameter_count(config: ModelConfig) -> int:
    """Values of all weights and biases; scales are not counted."""
    letters = sizes(config)
    return sum(math.prod(shape_of(source, letters)) for row in expand(MLX, config) for source in row.sources)


def cache_bytes(config: ModelConfig, context: int) -> int:
    """Keys and values of ``context`` positions in bfloat16: full layers keep all, sliding ones the last window."""
    return full_bytes(config, context) + window_bytes(config, positions=context)


def full_bytes(config: ModelConfig, context: int, kv_bits: int | None = None, element_bytes: int = 2) -> int:
    """Keys and values of ``context`` positions in all full layers.

    Args:
        config: the model's.
        context: positions.
        kv_bits: 8 if keys and values are quantised to 8 bits.
        element_bytes: size of a value that is not quantised.
    """
    values = 2 * config.key_value_size
    position = values * element_bytes if kv_bits is None else quantized_bytes(values, config.head_dim)
    return config.layer_types.count("full_attention") * position * context


def window_bytes(config: ModelConfig, element_bytes: int = 2, positions: int | None = None) -> int:
    """Keys and values in the windows of all sliding layers after ``positions`` positions; by default full ones."""
    held = config.sliding_window if positions is None else min(positions, config.sliding_window)
    return config.layer_types.count("sliding_attention") * 2 * config.key_value_size * element_bytes * held


def working_bytes(
    config: ModelConfig,
    *,
    chunk: int,
    positions: int,
    fused: bool,
    kv_bits: int | None = None,
    element_bytes: int = 2,
) -> int:
    """Activations and logits of a prefill chunk at their largest.

    In the experts each token has a row for each of its own: where nothing is compiled, a row holds at its widest
    22 + 4e bytes for each unit of the experts' width and 8 + 6e for each of the hidden width (e bytes an element).
    In attention a kernel that is not fused writes a score (4 bytes) and a weight (e) for each head, token and
    position, while two thirds of those rows are still held, in float32 all of them. That fits peaks on the CPU at
    chunks of 64 and 512 tokens and 1,500 and 6,000 positions (``tests/benchmarks/engine_memory.py``). Metal's
    kernel keeps its scores to itself; half of the rows is added there, which is an estimate. On a CPU the floats
    of one layer's experts are held in float32 while they are multiplied.

    Args:
        config: the model's.
        chunk: its tokens.
        positions: that attention sees.
        fused: whether attention is one kernel, as in Metal.
        kv_bits: 8 if keys and values are quantised: those of one layer are then dequantised at a time.
        element_bytes: size of a value that is not packed.
    """
    row = config.intermediate_size * (22 + 4 * element_bytes) + config.hidden_size * (8 + 6 * element_bytes)
    rows = chunk * config.num_experts_per_tok * row
    scores = (4 + element_bytes) * config.num_attention_heads * chunk * positions
    dequantised = 0 if kv_bits is None else 2 * config.key_value_size * positions * (4 + element_bytes)
    logits = config.vocab_size * (4 + element_bytes)
    if (
        not fused
        and element_bytes != 4
        and any(config.form(f"layers.0.mlp.experts.{name}") is None for name in ("gate_up_proj", "down_proj"))
    ):
        dequantised += 4 * config.num_local_experts * 3 * config.intermediate_size * config.hidden_size
    held = rows + rows // 2 if fused else max(rows, rows * (2 + element_bytes) // 6 + scores)
    return logits + held + dequantised


def bytes_per_token(
    config: ModelConfig, precision: Precision | None = None, context: int = 0, share: Share | None = None
) -> int:
    """Bytes read to decode one token: everything but the embedding and the experts that were not chosen.

    Args:
        config: the model's.
        precision: of the dense layers; by default the config's own.
        context: positions whose keys and values are read.
        share: the part of the model that one machine reads; by default all of it.
    """
    if precision is not None:
        config = with_precision(config, precision)
    read = 0
    for target, nbytes in _parameters(config, share):
        if target == DENSE[0]:  # the embedding
            continue
        if ".experts." in target:
            nbytes = nbytes * config.num_experts_per_tok // config.num_local_experts
        read += nbytes
    return read + cache_bytes(config if share is None else share.config(config), context)


def tokens_per_second_limit(
    config: ModelConfig, bandwidth: float, precision: Precision | None = None, context: int = 0
) -> float:
    """The most tokens a second that a memory bandwidth (bytes per second) allows."""
    return bandwidth / bytes_per_token(config, precision, context)
