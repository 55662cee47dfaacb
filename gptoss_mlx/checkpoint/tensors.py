"""The tensors of a checkpoint by their values: words with their scales (and biases) are one tensor.

Knows the names that programs give the parts of a quantised tensor, and where config.json has their forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError
from ..files.read import read_json
from ..quantization import MXFP4, Quantization
from .layouts import (
    MATRICES,
    MLX_LM,
    Layout,
    check_tensors,
    config_of,
    expand,
    generic,
    layout_of,
    parts_of,
)
from .safetensors import Checkpoint, TensorRecord

__all__ = [
    "StoredModel",
    "StoredTensor",
    "joined_form",
    "mlx_lm_forms",
    "open_model",
    "own_forms",
    "pack",
    "packed_parts",
    "stored_tensors",
    "unpack",
]

Forms = Callable[[str], Quantization]
"""The form of a quantised module by its name."""

_BLOCK_BYTES = 16  # of MXFP4: 32 values


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor and the records that its values are made of."""

    name: str
    shape: tuple[int, ...]
    """Of its values."""
    form: Quantization | None
    """None if it is not quantised."""
    records: tuple[TensorRecord, ...]
    """The values; or words and scales; or words, scales and biases."""

    @property
    def place(self) -> str:
        """The file and the tensor's name, for messages."""
        return f"{self.records[0].file}: tensor {self.records[0].name}"

    @property
    def dtype(self) -> str:
        """Of the values; of a quantised tensor that of its words."""
        return self.records[0].dtype


def stored_tensors(checkpoint: Checkpoint, forms: Forms) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint by name; one of several parts has the name without ``_blocks``, or of its words.

    Args:
        checkpoint: its headers.
        forms: is asked for the form of each module whose weight has scales beside it, except MXFP4 in blocks.

    Raises:
        CheckpointError: a part is missing, or has another dtype or shape than the form demands.
    """
    records = dict(checkpoint.tensors)
    found: dict[str, StoredTensor] = {}
    for record in checkpoint.tensors.values():
        module, _, part = record.name.rpartition(".")
        if record.name.endswith(("_blocks", ".blocks")):
            base, mark = record.name[: -len("_blocks")], record.name[-len("_blocks")]
            parts = _take(records, record, (record.name, f"{base}{mark}scales"))
            found[base] = _blocks(base, parts)
        elif part == "weight" and f"{module}.scales" in records:
            form = forms(module)
            names = [f"{module}.{name}" for name in ("weight", "scales", "biases")]
            found[record.name] = _words(_take(records, record, names[: 3 if form.mode == "affine" else 2]), form)
    for name, record in records.items():
        found[name] = StoredTensor(name=name, shape=record.shape, form=None, records=(record,))
    return found


def _take(
    records: dict[str, TensorRecord], record: TensorRecord, names: tuple[str, ...] | list[str]
) -> tuple[TensorRecord, ...]:
    for name in names:
        if name not in records:
            raise CheckpointError(f"{record.file}: tensor {name} of {record.name} is missing; download it again")
    return tuple(records.pop(name) for name in names)


def _blocks(name: str, parts: tuple[TensorRecord, ...]) -> StoredTensor:
    """MXFP4 as OpenAI stores it: bytes [..., groups, 16] and their scales [..., groups]."""
    blocks, scales = parts
    for part in parts:
        if part.dtype != "U8":
            raise CheckpointError(f"{part.file}: tensor {part.name} is {part.dtype}; U8 is needed")
    if blocks.shape[-1:] != (_BLOCK_BYTES,) or scales.shape != blocks.shape[:-1] or len(scales.shape) != 3:
        raise CheckpointError(
            f"{blocks.file}: tensor {blocks.name} has shape {list(blocks.shape)} and its scales "
            f"{list(scales.shape)}; MXFP4 has blocks of {_BLOCK_BYTES} bytes with one scale each"
        )
    *outer, groups = scales.shape
    shape = (*outer, groups * MXFP4.group_size)
    return StoredTensor(name=name, shape=shape, form=MXFP4, records=parts)


def packed_parts(name: str, shape: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The names and shapes of the two tensors of bytes in which the Hugging Face layout stores MXFP4 values."""
    groups = (*shape[:-1], shape[-1] // MXFP4.group_size)
    return (f"{name}_blocks", (*groups, _BLOCK_BYTES)), (f"{name}_scales", groups)


def _words(parts: tuple[TensorRecord, ...], form: Quantization) -> StoredTensor:
    weight = parts[0]
    *outer, words = weight.shape or (0,)
    shape = (*outer, words * 32 // form.bits)
    for record, part in zip(parts, parts_of(shape, form), strict=True):
        if record.dtype not in part.dtypes or record.shape != part.shape or len(outer) not in (1, 2):
            raise CheckpointError(
                f"{record.file}: tensor {record.name} {record.dtype} {list(record.shape)} is not of "
                f"{form.mode} with {form.bits} bits in groups of {form.group_size}, as config.json says"
            )
    return StoredTensor(name=weight.name, shape=shape, form=form, records=parts)


def own_forms(form: Callable[[str], Quantization | None], directory: object) -> Forms:
    """The forms of a checkpoint that ``gptoss convert`` wrote, from its config's ``form``."""

    def of(module: str) -> Quantization:
        found = form(module)
        if found is None:
            raise CheckpointError(f"{directory}: {module} is quantised, which config.json does not say")
        return found

    return of


def mlx_lm_forms(quantization: Any) -> Forms:
    """The forms in mlx-lm's ``quantization``: common settings, and entries for modules."""

    def of(module: str) -> Quantization:
        if not isinstance(quantization, dict):
            raise ConfigError(f"quantization is missing, but {module} is quantised")
        own = quantization.get(module)
        return Quantization.from_values(own if isinstance(own, dict) else quantization)

    return of


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A checkpoint that can be loaded without a conversion; every tensor's name, shape and form was checked."""

    checkpoint: Checkpoint
    layout: Layout
    config: ModelConfig
    """With the forms that the parameters have once they are loaded."""
    tensors: Mapping[str, StoredTensor]
    """By the layout's names."""


def open_model(directory: str | Path) -> StoredModel:
    """Opens a checkpoint that can be loaded without a conversion; reads config.json and the headers.

    Raises:
        CheckpointError: it is damaged or incomplete, or must be converted first.
        ConfigError: config.json does not describe a gpt-oss, or not the forms of its weights.
    """
    checkpoint = Checkpoint.open(directory)
    layout = layout_of(checkpoint)
    path = checkpoint.directory / "config.json"
    values = read_json(path)
    is_mlx_lm = layout.rows is MLX_LM
    quantization = values.pop("quantization", None) if is_mlx_lm else None
    try:
        config = ModelConfig.from_dict(values)
        forms = mlx_lm_forms(quantization) if is_mlx_lm else own_forms(config.form, directory)
        tensors = stored_tensors(checkpoint, forms)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    check_tensors(tensors, layout.rows, config, directory)
    joined = {
        row.target: joined_form([tensors[source.name].form for source in row.sources])
        for row in expand(layout.rows, config)
        if generic(row.target) in MATRICES
    }
    if is_mlx_lm:
        config = config_of(config, joined)  # config.json does not say which modules are floats
    for target, form in joined.items():
        module = target.removesuffix(".weight")
        if form != config.form(module):
            raise CheckpointError(
                f"{directory}: {module} is not quantised as config.json says; convert the source again"
            )
    return StoredModel(checkpoint=checkpoint, layout=layout, config=config, tensors=tensors)


def joined_form(forms: Sequence[Quantization | None]) -> Quantization | None:
    """The form of a parameter that several tensors are joined to; None, floats, if no other holds all values.

    Affine forms differ in mixed quantisations: the values of fewer bits are values of more bits too, and a scale
    of many values is the scale of each part of them.
    """
    if len(set(forms)) == 1:
        return forms[0]
    affine = [form for form in forms if form is not None and form.mode == "affine"]
    if len(affine) < len(forms):
        return None
    return Quantization(bits=max(form.bits for form in affine), group_size=min(form.group_size for form in affine))


def unpack(words: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """The codes in rows of words: a stream of bits, the lowest first."""
    if bits == 8:
        return words
    stream = np.unpackbits(words, axis=1, bitorder="little").reshape(len(words), -1, bits)
    return np.packbits(stream, axis=2, bitorder="little")[:, :, 0]


def pack(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """The inverse of :func:`unpack`."""
    if bits == 8:
        return codes
    stream = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little")
    return np.packbits(stream.reshape(len(codes), -1), axis=1, bitorder="little")
