"""How large a model is, whether it fits this machine, and how fast its memory lets it be: from the config alone.

Nothing is read but the config, so that all of it can be said before anything is downloaded. Knows nothing of
how the model is computed beyond which bytes a token needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..cache.quantized import quantized_bytes
from ..checkpoint.layouts import HUGGING_FACE, QUANTISED, expand, mlx_layout, sizes
from ..checkpoint.safetensors import DTYPE_BYTES
from ..config import ModelConfig, Precision, precision_of, with_precision
from ..errors import InvalidRequest
from ..files.units import format_bytes
from .device import DeviceInfo, wired_limit_command

__all__ = [
    "Choice",
    "Fit",
    "bytes_per_token",
    "cache_bytes",
    "choose_precision",
    "fit",
    "full_bytes",
    "parameter_count",
    "tokens_per_second_limit",
    "weight_bytes",
    "window_bytes",
    "working_bytes",
]

DEFAULT_CONTEXT = 8192
_MIN_CHUNK = 64  # tokens of the smallest prefill chunk: what the working space is counted for


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a model needs of a machine at one length of context."""

    precision: Precision
    context: int
    weight_bytes: int
    cache_bytes: int
    working_bytes: int
    """Activations and logits."""
    device: DeviceInfo

    @property
    def needed_bytes(self) -> int:
        """Everything together."""
        return self.weight_bytes + self.cache_bytes + self.working_bytes

    @property
    def fits(self) -> bool:
        """Whether the GPU may use that much now."""
        return self.needed_bytes <= self.device.gpu_bytes

    @property
    def remedy(self) -> str | None:
        """The command that lets the GPU use enough, where the machine has it; None if none is needed or helps.

        An eighth of the machine, at least 3 GB, is left to everything else.
        """
        return None if self.fits else wired_limit_command(self.device, self.needed_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The precision taken for the dense layers, and why."""

    precision: Precision
    fit: Fit
    reason: str
    """One line for the user."""


def weight_bytes(config: ModelConfig, precision: Precision | None = None, element_bytes: int = 2) -> int:
    """Bytes of all tensors of the converted model.

    Args:
        config: the model's.
        precision: by default the config's own.
        element_bytes: of what is not packed: 2 for bfloat16, 4 for float32.
    """
    if precision is not None:
        config = with_precision(config, precision)
    letters = sizes(config)
    return sum(
        math.prod(letters[letter] for letter in source.shape.split())
        * (element_bytes if source.dtypes[0] == "BF16" else DTYPE_BYTES[source.dtypes[0]])
        for row in expand(mlx_layout(config), config)
        for source in row.sources
    )


def parameter_count(config: ModelConfig) -> int:
    """Parameters as they are usually counted: two to a byte of MXFP4, its scales not at all."""
    letters = sizes(config)
    count = 0
    for row in expand(HUGGING_FACE, config):
        for source in row.sources:
            if not source.name.endswith("_scales"):
                values = math.prod(letters[letter] for letter in source.shape.split())
                count += values * 2 if source.name.endswith("_blocks") else values
    return count


def cache_bytes(config: ModelConfig, context: int) -> int:
    """Keys and values of that many positions, in bfloat16: full layers keep all, sliding ones the last window."""
    return full_bytes(config, context) + window_bytes(config, positions=context)


def full_bytes(config: ModelConfig, context: int, kv_bits: int | None = None, element_bytes: int = 2) -> int:
    """Keys and values of that many positions in all full layers.

    Args:
        config: the model's.
        context: positions.
        kv_bits: 8 if they are kept in 8 bits.
        element_bytes: of what is kept as it is.
    """
    values = 2 * config.key_value_size
    position = values * element_bytes if kv_bits is None else quantized_bytes(values, config.head_dim)
    return config.layer_types.count("full_attention") * position * context


def window_bytes(config: ModelConfig, element_bytes: int = 2, positions: int | None = None) -> int:
    """Keys and values in the windows of all sliding layers, once so many positions were seen; by default, full."""
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
    position, while two thirds of those rows are still held. That fits peaks on the CPU at chunks of 64 tokens and
    1,500 and 6,000 positions (``tests/benchmarks/engine_memory.py``). Metal's kernel keeps its scores to itself;
    half of the rows is added there, which is an estimate.

    Args:
        config: the model's.
        chunk: its tokens.
        positions: that attention sees.
        fused: whether attention is one kernel, as in Metal.
        kv_bits: 8 if keys and values are kept in 8 bits: those of one layer are then dequantised at a time.
        element_bytes: of what is not packed.
    """
    row = config.intermediate_size * (22 + 4 * element_bytes) + config.hidden_size * (8 + 6 * element_bytes)
    rows = chunk * config.num_experts_per_tok * row
    scores = (4 + element_bytes) * config.num_attention_heads * chunk * positions
    dequantised = 0 if kv_bits is None else 2 * config.key_value_size * positions * (4 + element_bytes)
    logits = config.vocab_size * (4 + element_bytes)
    held = rows + rows // 2 if fused else max(rows, rows * 2 // 3 + scores)
    return logits + held + dequantised


def bytes_per_token(config: ModelConfig, precision: Precision | None = None, context: int = 0) -> int:
    """Bytes read to decode one token: everything but the embedding and the experts not chosen."""
    if precision is not None:
        config = with_precision(config, precision)
    letters = sizes(config)
    embedding = QUANTISED[0].removesuffix(".weight")
    read = 0
    for row in expand(mlx_layout(config), config):
        (source,) = row.sources
        nbytes = math.prod(letters[letter] for letter in source.shape.split()) * DTYPE_BYTES[source.dtypes[0]]
        if source.name.startswith(embedding):
            continue
        if ".experts." in source.name:
            nbytes = nbytes * config.num_experts_per_tok // config.num_local_experts
        read += nbytes
    return read + cache_bytes(config, context)


def tokens_per_second_limit(
    config: ModelConfig, bandwidth: float, precision: Precision | None = None, context: int = 0
) -> float:
    """The most tokens a second that a memory bandwidth (bytes per second) allows."""
    return bandwidth / bytes_per_token(config, precision, context)


def fit(
    config: ModelConfig,
    device: DeviceInfo,
    *,
    precision: Precision | None = None,
    context: int = DEFAULT_CONTEXT,
) -> Fit:
    """What the model needs of a device.

    Raises:
        InvalidRequest: a context out of the model's range, or an unknown precision.
    """
    if not 1 <= context <= config.max_position_embeddings:
        raise InvalidRequest(f"context is {context}; 1 to {config.max_position_embeddings} positions are possible")
    return Fit(
        precision=precision or precision_of(config),
        context=context,
        weight_bytes=weight_bytes(config, precision),
        cache_bytes=cache_bytes(config, context),
        working_bytes=working_bytes(config, chunk=_MIN_CHUNK, positions=context, fused=device.is_mac),
        device=device,
    )


def choose_precision(config: ModelConfig, device: DeviceInfo, *, context: int = DEFAULT_CONTEXT) -> Choice:
    """The best precision for decoding on a device: 8 bits where they fit, else 4.

    8 bits decode faster than bfloat16, at a loss that does not show; bfloat16 is for those who ask for it.
    """
    context = min(context, config.max_position_embeddings)
    q8 = fit(config, device, precision="q8", context=context)
    gpu, needed = format_bytes(device.gpu_bytes), format_bytes(q8.needed_bytes)
    if q8.fits:
        reason = f"q8 needs {needed} with {context} tokens of context; the GPU may use {gpu}"
        return Choice(precision="q8", fit=q8, reason=reason)
    q4 = fit(config, device, precision="q4", context=context)
    reason = f"q8 needs {needed} with {context} tokens of context and the GPU may use only {gpu}; "
    reason += f"q4 needs {format_bytes(q4.needed_bytes)}"
    if not q4.fits:
        reason += ", which does not fit either"
    if q8.remedy is not None:
        reason += f" (for q8: {q8.remedy})"
    return Choice(precision="q4", fit=q4, reason=reason)
