"""The precision of the dense layers that a conversion writes: which one, why, and what is lost by it."""

from __future__ import annotations

from gptoss_mlx.config import ModelConfig, Precision, Quantization, quantization_for
from gptoss_mlx.errors import ConversionError
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import choose_precision, loss_of

from .source import SourceModel
from .targets import TargetFormat

__all__ = ["losses", "precision_for"]


def precision_for(
    config: ModelConfig,
    quantization: Quantization | None,
    to: TargetFormat,
    dense: Precision | None,
    device: DeviceInfo | None,
) -> tuple[Precision, str]:
    """The precision, and the reason in one line.

    Args:
        config: the source's.
        quantization: of the source's dense layers.
        to: the layout to write.
        dense: the precision that was asked for, if any.
        device: the machine that must hold the result; by default this one.

    Raises:
        ConversionError: the layout does not have the precision that was asked for.
    """
    if to == "hf":
        if dense not in (None, "bf16"):
            raise ConversionError(
                f"--dense {dense}: the Hugging Face layout keeps dense layers in bf16; leave it out"
            )
        return "bf16", "the Hugging Face layout keeps dense layers in bf16"
    if dense is not None:
        return dense, "as asked for"
    if quantization is not None:
        # More bits than the source has would add bytes and no precision.
        return "q4" if quantization.bits == 4 else "q8", f"the source has {quantization.bits} bits"
    if to == "mlx-lm":
        return "bf16", "as in the source"
    choice = choose_precision(config, device or DeviceInfo.current())
    return choice.precision, choice.reason


def losses(source: SourceModel, dense: Precision) -> tuple[str, ...]:
    """Each change that a conversion makes to the weights' values; empty if it is lossless."""
    found = []
    if source.quantised_experts:
        found.append("experts are quantised to MXFP4")
    if source.other_floats:
        found.append(f"{' and '.join(source.other_floats)} values are rounded to bfloat16")
    rounding = loss_of(dense)
    if rounding is not None and quantization_for(source.config, dense) != source.quantization:
        found.append(rounding)
    return tuple(found)
