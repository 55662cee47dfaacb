"""How large a model is, whether it fits this machine, and how fast its memory lets it be: from the config alone.

Nothing is read but the config, so that all of it can be said before anything is downloaded. Knows nothing of
how the model is computed beyond which bytes a token needs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ..cache.quantized import quantized_bytes
from ..checkpoint.layouts import HUGGING_FACE, QUANTISED, expand, mlx_layout, sizes
from ..checkpoint.safetensors import DTYPE_BYTES
from ..config import ModelConfig, Quantization
from ..errors import InvalidRequest

__all__ = [
    "GPT_OSS_20B",
    "GPT_OSS_120B",
    "PRECISIONS",
    "RELEASED",
    "Choice",
    "DeviceInfo",
    "Fit",
    "Precision",
    "bytes_per_token",
    "cache_bytes",
    "choose_precision",
    "fit",
    "full_bytes",
    "gigabytes",
    "parameter_count",
    "precision_of",
    "quantization_for",
    "tokens_per_second_limit",
    "weight_bytes",
    "window_bytes",
    "wired_limit_command",
    "with_precision",
    "working_bytes",
]

Precision = Literal["bf16", "q8", "q4"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "q8", "q4")

DEFAULT_CONTEXT = 8192
_BITS: Mapping[str, int] = MappingProxyType({"q8": 8, "q4": 4})
_MIN_CHUNK = 64  # tokens of the smallest prefill chunk: what the working space is counted for


def _released(num_hidden_layers: int, num_local_experts: int) -> ModelConfig:
    """The config of a model as OpenAI released it; the two differ in these numbers only."""
    return ModelConfig.from_dict(
        {
            "model_type": "gpt_oss",
            "vocab_size": 201088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": num_local_experts,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"] * (num_hidden_layers // 2),
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "swiglu_limit": 7.0,
            "rope_theta": 150000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "original_max_position_embeddings": 4096,
                "truncate": False,
            },
        }
    )


GPT_OSS_20B = _released(24, 32)
GPT_OSS_120B = _released(36, 128)
RELEASED: Mapping[str, ModelConfig] = MappingProxyType({"20b": GPT_OSS_20B, "120b": GPT_OSS_120B})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """What matters of a machine."""

    name: str
    memory_bytes: int
    """Of the whole machine."""
    gpu_bytes: int
    """How much of it the GPU may use: on a Mac two thirds to three quarters unless raised."""
    is_mac: bool = False

    @classmethod
    def current(cls) -> DeviceInfo:
        """The machine this runs on."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        info = _mlx_device_info()
        return cls(
            name=str(info.get("device_name") or info.get("architecture") or "this machine"),
            memory_bytes=int(info.get("memory_size", memory)),
            gpu_bytes=int(info.get("max_recommended_working_set_size", memory)),
            is_mac=sys.platform == "darwin",
        )


def _mlx_device_info() -> dict[str, Any]:
    import mlx.core as mx

    return dict(mx.device_info()) if mx.metal.is_available() else {}


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


def wired_limit_command(device: DeviceInfo, needed_bytes: int) -> str | None:
    """The command that lets a Mac's GPU use so much; None if the machine does not have it to give."""
    spare = max(3 * 10**9, device.memory_bytes // 8)
    if not device.is_mac or needed_bytes > device.memory_bytes - spare:
        return None
    return f"sudo sysctl iogpu.wired_limit_mb={math.ceil(needed_bytes / 2**20 / 256) * 256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The precision taken for the dense layers, and why."""

    precision: Precision
    fit: Fit
    reason: str
    """One line for the user."""


def quantization_for(config: ModelConfig, precision: Precision) -> Quantization | None:
    """How dense layers are stored at a precision: groups of 64, or of 32 where a width has no factor 64.

    Raises:
        InvalidRequest: an unknown precision.
    """
    if precision == "bf16":
        return None
    if precision not in _BITS:
        raise InvalidRequest(f"dense is {precision!r}; one of {', '.join(PRECISIONS)} is needed")
    widths = (config.hidden_size, config.query_size)
    group_size = 64 if all(width % 64 == 0 for width in widths) else 32
    return Quantization(bits=_BITS[precision], group_size=group_size)


def with_precision(config: ModelConfig, precision: Precision) -> ModelConfig:
    """The config a conversion to that precision has."""
    return dataclasses.replace(config, quantization=quantization_for(config, precision))


def precision_of(config: ModelConfig) -> Precision:
    """The precision of a config's dense layers."""
    if config.quantization is None:
        return "bf16"
    return "q8" if config.quantization.bits == 8 else "q4"


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
    gpu, needed = gigabytes(device.gpu_bytes), gigabytes(q8.needed_bytes)
    if q8.fits:
        reason = f"q8 needs {needed} with {context} tokens of context; the GPU may use {gpu}"
        return Choice(precision="q8", fit=q8, reason=reason)
    q4 = fit(config, device, precision="q4", context=context)
    reason = f"q8 needs {needed} with {context} tokens of context and the GPU may use only {gpu}; "
    reason += f"q4 needs {gigabytes(q4.needed_bytes)}"
    if not q4.fits:
        reason += ", which does not fit either"
    if q8.remedy is not None:
        reason += f" (for q8: {q8.remedy})"
    return Choice(precision="q4", fit=q4, reason=reason)


def gigabytes(count: int) -> str:
    """For messages."""
    return f"{count / 1e9:.1f} GB"
