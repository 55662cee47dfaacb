"""Reading LoRA adapters, as PEFT and mlx-lm save them: for each weight two factors whose product is added to it.

What an adapter changes besides is refused: nothing of it is left out without a word. Knows no MLX.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig
from ..errors import CheckpointError
from ..files.read import inside, open_regular, read_json, short_repr
from .layouts import FLOATS, sizes
from .safetensors import ADAPTER_FILES, TensorRecord, read_header

__all__ = ["Adapter", "Factors", "adapter_file", "read_adapter"]

Floats = npt.NDArray[np.float32]

_CONFIG: Final = "adapter_config.json"
_MAX_RANK: Final = 4096
_MAX_BYTES: Final = 4 * 2**30
_MAX_PATTERNS: Final = 10_000
_PLAIN_NAME = re.compile(r"[\w.]+")  # PEFT takes regular expressions
_MAX_SCALE: Final = 1e6
# Settings of PEFT that change more than two factors, and their values without effect.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "bias": ("none",),
    "modules_to_save": ([],),
    "layer_replication": ([],),
    "trainable_token_indices": ([], {}),
    "alora_invocation_tokens": ([],),
}
_PEFT = re.compile(
    r"base_model\.model\.model\.layers\.(?P<n>\d{1,4})\.(?P<module>self_attn\.[qkvo]_proj|mlp\.router|mlp\.experts)"
    r"(?P<nesting>(?:\.base_layer)*)\.lora_(?P<side>[AB])\.weight"
)
_MLX_LM = re.compile(
    r"model\.layers\.(?P<n>\d{1,4})\.(?P<module>self_attn\.[qkvo]_proj|mlp\.router|mlp\.experts\.(?:gate|up|down)_proj)"
    r"(?P<nesting>)\.lora_(?P<side>[ab])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Two factors of what is added to a weight [..., out, in], for experts one pair each."""

    down: Floats
    """[..., R, in]."""
    up: Floats
    """[..., out, R], with the adapter's scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter for a model of a certain shape."""

    directory: Path
    factors: Mapping[str, Factors]
    """By the parameter's name in the model."""

    @property
    def changes_experts(self) -> bool:
        """Whether it changes more than attention and routers."""
        return any(".experts." in name for name in self.factors)


def read_adapter(directory: str | Path, config: ModelConfig) -> Adapter:
    """Reads an adapter for a model.

    Args:
        directory: has ``adapter_config.json``, and ``adapter_model.safetensors`` or ``adapters.safetensors``.
        config: the model's.

    Raises:
        CheckpointError: it is damaged, for another model, or changes what is not read here.
    """
    directory = Path(directory)
    if not (directory / _CONFIG).exists():
        raise CheckpointError(f"{directory}: has no {_CONFIG}; name the directory of a LoRA adapter")
    settings = read_json(directory / _CONFIG)
    file = adapter_file(directory)
    records = read_header(file)
    if sum(record.nbytes for record in records.values()) > _MAX_BYTES:
        raise CheckpointError(f"{file}: is larger than {_MAX_BYTES} bytes; that is no adapter")
    is_peft = file.name == ADAPTER_FILES[0]
    scale_of = (_peft_scales if is_peft else _mlx_lm_scales)(directory / _CONFIG, settings)
    weights = {name: (out, width) for name, out, width in _weights(config)}
    parts: dict[str, Factors] = {}
    for module, sides in _pairs(file, records, _PEFT if is_peft else _MLX_LM).items():
        down, up = (_read(record) for record in sides)
        if not is_peft and down.ndim == 2:
            down, up = down.T, up.T
        name, factors = _placed(file, module, down, up, weights, config.num_local_experts)
        if name in parts:
            raise CheckpointError(f"{file}: changes {name} twice")
        scale = np.float32(scale_of(name, factors.down.shape[-2]))
        parts[name] = Factors(down=factors.down, up=factors.up * scale)
    if not parts:
        raise CheckpointError(f"{file}: changes nothing; it is empty")
    return Adapter(directory=directory, factors=MappingProxyType(_joined(parts, config)))


def adapter_file(directory: Path) -> Path:
    """The file with an adapter's weights.

    Raises:
        CheckpointError: there is none.
    """
    file = next((directory / name for name in ADAPTER_FILES if (directory / name).exists()), None)
    if file is None:
        raise CheckpointError(f"{directory}: has no {' or '.join(ADAPTER_FILES)}; only these are read")
    return file


def _weights(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """The weights that adapters change, by the names of transformers or mlx-lm, with their two dimensions."""
    letters = sizes(config)
    hidden, inner = letters["H"], letters["I"]
    for n in range(config.num_hidden_layers):
        layer = f"model.layers.{n}"
        for part, letter in (("q", "Q"), ("k", "K"), ("v", "K")):
            yield f"{layer}.self_attn.{part}_proj", letters[letter], hidden
        yield f"{layer}.self_attn.o_proj", hidden, letters["Q"]
        yield f"{layer}.mlp.router", letters["E"], hidden
        yield f"{layer}.mlp.experts.gate_up_proj", letters["2I"], hidden
        yield f"{layer}.mlp.experts.gate_proj", inner, hidden
        yield f"{layer}.mlp.experts.up_proj", inner, hidden
        yield f"{layer}.mlp.experts.down_proj", hidden, inner


def _pairs(
    file: Path, records: Mapping[str, TensorRecord], pattern: re.Pattern[str]
) -> dict[str, tuple[TensorRecord, TensorRecord]]:
    """Both factors of each module; PEFT's second adapter of the same module has ``.base_layer`` in its name."""
    found: dict[str, dict[str, TensorRecord]] = {}
    for name, record in records.items():
        match = pattern.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{file}: tensor {name} is none that is read; merge it with the program it is of"
            )
        if record.dtype not in FLOATS or len(record.shape) not in (2, 3):
            raise CheckpointError(f"{file}: tensor {name} {record.dtype} {list(record.shape)} is no factor")
        module = f"model.layers.{match['n']}.{match['module']}{match['nesting']}"
        found.setdefault(module, {})[match["side"].upper()] = record
    for module, sides in found.items():
        if len(sides) != 2:
            raise CheckpointError(f"{file}: one of the two factors of {module} is missing; it is damaged")
    return {module: (sides["A"], sides["B"]) for module, sides in found.items()}


def _placed(
    file: Path, module: str, down: Floats, up: Floats, weights: Mapping[str, tuple[int, int]], experts: int
) -> tuple[str, Factors]:
    """The weight that two factors change, and the factors as :class:`Factors` has them, without the scale."""
    names = [module]
    if ".mlp.experts" in module and down.ndim == 2:  # PEFT: all experts in one matrix
        base = module.partition(".base_layer")[0]
        names = [f"{base}.gate_up_proj", f"{base}.down_proj"]
        rank = down.shape[0] // experts
        if rank * experts == down.shape[0] == up.shape[1]:
            down = down.reshape(experts, rank, down.shape[1])
            up = up.reshape(up.shape[0], rank, experts).transpose(2, 0, 1)
    shape = (up.shape[-2], down.shape[-1])
    name = next((name for name in names if weights.get(name) == shape), None)
    expected = (experts,) if name is not None and ".experts." in name else ()
    if name is None or down.shape[:-2] != expected or up.shape[:-2] != expected or down.shape[-2] != up.shape[-1]:
        raise CheckpointError(
            f"{file}: {module} has factors {list(down.shape)} and {list(up.shape)}; it is for another model"
        )
    if not 1 <= down.shape[-2] <= _MAX_RANK or not np.isfinite(down).all() or not np.isfinite(up).all():
        raise CheckpointError(f"{file}: {module} has a rank of {down.shape[-2]}, or values that are no numbers")
    return name, Factors(down=down, up=up)


def _joined(parts: Mapping[str, Factors], config: ModelConfig) -> dict[str, Factors]:
    """The factors by the model's parameters, in which q, k and v, and gate and up, are one."""
    letters = sizes(config)
    rows = {"q": slice(0, letters["Q"]), "k": slice(letters["Q"], letters["Q"] + letters["K"])}
    rows |= {"v": slice(letters["Q"] + letters["K"], None), "gate": slice(0, None, 2), "up": slice(1, None, 2)}
    heights = {"qkv_proj": letters["Q+2K"], "gate_up_proj": letters["2I"]}
    together: dict[str, dict[str, Factors]] = {}
    for name, factors in parts.items():
        path, _, module = name.removeprefix("model.").rpartition(".")
        cut = module.removesuffix("_proj")
        whole = "qkv_proj" if cut in ("q", "k", "v") else "gate_up_proj" if cut in ("gate", "up") else module
        together.setdefault(f"{path}.{whole}.weight", {})[cut] = factors
    found: dict[str, Factors] = {}
    for target, cuts in together.items():
        if not cuts.keys() <= rows.keys():
            (found[target],) = cuts.values()
            continue
        down = np.concatenate([factors.down for factors in cuts.values()], axis=-2)
        up = np.zeros((*down.shape[:-2], heights[target.split(".")[-2]], down.shape[-2]), np.float32)
        first = 0
        for cut, factors in cuts.items():
            last = first + factors.up.shape[-1]
            up[..., rows[cut], first:last] = factors.up
            first = last
        found[target] = Factors(down=down, up=up)
    return found


def _peft_scales(path: Path, settings: Mapping[str, Any]) -> Callable[[str, int], float]:
    """The scale of a weight by its name and rank, from PEFT's settings."""
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {short_repr(settings.get('peft_type'))}; only LORA is read")
    for name, plain in _PLAIN.items():
        if settings.get(name) is not None and settings[name] not in plain:
            raise CheckpointError(
                f"{path}: {name} is {short_repr(settings[name])}, which is not read; merge the adapter with PEFT"
            )
    alphas = settings.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or len(alphas) > _MAX_PATTERNS or not all(map(_PLAIN_NAME.fullmatch, alphas)):
        raise CheckpointError(f"{path}: alpha_pattern is {short_repr(alphas)}; an object with names is needed")

    def scale(name: str, rank: int) -> float:
        own = next((key for key in alphas if name == key or name.endswith(f".{key}")), None)
        alpha = settings.get("lora_alpha") if own is None else alphas[own]
        divisor = math.sqrt(rank) if settings.get("use_rslora") is True else rank
        return _number(path, "lora_alpha", alpha) / divisor

    return scale


def _mlx_lm_scales(path: Path, settings: Mapping[str, Any]) -> Callable[[str, int], float]:
    """The same from mlx-lm's settings."""
    kind = settings.get("fine_tune_type", "lora")
    if kind != "lora":
        raise CheckpointError(
            f"{path}: fine_tune_type is {short_repr(kind)}; only lora is read: fuse it with mlx-lm"
        )
    parameters = settings.get("lora_parameters")
    scale = _number(
        path, "lora_parameters.scale", parameters.get("scale") if isinstance(parameters, dict) else None
    )
    return lambda name, rank: scale


def _number(path: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= _MAX_SCALE:
        raise CheckpointError(f"{path}: {name} is {short_repr(value)}; a number is needed")
    return float(value)


def _read(record: TensorRecord) -> Floats:
    """The values of a tensor."""
    try:
        file, _ = open_regular(inside(record.file))
        with file:
            file.seek(record.begin)
            data = file.read(record.nbytes)
    except OSError as error:
        raise CheckpointError(f"{record.file}: cannot be read ({error.strerror or error})") from error
    if len(data) != record.nbytes:
        raise CheckpointError(f"{record.file}: became shorter while it was read")
    if record.dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(record.shape)
    stored = np.float16 if record.dtype == "F16" else np.float32
    return np.frombuffer(data, stored).astype(np.float32).reshape(record.shape)
