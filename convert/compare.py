"""Compares two checkpoints: tensor by tensor, in any two layouts, and by their logits on a text."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptoss_mlx.errors import ConversionError, FileWriteError
from gptoss_mlx.memory.device import DeviceInfo

from .quantize import as_float32, mxfp4_values
from .readers import BLOCK_BYTES, Reader
from .source import SourceModel, open_source

__all__ = ["Comparison", "LogitsComparison", "compare_logits", "compare_weights"]

_POSITIONS = 128
"""How many positions are computed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All tensors of one kind, both dequantised."""

    kind: str
    """The parameter's name without the layer's number."""
    tensors: int
    largest: float
    """The largest absolute difference of two values; NaN if either tensor holds NaN."""


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
    directory: str | Path, against: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> list[Comparison]:
    """Dequantises both checkpoints in row blocks and returns the largest difference for each kind of tensor.

    Raises:
        CheckpointError: either cannot be read.
        ConversionError: their configurations differ.
    """
    with open_source(directory) as ours, open_source(against) as theirs:
        if ours.config != theirs.config:
            raise ConversionError(
                f"{against}: config.json describes another model than {directory}; name its source"
            )
        total = sum(reader.rows * reader.row_bytes for reader in ours.parameters.values())
        done = 0
        found: dict[str, list[float]] = {}
        for name, reader in ours.parameters.items():
            if not name.endswith("_proj.scales"):  # compared together with their words
                kind = re.sub(r"layers\.\d+\.", "", name)
                found.setdefault(kind, []).append(_largest_difference(name, ours, theirs))
            done += reader.rows * reader.row_bytes
            if progress is not None:
                progress(done, total)
    return [
        Comparison(kind=kind, tensors=len(values), largest=float(np.max(values))) for kind, values in found.items()
    ]


def _largest_difference(name: str, ours: SourceModel, theirs: SourceModel) -> float:
    left, right = ours.parameters[name], theirs.parameters[name]
    packed = ".experts." in name and name.endswith(".weight")
    scales = name.removesuffix("weight") + "scales"
    step = max(left.step, right.step)
    # Dequantised, MXFP4 words take eight times as many bytes.
    size = max(1, BLOCK_BYTES // ((8 if packed else 2) * max(left.cost, right.cost)) // step) * step
    largest = 0.0
    for begin in range(0, left.rows, size):
        end = min(begin + size, left.rows)
        if packed:
            difference = _packed_difference(
                (left, ours.parameters[scales]), (right, theirs.parameters[scales]), begin, end
            )
        else:
            difference = _difference(as_float32(left.read(begin, end)), as_float32(right.read(begin, end)))
        largest = float(np.maximum(largest, difference))
    return largest


_Packed = tuple[Reader, Reader]


def _packed_difference(left: _Packed, right: _Packed, begin: int, end: int) -> float:
    (left_words, left_scales), (right_words, right_scales) = (
        (words.read(begin, end), scales.read(begin, end)) for words, scales in (left, right)
    )
    if np.array_equal(left_words, right_words) and np.array_equal(left_scales, right_scales):
        return 0.0
    return _difference(mxfp4_values(left_words, left_scales), mxfp4_values(right_words, right_scales))


def _difference(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    if np.array_equal(left, right):
        return 0.0
    with np.errstate(invalid="ignore"):  # infinity minus infinity is reported as NaN
        return float(np.max(np.abs(left - right)))


def compare_logits(
    directory: str | Path, against: str | Path, text: str, *, kv_bits: int | None = None
) -> LogitsComparison:
    """Runs both models over a text, one after the other, and compares their next-token distributions.

    Args:
        directory: of the first model.
        against: of the reference; may be the same directory.
        text: the text, of any length.
        kv_bits: 8 lets the first model, and only the first, keep its keys and values in 8 bits.

    Raises:
        CheckpointError: one of them is in a layout that cannot be loaded directly.
        ConversionError: the text has no tokens.
        NotEnoughMemory: one of the models does not fit with this text.
        FileWriteError: the temporary directory is full; the predictions take 0.8 MB a token.
        InvalidRequest: the model's keys and values cannot be kept in that many bits.
    """
    from gptoss_mlx.tokenizer import Tokenizer

    tokens = Tokenizer.from_directory(directory).encode(text)
    if not tokens:
        raise ConversionError("the text is empty; give one with at least one token")
    kl: list[npt.NDArray[np.float32]] = []
    agreeing = 0
    try:
        # In a file, because a token takes 0.8 MB and the text may be long.
        with tempfile.TemporaryFile() as file:
            for ours in _log_probabilities(Path(directory), tokens, kv_bits):
                file.write(ours.data)
            file.seek(0)
            for reference in _log_probabilities(Path(against), tokens, None):
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
    directory: Path, tokens: list[int], kv_bits: int | None
) -> Iterator[npt.NDArray[np.float32]]:
    """Yields arrays of shape [positions, vocabulary]; frees the model at the end, because two may not fit."""
    import mlx.core as mx

    from gptoss_mlx.cache.layered import PromptCache
    from gptoss_mlx.config import ModelConfig
    from gptoss_mlx.memory.budget import Budget
    from gptoss_mlx.model.transformer import load_transformer

    config = ModelConfig.from_directory(directory)
    Budget(config=config, device=DeviceInfo.current(), kv_bits=kv_bits, context=len(tokens)).check_load()
    cache = PromptCache(config, kv_bits)
    transformer = load_transformer(directory, dtype=mx.bfloat16)
    for begin in range(0, len(tokens), _POSITIONS):
        logits = transformer(mx.array([tokens[begin : begin + _POSITIONS]]), cache)[0].astype(mx.float32)
        yield np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
