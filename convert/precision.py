"""The forms of the weights that a conversion writes: which ones, why, and what is lost by them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gptoss_mlx.checkpoint.layouts import DENSE, EXPERTS, config_of, generic
from gptoss_mlx.config import ModelConfig, Precision, precision_of, quantization_for, with_packed_experts
from gptoss_mlx.errors import ConversionError
from gptoss_mlx.files.units import format_bytes
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import COMFORTABLE_CONTEXT, choose_precision, loss_of
from gptoss_mlx.quantization import MXFP4, Quantization, form_name

from .quantize import ErrorSums, QuantizationError, as_form, is_exact, measured_error, on_mxfp4_grid
from .source import SourceModel
from .targets import TargetFormat
from .values import Form, Values

__all__ = ["EXPERTS_PRECISIONS", "Chosen", "ExpertsPrecision", "choose_forms", "experts_name", "precision_for"]

ExpertsPrecision = Literal["mxfp4", "q8", "bf16"]
"""How experts are stored: in MXFP4 as released, affine in 8 bits, or as floats."""
EXPERTS_PRECISIONS: tuple[ExpertsPrecision, ...] = ("mxfp4", "q8", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The forms of all weights of a conversion."""

    config: ModelConfig
    """Of the result."""
    parameters: Mapping[str, Values]
    """By name, in the forms to write."""
    dense: Precision
    """The precision of the dense layers; other numbers of bits, which a source may have, count as the next."""
    reason: str
    """One line: why the dense layers have this precision, and the experts, where they were not asked for."""
    losses: tuple[str, ...]
    """Each change to the weights' values; empty if there is none."""
    errors: Mapping[str, ErrorSums]
    """Of the experts that are quantised, by parameter: filled while they are read."""
    measured: Mapping[str, QuantizationError]
    """Of experts that are quantised to MXFP4 on request, over their first 64 MB: before anything is written."""


def choose_forms(
    source: SourceModel,
    to: TargetFormat,
    dense: Precision | None,
    experts: ExpertsPrecision | None,
    device: DeviceInfo | None,
) -> Chosen:
    """Chooses the form of every weight.

    Args:
        source: the checkpoint.
        to: the layout to write.
        dense: the precision of dense layers that was asked for, if any.
        experts: the precision of experts that was asked for, if any.
        device: the machine that must hold the result; by default this one.

    Raises:
        ConversionError: the layout does not have a precision that was asked for.
    """
    forms = source.forms
    matrices = {name: source.parameters[name] for name in forms}
    on_grid = _find_on_grid(matrices) if experts in (None, "mxfp4") else frozenset()
    forms |= _expert_forms(source, matrices, on_grid, to, experts)
    config = config_of(source.config, forms)
    precision, reason = precision_for(config, source.dense, to, dense, device)
    as_they_are = dense is None and to != "hf" and source.dense
    for name, values in matrices.items():
        if generic(name) in DENSE and not as_they_are:
            chosen = quantization_for(source.config, precision)
            exact = name in source.merged
            forms[name] = _kept(values, chosen) if chosen else values.form if exact else _as_halves(values)
    errors = {
        name: ErrorSums()
        for name, form in forms.items()
        if generic(name) in EXPERTS and isinstance(form, Quantization) and form != matrices[name].form
    }
    changed = {name: as_form(matrices[name], form, errors.get(name)) for name, form in forms.items()}
    config = config_of(source.config, forms)
    if experts is None and any(name not in on_grid for name in errors):
        reason += f"; {_experts_reason(config, device or DeviceInfo.current())}"
    return Chosen(
        config=config,
        parameters=dict(source.parameters) | changed,
        dense=precision_of(config),
        reason=reason,
        losses=tuple(_losses(matrices, forms, on_grid)),
        errors=errors,
        measured={
            name: measured_error(matrices[name], MXFP4)
            for name in errors
            if experts == "mxfp4" and name not in on_grid
        },
    )


def _find_on_grid(matrices: Mapping[str, Values]) -> frozenset[str]:
    """The experts that are floats and have values of MXFP4 only. Reads them up to the first other value."""
    floats = (name for name, values in matrices.items() if generic(name) in EXPERTS and not values.quantization)
    return frozenset(name for name in floats if on_mxfp4_grid(matrices[name]))


def _expert_forms(
    source: SourceModel,
    matrices: Mapping[str, Values],
    on_grid: frozenset[str],
    to: TargetFormat,
    experts: ExpertsPrecision | None,
) -> dict[str, Form]:
    found = {name: values for name, values in matrices.items() if generic(name) in EXPERTS}
    if to == "hf":
        if experts == "q8":
            raise ConversionError("--experts q8: the Hugging Face layout has no 8-bit experts; take mxfp4 or bf16")
        packed = all(name in on_grid or values.form == MXFP4 for name, values in found.items())
        experts = experts or ("mxfp4" if packed else "bf16")
    if experts == "bf16":
        return {
            name: values.form if name in source.merged else _as_halves(values) for name, values in found.items()
        }
    if experts == "mxfp4":
        return dict.fromkeys(found, MXFP4)
    widths = (source.config.hidden_size, source.config.intermediate_size)
    eight = Quantization(bits=8, group_size=64 if all(width % 64 == 0 for width in widths) else 32)
    if experts == "q8":
        return {name: _kept(values, eight) for name, values in found.items()}
    return {name: values.quantization or (MXFP4 if name in on_grid else eight) for name, values in found.items()}


def _kept(values: Values, quantization: Quantization) -> Quantization:
    """The form that was asked for, or the source's own if that has as many bits in other groups."""
    own = values.quantization
    return (
        own if own is not None and (own.mode, own.bits) == (quantization.mode, quantization.bits) else quantization
    )


def _as_halves(values: Values) -> Form:
    """Floats of two bytes: the source's own, or bfloat16."""
    return "F16" if values.form == "F16" else "BF16"


def precision_for(
    config: ModelConfig,
    quantised: Sequence[Quantization],
    to: TargetFormat,
    dense: Precision | None,
    device: DeviceInfo | None,
) -> tuple[Precision, str]:
    """The precision of the dense layers, and the reason in one line.

    Args:
        config: the source's, with the experts as they will be written.
        quantised: the forms of the source's dense layers, as far as they are quantised.
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
    if quantised:
        # More bits than the source has would add bytes and no precision.
        bits = sorted({form.bits for form in quantised})
        return "q4" if bits[-1] <= 4 else "q8", f"the source has {' and '.join(map(str, bits))} bits"
    if to == "mlx-lm":
        return "bf16", "as in the source"
    choice = choose_precision(config, device or DeviceInfo.current())
    return choice.precision, choice.reason


def _experts_reason(config: ModelConfig, device: DeviceInfo) -> str:
    """Why experts that are floats are stored in 8 bits, and whether they fit the machine so."""
    context = min(COMFORTABLE_CONTEXT, config.max_position_embeddings)
    budget = Budget(config=config, device=device, context=context)
    packed = dataclasses.replace(budget, config=with_packed_experts(config))
    needed, smaller = (format_bytes(each.needed_bytes()) for each in (budget, packed))
    said = f"experts take 8 bits because MXFP4 does not hold all their values: {needed} are needed, which "
    return said + ("fits" if budget.fits else f"does not fit; --experts mxfp4 needs {smaller}, at a larger loss")


def experts_name(config: ModelConfig) -> str:
    """How a model's experts are stored, for the user: ``mxfp4``, ``q8``, ``bf16``, several if layers differ."""
    forms = {name: form for name, form in config.exceptions if ".experts." in name}
    names = [form_name(config.experts)]
    names += [
        f"{form_name(form)} ({count} of {2 * config.num_hidden_layers})"
        for form, count in Counter(forms.values()).items()
    ]
    return ", ".join(names)


def _losses(matrices: Mapping[str, Values], forms: Mapping[str, Form], on_grid: frozenset[str]) -> dict[str, None]:
    """Each change that a conversion makes to the weights' values, once."""
    found: dict[str, None] = {}
    for name, form in forms.items():
        own = matrices[name].form
        if own == form or name in on_grid or (form in ("BF16", "F16", "F32") and is_exact(own, form)):
            continue
        is_expert = generic(name) in EXPERTS
        if not isinstance(form, Quantization):
            what = "dequantised values" if isinstance(own, Quantization) else "float32 values"
            loss: str | None = f"{what} are rounded to bfloat16"
        elif is_expert:
            loss = "experts are quantised to " + ("MXFP4" if form == MXFP4 else f"{form.bits} bits")
        elif isinstance(own, Quantization) and own.widens_to(form):
            loss = None
        else:
            loss = loss_of("q8" if form.bits == 8 else "q4")
        if loss is not None:
            found[loss] = None
    return found
