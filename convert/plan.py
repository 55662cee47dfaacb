"""The plan of a conversion: the source found and checked, and everything that will be written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptoss_mlx.config import PRECISIONS, ModelConfig, Precision
from gptoss_mlx.errors import CheckpointError, ConversionError, ModelNotFound
from gptoss_mlx.files.read import inside, parse_json, read_regular
from gptoss_mlx.files.write import as_path
from gptoss_mlx.hub import downloads
from gptoss_mlx.hub import models as hub
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import token_bytes
from gptoss_mlx.memory.sizes import bytes_per_token
from gptoss_mlx.tokenizer import largest_id

from .destination import DISK_RESERVE, check_apart, check_destination, check_parent, require_space
from .precision import EXPERTS_PRECISIONS, ExpertsPrecision, choose_forms, experts_name
from .quantize import ErrorSums, QuantizationError
from .source import SourceModel, open_source
from .targets import TARGETS, TargetFormat, TargetTensor, target_config, target_tensors
from .writer import Shard, plan_shards

__all__ = ["ConversionPlan", "ConversionProgress", "plan_conversion"]

ConversionProgress = Callable[[Literal["download", "convert"], int, int], None]
"""Called with the stage, the bytes done and the total, from any thread."""

# Copied to the target if the source has them.
_TOKENIZER = "tokenizer.json"
_COPIED = (
    _TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
)
_MAX_COPIED = 64 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """A conversion that was checked and has not begun."""

    reference: str
    source: SourceModel
    destination: Path
    target: TargetFormat
    adapter: Path | None
    """The directory of the LoRA adapter that is merged."""
    config: ModelConfig
    """Of the result, with the forms of its weights."""
    dense: Precision
    reason: str
    """One line: why this precision was chosen."""
    losses: tuple[str, ...]
    """Each change that the conversion makes to the weights' values; empty if it is lossless."""
    errors: Mapping[str, ErrorSums]
    """Of the experts that are quantised, by parameter: filled while they are written."""
    measured_errors: Mapping[str, QuantizationError]
    """Of experts that are quantised to MXFP4 on request, over their first 64 MB."""
    shards: tuple[Shard, ...]
    small_files: Mapping[str, bytes]
    force: bool
    """Whether an existing destination may be replaced."""

    @property
    def tensors(self) -> list[TargetTensor]:
        """The tensors to write, in order."""
        return [tensor for shard in self.shards for tensor in shard.tensors]

    @property
    def nbytes(self) -> int:
        """The size of the tensors to write."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bytes_per_token(self) -> dict[Precision, int]:
        """Bytes that a decoded token reads, at this precision and the others."""
        return token_bytes(self.config) | {self.dense: bytes_per_token(self.config)}

    @property
    def experts(self) -> str:
        """How the experts are stored, for the user."""
        return experts_name(self.config)

    @property
    def disk_bytes(self) -> int:
        """The free disk space that is needed."""
        return sum(shard.nbytes for shard in self.shards) + sum(map(len, self.small_files.values())) + DISK_RESERVE


def plan_conversion(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    dense: Precision | None = None,
    experts: ExpertsPrecision | None = None,
    adapter: str | Path | None = None,
    to: TargetFormat = "mlx",
    force: bool = False,
    download: bool = False,
    progress: ConversionProgress | None = None,
    device: DeviceInfo | None = None,
) -> ConversionPlan:
    """Does everything before the first byte is written: see :func:`convert_checkpoint`.

    The precision is chosen for ``device``, by default this machine.
    """
    if to not in TARGETS:
        raise ConversionError(f"target is {to!r}; one of {', '.join(TARGETS)} is needed")
    if dense is not None and dense not in PRECISIONS:
        raise ConversionError(f"dense is {dense!r}; one of {', '.join(PRECISIONS)} is needed")
    if experts is not None and experts not in EXPERTS_PRECISIONS:
        raise ConversionError(f"experts is {experts!r}; one of {', '.join(EXPERTS_PRECISIONS)} is needed")
    reference = str(source)
    if to != "mlx" and destination is None:
        raise ConversionError(f"--to {to}: name a destination; models found by name are in gptoss's own layout")
    target = as_path(destination) if destination is not None else hub.converted_path(reference, adapter)
    check_destination(target, force=force)
    check_parent(target)
    directory = _locate(reference, target, to, download=download, progress=progress)
    check_apart(target, directory)
    model = open_source(directory, adapter)
    chosen = choose_forms(model, to, dense, experts, device)
    shards = tuple(plan_shards(target_tensors(chosen.config, chosen.parameters, to)))
    return ConversionPlan(
        reference=reference,
        source=model,
        destination=target,
        target=to,
        adapter=None if adapter is None else Path(adapter),
        config=chosen.config,
        dense=chosen.dense,
        reason=chosen.reason,
        losses=chosen.losses,
        errors=chosen.errors,
        measured_errors=chosen.measured,
        shards=shards,
        small_files=_small_files(model, to, chosen.config),
        force=force,
    )


def _locate(
    reference: str, target: Path, to: TargetFormat, *, download: bool, progress: ConversionProgress | None
) -> Path:
    """The source's directory; downloads it if that is allowed and needed, and both it and its conversion fit."""
    try:
        # A converted model can be exported by its name.
        converted = hub.find_converted(reference) if to != "mlx" else None
        return converted or hub.find_source(reference)
    except ModelNotFound:
        repository = hub.repository_of(reference)
        if not download or repository is None:
            raise
    plan = downloads.plan_download(repository.repo_id, repository.revision)
    # As large as the source, as most are; the plan's own size is required before anything is written.
    needed = plan.nbytes + (plan.missing_bytes if downloads.shares_disk_with_cache(target) else 0)
    require_space(target, needed + DISK_RESERVE)
    report = None if progress is None else (lambda done, total: progress("download", done, total))
    return downloads.download(plan, progress=report)


def _small_files(model: SourceModel, to: TargetFormat, config: ModelConfig) -> dict[str, bytes]:
    """config.json and the files that are copied; the tokenizer of original/ is in the directory above."""
    files = {"config.json": (json.dumps(target_config(model, config, to), indent=2) + "\n").encode()}
    files |= model.texts
    directories = [model.directory]
    if (model.directory / "dtypes.json").exists() or model.directory.name == "original":
        directories.append(model.directory.resolve().parent)
    for name in _COPIED:
        for directory in directories:
            if name not in files and (directory / name).is_file():
                files[name] = _read_small(directory / name)
                break
    if _TOKENIZER in files:
        _check_vocabulary(files[_TOKENIZER], model)
    else:
        raise CheckpointError(
            f"{model.directory / _TOKENIZER}: missing; copy that of openai/gpt-oss-20b beside the weights"
        )
    return files


def _check_vocabulary(tokenizer: bytes, model: SourceModel) -> None:
    """Refuses a tokenizer of another model, with which the result would not load."""
    largest = largest_id(parse_json(tokenizer))
    if largest >= model.config.vocab_size:
        raise CheckpointError(
            f"{model.directory}: tokenizer.json has ids up to {largest}, config.json vocab_size "
            f"{model.config.vocab_size}; the two are of different models"
        )


def _read_small(path: Path) -> bytes:
    """Reads a file to copy: a regular file of bounded size inside the directory; a .json file must be JSON."""
    try:
        content = read_regular(inside(path), _MAX_COPIED)
        if path.suffix == ".json" and not isinstance(parse_json(content), dict):
            raise ValueError("is not a JSON object")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be copied ({error}); remove it or download it again") from error
    return content
