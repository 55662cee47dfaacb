"""A checkpoint in any layout, opened as the parameters of the model.

Headers, config and every tensor are checked first against the table of the layout.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from gptoss_mlx.checkpoint.adapter import Adapter, read_adapter
from gptoss_mlx.checkpoint.layouts import (
    DENSE,
    FLOATS,
    MATRICES,
    MLX,
    Layout,
    Row,
    Source,
    Transform,
    check_tensors,
    expand,
    generic,
    named,
    recognise,
    shape_of,
    sizes,
)
from gptoss_mlx.checkpoint.safetensors import Checkpoint
from gptoss_mlx.checkpoint.tensors import StoredTensor, mlx_lm_forms, own_forms, stored_tensors
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, ConfigError
from gptoss_mlx.files.read import read_json, short_repr
from gptoss_mlx.quantization import Quantization

from .gguf import gguf_stored, gguf_values, open_gguf
from .layouts import LAYOUTS, ORIGINAL, hugging_face_config
from .quantize import as_floats, in_one_form
from .readers import CheckedScales, Reader, SourceFiles, Stored, row_count
from .values import (
    Float,
    Form,
    Values,
    expert_biases,
    interleaved,
    joined_columns,
    joined_rows,
    merged,
    transposed,
)

__all__ = ["SourceModel", "open_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A checkpoint in which every tensor belongs to a parameter."""

    directory: Path
    """Or the GGUF file."""
    layout: Layout
    config: ModelConfig
    """The model's shape; the forms of its weights are those of ``parameters``."""
    config_values: Mapping[str, Any]
    """The values of config.json in Hugging Face's form."""
    nbytes: int
    parameters: Mapping[str, Values]
    """By the parameter's name."""
    files: SourceFiles
    merged: frozenset[str] = frozenset()
    """The parameters that an adapter changed: float32, and not rounded where floats are written."""
    texts: Mapping[str, bytes]
    """Files for beside the weights that are made from the source, by name."""

    @property
    def forms(self) -> dict[str, Form]:
        """The forms of the weights that may be quantised, by the parameter's name."""
        return {name: values.form for name, values in self.parameters.items() if generic(name) in MATRICES}

    @property
    def dense(self) -> tuple[Quantization, ...]:
        """The forms in which the source has dense layers, as far as they are quantised."""
        forms = {form: None for name, form in self.forms.items() if generic(name) in DENSE}
        return tuple(form for form in forms if isinstance(form, Quantization))

    def __enter__(self) -> SourceModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.files.close()


def open_source(place: str | Path, adapter: str | Path | None = None) -> SourceModel:
    """Opens a checkpoint: a directory, or a GGUF file. No tensor is read yet.

    Args:
        place: of the checkpoint.
        adapter: the directory of a LoRA adapter, which is added to the weights.

    Raises:
        CheckpointError: it is damaged, incomplete, in no known layout, or has a tensor that no table names.
        ConfigError: config.json, or a GGUF file's metadata, does not describe a gpt-oss.
    """
    place = Path(place)
    source = _open_gguf(place) if place.is_file() else _open_directory(place)
    return source if adapter is None else _with_adapter(source, read_adapter(adapter, source.config))


def _with_adapter(source: SourceModel, adapter: Adapter) -> SourceModel:
    changed = {
        name: merged(as_floats(source.parameters[name], "F32"), factors)
        for name, factors in adapter.factors.items()
    }
    parameters = MappingProxyType(dict(source.parameters) | changed)
    return dataclasses.replace(source, parameters=parameters, merged=frozenset(changed))


def _open_directory(directory: Path) -> SourceModel:
    if not (directory / "config.json").exists() and (directory / "original" / "config.json").exists():
        directory = directory / "original"
    checkpoint = Checkpoint.open(directory)
    values = read_json(directory / "config.json")
    _refuse_other_quantisers(checkpoint, values.get("quantization_config"))
    layout = recognise(checkpoint.tensors, LAYOUTS)
    if layout is None:
        raise CheckpointError(
            f"{directory}: no gpt-oss experts among its {len(checkpoint.tensors)} tensors; "
            "name a gpt-oss checkpoint"
        )
    with _naming_config(directory):
        if layout.rows is ORIGINAL:
            values = hugging_face_config(values)
        quantization = values.pop("quantization", None)
        if layout.rows is MLX:
            forms = own_forms(ModelConfig.from_dict(values | {"quantization": quantization}).form, directory)
        else:
            forms = mlx_lm_forms(quantization)
            if quantization is not None:
                values.pop("quantization_config", None)  # mlx-lm repeats ``quantization`` there
        config = ModelConfig.from_dict(values)
        stored = stored_tensors(checkpoint, forms)
    files = SourceFiles()
    return _model(directory, layout, config, values, stored, _Tensors(stored, files), files)


def _refuse_other_quantisers(checkpoint: Checkpoint, quantization: Any) -> None:
    """Refuses what bitsandbytes, AWQ, compressed-tensors and others packed, by its name."""
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    are_floats = all(record.dtype in FLOATS for record in checkpoint.tensors.values())
    if method not in (None, "mxfp4") and not are_floats:
        raise CheckpointError(
            f"{checkpoint.directory}: is quantised by {short_repr(method)}, which is not read; name the model it "
            "was made from, or a GGUF or MLX release of it"
        )


def _open_gguf(path: Path) -> SourceModel:
    file = open_gguf(path)
    layout = Layout(name="GGUF", signature="", rows=file.rows)
    try:
        config = ModelConfig.from_dict(file.config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    files = SourceFiles()
    stored = {name: gguf_stored(record) for name, record in file.tensors.items()}

    def values_of(name: str) -> Values:
        return gguf_values(file.tensors[name], files)

    texts = {"tokenizer.json": file.tokenizer}
    return _model(path, layout, config, file.config, stored, values_of, files, texts)


def _model(
    place: Path,
    layout: Layout,
    config: ModelConfig,
    config_values: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    values_of: Callable[..., Values],
    files: SourceFiles,
    texts: Mapping[str, bytes] = MappingProxyType({}),
) -> SourceModel:
    check_tensors(stored, layout.rows, config, place)
    return SourceModel(
        directory=place,
        layout=layout,
        config=config,
        config_values=MappingProxyType(dict(config_values)),
        nbytes=sum(record.nbytes for tensor in stored.values() for record in tensor.records),
        parameters=MappingProxyType(dict(_parameters(layout.rows, config, values_of))),
        files=files,
        texts=texts,
    )


@contextlib.contextmanager
def _naming_config(directory: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{directory / 'config.json'}: {error}") from error


class _Tensors:
    """The values of a safetensors checkpoint's tensors."""

    def __init__(self, stored: Mapping[str, StoredTensor], files: SourceFiles) -> None:
        self._stored, self._files = stored, files

    def __call__(self, name: str, rows: int | None = None) -> Values:
        """The values of a tensor.

        Args:
            name: the tensor's.
            rows: the number of rows to read it in; by default that of its shape.
        """
        tensor = self._stored[name]
        parts: list[Reader] = [Stored(record, self._files, rows) for record in tensor.records]
        if tensor.form is not None and tensor.form.mode in ("mxfp4", "mxfp8"):
            parts[1] = CheckedScales(parts[1], tensor.records[1])
        scale_dtype = tensor.records[-1].dtype
        return Values(
            place=tensor.place,
            shape=tensor.shape,
            form=tensor.form or _float(tensor.dtype),
            parts=tuple(parts),
            scale_dtype=_float(scale_dtype) if scale_dtype in FLOATS else "BF16",
        )


def _float(dtype: str) -> Float:
    return next(name for name in get_args(Float) if name == dtype)


def _parameters(
    rows: tuple[Row, ...], config: ModelConfig, values_of: Callable[..., Values]
) -> Iterator[tuple[str, Values]]:
    """Each parameter of the model, made of the values of its sources."""
    letters = sizes(config)
    targets = {row.target: shape_of(row.sources[0], letters) for row in expand(MLX, config)}
    for row in expand(rows, config):
        tensors = [_values(source, letters, values_of) for source in row.sources]
        shape = targets[row.target]
        if len(tensors) > 1:
            tensors = in_one_form(tensors)
        match row.transform:
            case Transform.COPY:
                (values,) = tensors
            case Transform.ROWS:
                values = joined_rows(tensors, shape)
            case Transform.COLUMNS:
                values = joined_columns(tensors, shape)
            case Transform.INTERLEAVED:
                values = interleaved(tensors, shape)
            case Transform.EXPERT_BIASES:
                values = expert_biases(tensors, shape)
            case Transform.TRANSPOSED:
                values = transposed(tensors[0], shape)
        yield row.target, values


def _values(source: Source, letters: Mapping[str, int], values_of: Callable[..., Values]) -> Values:
    """The values of a source: of one tensor, or of one for each expert."""
    names = [name for name, _ in named(source, letters)]
    if "{e}" not in source.name:
        return values_of(names[0])
    shape = shape_of(source, letters)
    rows = row_count(shape) // shape[0]
    return joined_rows(in_one_form([values_of(name, rows) for name in names]), shape)
