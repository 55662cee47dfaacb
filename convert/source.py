"""A checkpoint in any layout, opened as the parameters of the model.

Headers, config and every tensor are checked first against the table of the layout. Quantised dense layers appear
dequantised to bfloat16.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gptoss_mlx.checkpoint.layouts import FLOATS, Row, Transform, check_tensors, expand
from gptoss_mlx.checkpoint.safetensors import INDEX_NAME, Checkpoint, TensorRecord, read_header
from gptoss_mlx.config import ModelConfig, Quantization
from gptoss_mlx.errors import CheckpointError, ConfigError
from gptoss_mlx.files.read import read_json, short_repr

from .layouts import MLX_LM, ORIGINAL, Layout, hugging_face_config, recognise
from .quantize import Dequantised, Mxfp4Tensors, QuantizationError, ToBfloat16
from .readers import Block, ExpertBiases, InterleavedRows, JoinedColumns, JoinedRows, Reader, SourceFiles, Stored

__all__ = ["SourceModel", "open_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A checkpoint in which every tensor belongs to a parameter."""

    directory: Path
    layout: Layout
    config: ModelConfig
    """Without ``quantization``: the parameters read as bfloat16."""
    config_values: Mapping[str, Any]
    """The values of config.json in Hugging Face's form."""
    quantization: Quantization | None
    """Of the dense layers, if all of them are stored quantised alike."""
    other_floats: tuple[str, ...]
    """Names of the dtypes, other than bfloat16, in which the source stores floats."""
    nbytes: int
    parameters: Mapping[str, Reader]
    """Readers by the parameter's name; experts as words and scales, everything else as bfloat16."""
    files: SourceFiles
    quantised_experts: tuple[Mxfp4Tensors, ...]

    @property
    def experts_error(self) -> QuantizationError | None:
        """The error of quantising float experts, over the rows read so far; None if they were already packed."""
        return Mxfp4Tensors.combined(self.quantised_experts) if self.quantised_experts else None

    def __enter__(self) -> SourceModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.files.close()


def open_source(directory: str | Path) -> SourceModel:
    """Opens a checkpoint directory. No tensor is read yet.

    Raises:
        CheckpointError: it is damaged, incomplete, in no known layout, or has a tensor that no table names.
        ConfigError: config.json does not describe a gpt-oss.
    """
    directory = Path(directory)
    checkpoint = _open_checkpoint(directory)
    layout = recognise(checkpoint)
    values = read_json(directory / "config.json")
    if layout.rows is ORIGINAL:
        with _naming_config(directory):
            values = hugging_face_config(values)
    quantization = values.pop("quantization", None)
    if layout.rows is MLX_LM:
        values.pop("quantization_config", None)  # mlx-lm repeats ``quantization`` there
    with _naming_config(directory):
        config = ModelConfig.from_dict(values)
    files = SourceFiles()
    plain, dequantised = _dequantise(checkpoint, quantization, files)
    check_tensors(plain, layout.rows, config)
    makers = _Parameters(plain, files, dequantised)
    parameters = {row.target: makers.reader(row) for row in expand(layout.rows, config)}
    return SourceModel(
        directory=directory,
        layout=layout,
        config=config,
        config_values=MappingProxyType(values),
        quantization=_common_quantization(dequantised),
        other_floats=_other_floats(checkpoint),
        nbytes=sum(record.nbytes for record in checkpoint.tensors.values()),
        parameters=MappingProxyType(parameters),
        files=files,
        quantised_experts=tuple(makers.mxfp4.values()),
    )


def _open_checkpoint(directory: Path) -> Checkpoint:
    """Opens a checkpoint. OpenAI's original/ may have several shards without an index: all are read."""
    shards = sorted(directory.glob("*.safetensors")) if (directory / "dtypes.json").exists() else []
    if len(shards) < 2 or (directory / INDEX_NAME).exists():
        return Checkpoint.open(directory)
    tensors: dict[str, TensorRecord] = {}
    for shard in shards:
        for name, record in read_header(shard).items():
            if name in tensors:
                raise CheckpointError(f"{shard}: tensor {name} is also in {tensors[name].file.name}")
            tensors[name] = record
    return Checkpoint(directory=directory, files=tuple(shards), tensors=MappingProxyType(tensors))


@contextlib.contextmanager
def _naming_config(directory: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{directory / 'config.json'}: {error}") from error


def _dequantise(
    checkpoint: Checkpoint, quantization: Any, files: SourceFiles
) -> tuple[Checkpoint, dict[str, Dequantised]]:
    """The checkpoint with affine-quantised layers listed as bfloat16, and the readers that dequantise them."""
    tensors = dict(checkpoint.tensors)
    readers: dict[str, Dequantised] = {}
    for name, words in checkpoint.tensors.items():
        module = name.removesuffix(".biases")
        if name == module:
            continue
        if f"{module}.weight" not in tensors or f"{module}.scales" not in tensors:
            raise CheckpointError(f"{words.file}: tensor {name} has no weight and scales beside it")
        weight, scales, biases = (tensors[f"{module}.{part}"] for part in ("weight", "scales", "biases"))
        bits, group_size = _settings(checkpoint.directory, quantization, module)
        _check_affine(weight, scales, biases, bits, group_size)
        del tensors[scales.name], tensors[biases.name]
        shape = (*weight.shape[:-1], weight.shape[-1] * 32 // bits)
        # Only for checking against the table: its bytes are read through the reader below.
        tensors[weight.name] = dataclasses.replace(weight, dtype="BF16", shape=shape)
        readers[weight.name] = Dequantised(
            Stored(weight, files),
            _bfloat16(Stored(scales, files)),
            _bfloat16(Stored(biases, files)),
            bits,
            group_size,
        )
    return dataclasses.replace(checkpoint, tensors=MappingProxyType(tensors)), readers


def _settings(directory: Path, quantization: Any, module: str) -> tuple[int, int]:
    """Bits and group size of a quantised module: from its own entry in ``quantization``, or the common one."""
    path = directory / "config.json"
    if not isinstance(quantization, dict):
        raise ConfigError(f"{path}: quantization is missing, but {module} is quantised")
    own = quantization.get(module)
    entry = own if isinstance(own, dict) else quantization
    bits, group_size, mode = entry.get("bits"), entry.get("group_size"), entry.get("mode", "affine")
    # The common entry may describe the experts; _check_affine then compares it with the module's tensors.
    if mode != "affine" or bits not in (2, 3, 4, 5, 6, 8) or group_size not in (32, 64, 128):
        raise ConfigError(f"{path}: quantization of {module} is {short_repr(entry)}; affine, 2 to 8 bits needed")
    return bits, group_size


def _check_affine(
    weight: TensorRecord, scales: TensorRecord, biases: TensorRecord, bits: int, group_size: int
) -> None:
    width = weight.shape[-1] * 32 // bits if weight.shape else 0
    groups = (*weight.shape[:-1], width // group_size)
    if weight.dtype != "U32" or len(weight.shape) != 2 or scales.shape != groups or biases.shape != groups:
        raise CheckpointError(
            f"{weight.file}: tensor {weight.name} {weight.dtype} {list(weight.shape)} with scales "
            f"{list(scales.shape)} is not {bits} bits in groups of {group_size}, as config.json says"
        )
    if scales.dtype not in FLOATS or biases.dtype not in FLOATS:
        raise CheckpointError(f"{scales.file}: tensor {scales.name} is {scales.dtype}; a float is needed")


def _common_quantization(readers: Mapping[str, Dequantised]) -> Quantization | None:
    found = {
        Quantization(bits=reader.bits, group_size=reader.group_size)
        for name, reader in readers.items()
        if not name.endswith("router.weight")
    }
    return found.pop() if len(found) == 1 else None


def _other_floats(checkpoint: Checkpoint) -> tuple[str, ...]:
    names = {"F16": "float16", "F32": "float32"}
    dtypes = {record.dtype for record in checkpoint.tensors.values()}
    return tuple(name for dtype, name in names.items() if dtype in dtypes)


def _bfloat16(stored: Stored) -> Reader:
    return stored if stored.record.dtype == "BF16" else ToBfloat16(stored)


class _Parameters:
    """Makes the reader of a parameter from the readers of its sources."""

    def __init__(self, checkpoint: Checkpoint, files: SourceFiles, dequantised: Mapping[str, Dequantised]) -> None:
        self._checkpoint, self._files, self._dequantised = checkpoint, files, dequantised
        self.mxfp4: dict[str, Mxfp4Tensors] = {}

    def reader(self, row: Row) -> Reader:
        parts = [source.name for source in row.sources]
        if row.transform in (Transform.MXFP4, Transform.MXFP4_SCALES):
            return self._quantised(parts[0], row)
        readers = [self._part(name) for name in parts]
        match row.transform:
            case Transform.COPY | Transform.WORDS:
                (reader,) = readers
            case Transform.ROWS:
                reader = JoinedRows(readers)
            case Transform.COLUMNS:
                reader = JoinedColumns(readers)
            case Transform.INTERLEAVED:
                reader = InterleavedRows(*readers)
            case Transform.EXPERT_BIASES:
                reader = ExpertBiases(*readers)
        if row.target.endswith("_proj.scales"):
            return _CheckedScales(reader, self._checkpoint.tensors[parts[0]])
        return reader

    def _part(self, name: str) -> Reader:
        if name in self._dequantised:
            return self._dequantised[name]
        stored = Stored(self._checkpoint.tensors[name], self._files)
        return _bfloat16(stored) if stored.record.dtype in FLOATS else stored

    def _quantised(self, name: str, row: Row) -> Reader:
        if name not in self.mxfp4:
            self.mxfp4[name] = Mxfp4Tensors(Stored(self._checkpoint.tensors[name], self._files))
        tensors = self.mxfp4[name]
        return tensors.words if row.transform is Transform.MXFP4 else tensors.scales


class _CheckedScales:
    """MXFP4 scales, refused if they hold E8M0's NaN (0xFF), which would turn every answer into noise."""

    def __init__(self, scales: Reader, record: TensorRecord) -> None:
        self._scales, self._record = scales, record
        self.rows, self.row_bytes, self.step, self.cost = scales.rows, scales.row_bytes, scales.step, scales.cost

    def read(self, begin: int, end: int) -> Block:
        block = self._scales.read(begin, end)
        if block.size and block.max() == 0xFF:
            raise CheckpointError(
                f"{self._record.file}: tensor {self._record.name} holds NaN scales; download it again"
            )
        return block
