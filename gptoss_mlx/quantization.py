"""How a weight is quantised, as MLX does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from .errors import ConfigError
from .files.read import short_repr

__all__ = ["MXFP4", "MXFP4_GROUP_SIZE", "Mode", "Quantization", "form_name"]

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
"""MLX's ways to quantise. Affine: a scale and a bias for a group. The others: a shared exponent or float8."""
_FORMS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = MappingProxyType(
    {
        "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
        "mxfp4": ((4,), (32,)),
        "mxfp8": ((8,), (32,)),
        "nvfp4": ((4,), (16,)),
    }
)
"""The bits and group sizes that MLX multiplies, by mode."""
_DEFAULTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
)
"""MLX's bits and group size, by mode."""

MXFP4_GROUP_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a weight is quantised: as MLX does it, each row in groups.

    Raises:
        ConfigError: MLX does not multiply weights of that form.
    """

    bits: int
    group_size: int
    mode: Mode = "affine"

    def __post_init__(self) -> None:
        bits, sizes = _FORMS.get(self.mode, ((), ()))
        if self.bits not in bits or self.group_size not in sizes:
            raise ConfigError(
                f"quantization has mode {short_repr(self.mode)}, bits {short_repr(self.bits)} and group_size "
                f"{short_repr(self.group_size)}; MLX has affine with 2 to 6 or 8 bits in groups of 32, 64 or 128, "
                "mxfp4, mxfp8 and nvfp4"
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Quantization:
        """Reads ``bits``, ``group_size`` and ``mode``; for null MLX takes the mode's own.

        Raises:
            ConfigError: a value is out of range, or of another type.
        """
        mode = "affine" if values.get("mode") is None else values["mode"]
        bits, group_size = _DEFAULTS.get(mode, (0, 0)) if isinstance(mode, str) else (0, 0)
        bits = bits if values.get("bits") is None else values["bits"]
        group_size = group_size if values.get("group_size") is None else values["group_size"]
        if not isinstance(mode, str) or type(bits) is not int or type(group_size) is not int:
            raise ConfigError(f"quantization is {short_repr(dict(values))}; bits, group_size and mode are needed")
        return cls(bits=bits, group_size=group_size, mode=cast(Mode, mode))

    def widens_to(self, other: Quantization) -> bool:
        """Whether another form has every value of this one: affine, with no fewer bits, in groups no larger."""
        both_affine = self.mode == other.mode == "affine"
        return both_affine and self.bits <= other.bits and self.group_size % other.group_size == 0


MXFP4 = Quantization(bits=4, group_size=MXFP4_GROUP_SIZE, mode="mxfp4")
"""The experts of the released models."""


def form_name(form: Quantization | None) -> str:
    """A form as the user reads it: ``bf16``, ``q8``, ``mxfp4`` and so on."""
    if form is None:
        return "bf16"
    return f"q{form.bits}" if form.mode == "affine" else form.mode
