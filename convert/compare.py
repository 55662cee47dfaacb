"""Compares two checkpoints: tensor by tensor, in any two layouts, and by their logits on a text."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.checkpoint.layouts import config_of
from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES
from gptoss_mlx.errors import ConversionError, FileWriteError
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.model.transformer import Transformer
from gptoss_mlx.tokenizer import Tokenizer

from .quantize import ErrorSums, as_floats
from .readers import BLOCK_BYTES, blocks
from .source import SourceModel, open_source
from .targets import TargetTensor, target_tensors
from .values import Values

__all__ = ["Comparison", "LogitsComparison", "compare_logits", "compare_weights", "load_source"]

_POSITIONS = 128
"""How many positions are computed at a time."""
_WORDS: Mapping[int, type[np.generic]] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_DTYPES: Mapping[str, mx.Dtype] = {
    "U8": mx.uint8,
    "U32": mx.uint32,
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "F32": mx.float32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All tensors of one kind, both dequantised."""

    kind: str
    """The parameter's name without the layer's number."""
    tensors: int
    largest: float
    """The largest absolute difference of two values; NaN if either tensor holds NaN."""
    relative: float
    """Root mean square of the differences, divided by that of the values of ``against``, where the two differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsComparison:
    """Two models on the same text."""

    positions: int
    mean_kl: float
    """KL divergence from the reference's next-token distribution, in nats, averaged over the positions."""
    largest_kl: float
    top1_agreement: float
    """Share of positions at which both models have the same most likely token."""


def compare_weights(
    directory: str | Path,
    against: str | Path,
    *,
    adapter: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Comparison]:
    """Compares the values of two checkpoints, as each stores them, in float32, for each kind of tensor.

    Args:
        directory: of the first.
        against: the reference.
        adapter: the directory of a LoRA adapter that is added to the reference.
        progress: called with the bytes compared so far and the total.

    Raises:
        CheckpointError: either cannot be read.
        ConversionError: their configurations differ.
    """
    with open_source(directory) as ours, open_source(against, adapter) as theirs:
        if ours.config != theirs.config:
            raise ConversionError(
                f"{against}: config.json describes another model than {directory}; name its source"
            )
        total = sum(_nbytes(values) for values in ours.parameters.values())
        done = 0
        found: dict[str, list[ErrorSums]] = {}
        for name, values in ours.parameters.items():
            kind = re.sub(r"layers\.\d+\.", "", name)
            found.setdefault(kind, []).append(_compare(values, theirs.parameters[name]))
            done += _nbytes(values)
            if progress is not None:
                progress(done, total)
    return [_comparison(kind, sums) for kind, sums in found.items()]


def _nbytes(values: Values) -> int:
    return sum(part.rows * part.row_bytes for part in values.parts)


def _comparison(kind: str, sums: list[ErrorSums]) -> Comparison:
    error = ErrorSums.total(sums)
    return Comparison(kind=kind, tensors=len(sums), largest=error.largest, relative=error.relative)


def _compare(ours: Values, theirs: Values) -> ErrorSums:
    """Compares two tensors in blocks of rows; blocks that are equal as they are stored are not counted."""
    readers = [as_floats(values, "F32").parts[0] for values in (theirs, ours)]
    same_form = (ours.form, ours.scale_dtype) == (theirs.form, theirs.scale_dtype)
    step = math.lcm(*(reader.step for reader in readers))
    size = max(1, BLOCK_BYTES // max(reader.cost for reader in readers) // step) * step
    sums = ErrorSums()
    for begin in range(0, readers[0].rows, size):
        end = min(begin + size, readers[0].rows)
        if not (same_form and _are_equal(ours, theirs, begin, end)):
            sums.add(*(reader.read(begin, end).view(np.float32) for reader in readers))
    return sums


def _are_equal(ours: Values, theirs: Values, begin: int, end: int) -> bool:
    parts = zip(ours.parts, theirs.parts, strict=True)
    return all(np.array_equal(left.read(begin, end), right.read(begin, end)) for left, right in parts)


def compare_logits(
    directory: str | Path,
    against: str | Path,
    text: str,
    *,
    kv_bits: int | None = None,
    adapter: str | Path | None = None,
) -> LogitsComparison:
    """Runs both models over a text, one after the other, and compares their next-token distributions.

    Args:
        directory: of the first model, in any layout that can be converted.
        against: of the reference; may be the same directory.
        text: the text, of any length.
        adapter: the directory of a LoRA adapter that is added to the reference.
        kv_bits: 8 lets the first model, and only the first, keep its keys and values in 8 bits.

    Raises:
        CheckpointError: one of them cannot be read.
        ConversionError: the text has no tokens.
        NotEnoughMemory: one of the models does not fit with this text.
        FileWriteError: the temporary directory is full; the predictions take 0.8 MB a token.
        InvalidRequest: the model's keys and values cannot be kept in that many bits.
    """
    tokens = Tokenizer.from_directory(directory).encode(text)
    if not tokens:
        raise ConversionError("the text is empty; give one with at least one token")
    kl: list[npt.NDArray[np.float32]] = []
    agreeing = 0
    try:
        # In a file, because a token takes 0.8 MB and the text may be long.
        with tempfile.TemporaryFile() as file:
            for ours in _log_probabilities(directory, tokens, kv_bits):
                file.write(ours.data)
            file.seek(0)
            for reference in _log_probabilities(against, tokens, None, adapter):
                ours = np.frombuffer(file.read(reference.nbytes), np.float32).reshape(reference.shape)
                kl.append(np.sum(np.exp(reference) * (reference - ours), axis=-1))
                agreeing += int(np.sum(np.argmax(ours, axis=-1) == np.argmax(reference, axis=-1)))
    except OSError as error:
        raise FileWriteError(
            f"the predictions of a model cannot be written to a temporary file ({error.strerror}); "
            "free some space, or shorten the text"
        ) from error
    return LogitsComparison(
        positions=len(tokens),
        mean_kl=float(np.mean(np.concatenate(kl))),
        largest_kl=float(np.max(np.concatenate(kl))),
        top1_agreement=agreeing / len(tokens),
    )


def _log_probabilities(
    directory: str | Path, tokens: list[int], kv_bits: int | None, adapter: str | Path | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Yields arrays of shape [positions, vocabulary]; frees the model at the end, because two may not fit."""
    with open_source(directory, adapter) as source:
        config = config_of(source.config, source.forms)
        Budget(config=config, device=DeviceInfo.current(), kv_bits=kv_bits, context=len(tokens)).check_load()
        transformer = load_source(source)
    cache = PromptCache(config, kv_bits)
    for begin in range(0, len(tokens), _POSITIONS):
        logits = transformer(mx.array([tokens[begin : begin + _POSITIONS]]), cache)[0].astype(mx.float32)
        yield np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def load_source(source: SourceModel, dtype: mx.Dtype = mx.bfloat16) -> Transformer:
    """The model of a checkpoint in any layout, its weights in the forms in which they are stored."""
    config = config_of(source.config, source.forms)
    transformer = Transformer(config, compiled=mx.default_device() != mx.cpu)
    for tensor in target_tensors(config, source.parameters, "mlx"):
        array = _read(tensor)
        if mx.issubdtype(array.dtype, mx.floating):
            array = array.astype(dtype)
        mx.eval(array)
        transformer.load_weights([(tensor.name, array)], strict=False)
    return transformer


def _read(tensor: TargetTensor) -> mx.array:
    block = np.concatenate(list(blocks(tensor.reader)))
    array = mx.array(block.view(_WORDS[DTYPE_BYTES[tensor.dtype]])).reshape(tensor.shape)
    return array.view(_DTYPES[tensor.dtype])
