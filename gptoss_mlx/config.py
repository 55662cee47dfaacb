"""config.json, frozen and validated; the configs of the released models; the precisions of dense layers.

Every value is checked when it is read: a missing, unknown or inconsistent one is a :class:`ConfigError` that names
the field. Keys that inference does not use are listed in ``ModelConfig.ignored``. Knows nothing of tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from .errors import ConfigError, InvalidRequest
from .files.read import read_json, short_repr
from .quantization import MXFP4, MXFP4_GROUP_SIZE, Quantization

__all__ = [
    "GPT_OSS_20B",
    "GPT_OSS_120B",
    "MAX_LAYERS",
    "PRECISIONS",
    "RELEASED",
    "LayerType",
    "ModelConfig",
    "Precision",
    "RopeConfig",
    "precision_of",
    "quantization_for",
    "with_packed_experts",
    "with_precision",
]

LayerType = Literal["sliding_attention", "full_attention"]
Precision = Literal["bf16", "q8", "q4"]
"""How dense layers (attention, embedding and head) are stored: as released, or quantised to 8 or 4 bits."""
PRECISIONS: tuple[Precision, ...] = ("bf16", "q8", "q4")
"""From exact to small."""
_BITS: Mapping[str, int] = MappingProxyType({"q8": 8, "q4": 4})

MAX_LAYERS = 1024
_THETA_RANGE = (1.0001, 1e9)

# transformers and others write these keys; none of them changes what the model computes.
_WITHOUT_EFFECT = frozenset(
    {
        *("_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype", "eos_token_id"),
        *("initializer_range", "output_router_logits", "pad_token_id", "router_aux_loss_coef", "torch_dtype"),
        *("transformers_version", "use_cache", "quantization_config"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """YaRN rotary embedding (Peng et al., 2023, arXiv:2309.00071)."""

    theta: float
    factor: float
    beta_fast: float
    beta_slow: float
    original_max_position_embeddings: int
    truncate: bool
    """Whether the correction range is rounded to whole dimensions; gpt-oss does not round it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a gpt-oss model, in the names of Hugging Face's config.json.

    Example:
        >>> config = model.config
        >>> config.query_size == config.num_attention_heads * config.head_dim
        True
        >>> config.key_value_size == config.num_key_value_heads * config.head_dim
        True
        >>> config.form("layers.0.mlp.experts.down_proj").mode, config.form("lm_head")
        ('mxfp4', None)
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_local_experts: int
    num_experts_per_tok: int
    sliding_window: int
    layer_types: tuple[LayerType, ...]
    max_position_embeddings: int
    rms_norm_eps: float
    swiglu_limit: float
    rope: RopeConfig
    quantization: Quantization | None = None
    """Of attention, embedding and head; None if they are floats."""
    experts: Quantization | None = MXFP4
    """Of the experts' weights; None if they are floats."""
    exceptions: tuple[tuple[str, Quantization | None], ...] = ()
    """The modules that differ from these two, by name, and the router's where they are quantised."""
    ignored: tuple[str, ...] = ()
    """Keys of the file that this library does not know and did not use."""

    def __post_init__(self) -> None:
        _check_consistency(self)

    @classmethod
    def from_directory(cls, directory: str | Path) -> ModelConfig:
        """Reads ``config.json`` of a checkpoint directory.

        Raises:
            CheckpointError: the file is missing or not JSON.
            ConfigError: a field is missing, unknown or inconsistent.

        Example:
            >>> ModelConfig.from_directory(model.directory) == model.config
            True
        """
        path = Path(directory) / "config.json"
        try:
            return cls.from_dict(read_json(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Reads the form of transformers 4 (``rope_scaling``) or 5 (``rope_parameters``).

        Raises:
            ConfigError: a field is missing, unknown or inconsistent.

        Example:
            >>> ModelConfig.from_dict({"model_type": "llama"})
            Traceback (most recent call last):
            gptoss_mlx.errors.ConfigError: model_type is 'llama'; gpt-oss has 'gpt_oss'
        """
        fields = _Fields(values)
        fields.literal("model_type", "gpt_oss", required=True)
        fields.literal("hidden_act", "silu")
        fields.literal("swiglu_alpha", 1.702)
        fields.literal("attention_bias", True)
        fields.literal("tie_word_embeddings", False)
        experts_per_token = fields.integer("num_experts_per_tok", 1, 64)
        fields.literal("experts_per_token", experts_per_token)
        rope = _rope(fields)
        fields.literal("initial_context_length", rope.original_max_position_embeddings)
        num_hidden_layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
        forms = _Forms.read(fields)
        return cls(
            vocab_size=fields.integer("vocab_size", 1, 2**24),
            hidden_size=fields.integer("hidden_size", 32, 2**16),
            intermediate_size=fields.integer("intermediate_size", 32, 2**16),
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=fields.integer("num_attention_heads", 1, 1024),
            num_key_value_heads=fields.integer("num_key_value_heads", 1, 1024),
            head_dim=fields.integer("head_dim", 2, 1024),
            num_local_experts=fields.integer("num_local_experts", 1, 4096),
            num_experts_per_tok=experts_per_token,
            sliding_window=fields.integer("sliding_window", 1, 2**20),
            layer_types=_layer_types(fields, num_hidden_layers),
            max_position_embeddings=fields.integer("max_position_embeddings", 1, 2**24),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-12, 1e-2),
            swiglu_limit=fields.number("swiglu_limit", 1e-3, 1e4, default=7.0),
            rope=rope,
            quantization=forms.dense,
            experts=forms.experts,
            exceptions=forms.exceptions,
            ignored=fields.unused(),
        )

    def form(self, module: str) -> Quantization | None:
        """How the weight of a module is quantised; None if it is floats.

        Args:
            module: its name.

        Example:
            >>> model.config.form("layers.0.mlp.experts.down_proj").mode
            'mxfp4'
            >>> model.config.form("layers.0.mlp.router") is None
            True
        """
        for name, exception in self.exceptions:
            if name == module:
                return exception
        if module.endswith("mlp.router"):
            return None
        return self.experts if ".experts." in module else self.quantization

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together; all value heads are as wide."""
        return self.num_key_value_heads * self.head_dim


def quantization_for(config: ModelConfig, precision: Precision) -> Quantization | None:
    """The form of dense layers at a precision: groups of 64, or of 32 where a width has no factor 64.

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
    """The config of a conversion to that precision: of dense layers only, all of them alike. A config of that
    precision is returned as it is."""
    if precision == precision_of(config):
        return config
    kept = tuple((name, form) for name, form in config.exceptions if ".mlp." in name)
    return dataclasses.replace(config, quantization=quantization_for(config, precision), exceptions=kept)


def with_packed_experts(config: ModelConfig) -> ModelConfig:
    """The config of a conversion with all experts in MXFP4."""
    kept = tuple((name, form) for name, form in config.exceptions if ".experts." not in name)
    return dataclasses.replace(config, experts=MXFP4, exceptions=kept)


def precision_of(config: ModelConfig) -> Precision:
    """The precision of a config's dense layers; other numbers of bits count as the next of the two."""
    if config.quantization is None:
        return "bf16"
    return "q8" if config.quantization.bits > 4 else "q4"


class _Fields:
    """Reads the values of a JSON object one by one and remembers which were read."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values = values
        self.prefix = prefix
        self._read: set[str] = set()

    @property
    def names(self) -> Iterable[str]:
        return self._values.keys()

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._values.get(name)

    def required(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ConfigError(f"{self.prefix}{name} is missing")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.required(name)
        if type(value) is not int or not low <= value <= high:
            needed = f"a whole number from {low} to {high} is needed"
            raise ConfigError(f"{self.prefix}{name} is {short_repr(value)}; {needed}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self.get(name) if default is not None else self.required(name)
        if value is None and default is not None:
            return default
        # NaN is in no range, and a whole number may be too large to become a float.
        if type(value) not in (int, float) or not low <= value <= high:
            needed = f"a number from {low:g} to {high:g} is needed"
            raise ConfigError(f"{self.prefix}{name} is {short_repr(value)}; {needed}")
        return float(value)

    def literal(self, name: str, expected: Any, *, required: bool = False) -> None:
        """Checks that the field has this value; unless required, it may be absent."""
        value = self.required(name) if required else self.get(name)
        # In Python True == 1; in a config it does not.
        if value is not None and (value != expected or isinstance(value, bool) != isinstance(expected, bool)):
            raise ConfigError(f"{self.prefix}{name} is {short_repr(value)}; gpt-oss has {expected!r}")

    def table(self, name: str) -> _Fields | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ConfigError(f"{self.prefix}{name} is {short_repr(value)}; an object is needed")
        return _Fields(value, f"{self.prefix}{name}.")

    def form(self, name: str) -> Quantization | None:
        """A form; ``false`` stands for floats."""
        if self.get(name) is False:
            return None
        table = self.table(name)
        if table is None:
            raise ConfigError(f"{self.prefix}{name} is null; an object or false is needed")
        form = _form(table)
        table.refuse_unused()
        return form

    def unused(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._values) - self._read - _WITHOUT_EFFECT))

    def refuse_unused(self) -> None:
        """Refuses unknown keys, for objects in which one could change the model."""
        unknown = sorted(name for name in set(self._values) - self._read if self._values[name] is not None)
        if unknown:
            name = unknown[0] if unknown[0].isidentifier() else short_repr(unknown[0])
            raise ConfigError(f"{self.prefix}{name} is unknown: {short_repr(self._values[unknown[0]])}")


def _rope(fields: _Fields) -> RopeConfig:
    """transformers 5 writes ``rope_parameters``, theta included; 4 wrote ``rope_scaling`` and theta beside it."""
    table = fields.table("rope_parameters")
    if table is not None:
        theta = table.number("rope_theta", *_THETA_RANGE)
        fields.literal("rope_theta", theta)
        fields.get("rope_scaling")
    else:
        table = fields.table("rope_scaling")
        theta = fields.number("rope_theta", *_THETA_RANGE)
    if table is None:
        raise ConfigError("rope_scaling is missing; gpt-oss needs YaRN")
    table.literal("type", "yarn")
    table.literal("rope_type", "yarn", required=True)
    truncate = table.get("truncate")
    if truncate not in (None, True, False) or type(truncate) not in (type(None), bool):
        raise ConfigError(f"{table.prefix}truncate is {short_repr(truncate)}; true or false is needed")
    rope = RopeConfig(
        theta=theta,
        factor=table.number("factor", 1.0, 1e4),
        beta_fast=table.number("beta_fast", 1e-3, 1e6, default=32.0),
        beta_slow=table.number("beta_slow", 1e-3, 1e6, default=1.0),
        original_max_position_embeddings=table.integer("original_max_position_embeddings", 1, 2**24),
        # As in transformers: rounded unless the file says otherwise.
        truncate=truncate is not False,
    )
    table.refuse_unused()
    return rope


def _layer_types(fields: _Fields, num_hidden_layers: int) -> tuple[LayerType, ...]:
    names = fields.required("layer_types")
    if not isinstance(names, list) or len(names) != num_hidden_layers:
        raise ConfigError(f"layer_types must be a list of {num_hidden_layers} names, one a layer")
    for position, name in enumerate(names):
        if name not in ("sliding_attention", "full_attention"):
            raise ConfigError(
                f"layer_types[{position}] is {short_repr(name)}; 'sliding_attention' or 'full_attention' is needed"
            )
    return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forms:
    """The block ``quantization`` of a converted checkpoint: the forms of its weights."""

    dense: Quantization | None = None
    experts: Quantization | None = MXFP4
    exceptions: tuple[tuple[str, Quantization | None], ...] = ()

    @classmethod
    def read(cls, fields: _Fields) -> _Forms:
        table = fields.table("quantization")
        if table is None:
            return cls()
        if any("." in name for name in table.names):
            raise ConfigError(
                "quantization is mlx-lm's, layer by layer; re-pack it first: gptoss convert DIRECTORY"
            )
        dense = _form(table) if table.get("bits") is not None or table.get("group_size") is not None else None
        experts = MXFP4 if table.get("experts") is None else table.form("experts")
        modules = table.table("modules")
        names = sorted(modules.names) if modules is not None else ()
        if len(names) > 8 * MAX_LAYERS:
            raise ConfigError(f"{table.prefix}modules names {len(names)} modules; that is too many")
        exceptions = tuple((name, modules.form(name)) for name in names) if modules is not None else ()
        table.refuse_unused()
        return cls(dense=dense, experts=experts, exceptions=exceptions)


def _form(table: _Fields) -> Quantization:
    bits, group_size = table.integer("bits", 2, 8), table.integer("group_size", 16, 128)
    return Quantization.from_values({"bits": bits, "group_size": group_size, "mode": table.get("mode")})


def _check_consistency(config: ModelConfig) -> None:
    for name in ("hidden_size", "intermediate_size"):
        if getattr(config, name) % MXFP4_GROUP_SIZE:
            raise ConfigError(f"{name} is {getattr(config, name)}; MXFP4 needs a multiple of {MXFP4_GROUP_SIZE}")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError(
            f"num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.num_experts_per_tok > config.num_local_experts:
        raise ConfigError(
            f"num_experts_per_tok {config.num_experts_per_tok} is more than "
            f"num_local_experts {config.num_local_experts}"
        )
    if config.head_dim % 2:
        raise ConfigError(f"head_dim is {config.head_dim}; rotary embedding needs an even number")
    if config.num_attention_heads * config.head_dim > 2**20:
        raise ConfigError(f"num_attention_heads × head_dim is {config.query_size}; at most {2**20} is allowed")


def _released(num_hidden_layers: int, num_local_experts: int) -> ModelConfig:
    """The config of a model as OpenAI released it; the two models differ in these numbers only."""
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
