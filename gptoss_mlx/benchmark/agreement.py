"""Computes a model twice and compares the logits, to find out whether this machine computes right.

The reference is the CPU in float32, which shares no kernel with the GPU in bfloat16. On a machine without a GPU
the CPU's bfloat16 is compared, which tests much less. Knows nothing of the terminal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from ..cache.layered import PromptCache
from ..checkpoint.tensors import open_model
from ..config import RELEASED, ModelConfig, Precision, with_precision
from ..model.transformer import Transformer, load_transformer
from ..tokenizer import Tokenizer
from .conversation import recorded_chat

__all__ = [
    "DECODED",
    "MAX_LARGEST",
    "MAX_RELATIVE",
    "PREFILLS",
    "Agreement",
    "Run",
    "compare",
    "measure_agreement",
    "measure_demo",
    "measure_widths",
    "random_transformer",
    "runs",
]

PREFILLS = (7, 40, 300)
"""Prompt lengths in tokens: one for each family of kernels, the last one longer than the sliding window."""
DECODED = 20
"""Tokens decoded after each prompt."""
_VOCABULARY = 8192

MAX_RELATIVE = 0.12
"""Limit of the root mean square of differences, as a share of that of the logits; bfloat16 has 0.01 to 0.07."""
MAX_LARGEST = 0.40
"""Limit of a single difference, as a share of the largest logit; bfloat16 has 0.02 to 0.15, because rounding sends
a token to another expert where two of them score alike."""

Model = Callable[[mx.array, PromptCache], mx.array]
"""Tokens [1, L] and a cache to logits [1, L, vocabulary]."""
Logits = npt.NDArray[np.float32]
"""Shape [positions, vocabulary]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A device and the type that it computes in."""

    device: mx.DeviceType
    dtype: mx.Dtype

    @property
    def name(self) -> str:
        """For the user."""
        device = "GPU" if self.device == mx.DeviceType.gpu else "CPU"
        return f"{device} in {'float32' if self.dtype == mx.float32 else 'bfloat16'}"


def runs() -> tuple[Run, Run]:
    """The two runs of this machine: the default device as the library uses it, and the reference."""
    run = Run(device=mx.default_device().type, dtype=mx.bfloat16)
    return run, Run(device=mx.DeviceType.cpu, dtype=mx.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The logits of two runs on the same tokens."""

    case: str
    prefill: int
    """Tokens of the prompt."""
    largest: float
    """The largest difference of two logits; NaN if a logit is NaN."""
    largest_logit: float
    """The largest absolute logit of the reference."""
    relative: float
    """Root mean square of the differences, divided by that of the reference's logits."""
    partings: tuple[int, ...]
    """Positions at which the most likely token differs."""
    positions: int

    @property
    def ok(self) -> bool:
        """Whether both limits are kept."""
        return self.relative <= MAX_RELATIVE and self.largest <= MAX_LARGEST * self.largest_logit


def compare(logits: Logits, reference: Logits, *, case: str, prefill: int) -> Agreement:
    """Compares the logits of two runs."""
    difference = np.abs(logits - reference)
    return Agreement(
        case=case,
        prefill=prefill,
        largest=float(difference.max()),
        largest_logit=float(np.abs(reference).max()),
        relative=math.sqrt(float(np.mean(difference**2)) / float(np.mean(reference**2))),
        partings=tuple(np.flatnonzero(logits.argmax(axis=-1) != reference.argmax(axis=-1)).tolist()),
        positions=len(reference),
    )


def measure_agreement(
    case: str,
    config: ModelConfig,
    load: Callable[[mx.Dtype], Model],
    tokens: Sequence[int],
    *,
    kv_bits: int | None = None,
) -> Iterator[Agreement]:
    """Computes prompts of all lengths in both runs, each followed by decoding the reference's most likely tokens.

    Args:
        case: a name for the report.
        config: the model's config.
        load: loads the model in a type; it is called with the device that computes as the default.
        tokens: as many as the longest prompt has.
        kv_bits: 8 keeps keys and values in 8 bits.
    """
    run, reference = runs()
    prompts = [tokens[:length] for length in PREFILLS]
    with _on(reference.device):
        model = load(reference.dtype)
        expected = [_compute(model, PromptCache(config, kv_bits), prompt) for prompt in prompts]
    del model  # two may not fit
    with _on(run.device):
        model = load(run.dtype)
        for prompt, (logits, decoded) in zip(prompts, expected, strict=True):
            found, _ = _compute(model, PromptCache(config, kv_bits), prompt, decoded)
            yield compare(found, logits, case=case, prefill=len(prompt))


def measure_demo(case: str, directory: Path, *, kv_bits: int | None = None) -> Iterator[Agreement]:
    """Compares the runs of a checkpoint that has the demo's tokenizer, on the text of the fixed chat.

    Args:
        case: a name for the report.
        directory: the checkpoint.
        kv_bits: 8 keeps keys and values in 8 bits.
    """
    text = "\n\n".join(message.text for message in recorded_chat() if message.channel)
    tokens = Tokenizer.from_directory(directory).encode(text)

    def load(dtype: mx.Dtype) -> Model:
        return load_transformer(directory, dtype)

    return measure_agreement(case, open_model(directory).config, load, tokens, kv_bits=kv_bits)


def measure_widths(case: str, dense: Precision, *, kv_bits: int | None = None) -> Iterator[Agreement]:
    """Compares the runs of two random layers of gpt-oss-20b with 8 experts and a small vocabulary.

    Args:
        case: a name for the report.
        dense: the precision of the dense layers.
        kv_bits: 8 keeps keys and values in 8 bits.
    """
    whole = RELEASED["20b"]
    config = with_precision(
        dataclasses.replace(
            whole,
            num_hidden_layers=2,
            layer_types=whole.layer_types[:2],
            num_local_experts=8,
            vocab_size=_VOCABULARY,
        ),
        dense,
    )
    tokens = np.random.default_rng(1).integers(0, _VOCABULARY, max(PREFILLS)).tolist()
    return measure_agreement(
        case, config, lambda dtype: random_transformer(config, dtype), tokens, kv_bits=kv_bits
    )


def _compute(
    model: Model, cache: PromptCache, prompt: Sequence[int], decoded: Sequence[int] = ()
) -> tuple[Logits, list[int]]:
    """The logits of a prompt and of the tokens after it: ``decoded``, or the most likely ones."""
    rows = [_logits(model, cache, prompt)]
    chosen: list[int] = []
    for step in range(DECODED):
        chosen.append(decoded[step] if decoded else int(rows[-1][-1].argmax()))
        rows.append(_logits(model, cache, chosen[-1:]))
    return np.concatenate(rows), chosen


def _logits(model: Model, cache: PromptCache, tokens: Sequence[int]) -> Logits:
    logits = model(mx.array([list(tokens)]), cache)[0].astype(mx.float32)
    return np.array(logits)


@contextmanager
def _on(device: mx.DeviceType) -> Iterator[None]:
    """Makes a device the default."""
    before = mx.default_device()
    mx.set_default_device(mx.Device(device))
    try:
        yield
    finally:
        mx.set_default_device(before)


def random_transformer(config: ModelConfig, dtype: mx.Dtype) -> Transformer:
    """A transformer with random weights, the same values in every type and on every device."""
    random = np.random.default_rng(0)
    transformer = Transformer(config, compiled=mx.default_device() != mx.cpu)
    placeholders: list[tuple[str, mx.array]] = tree_flatten(transformer.parameters())  # type: ignore[assignment]
    weights = [(name, _random_parameter(name, array, random, dtype)) for name, array in placeholders]
    mx.eval([array for _, array in weights])
    transformer.load_weights(weights)
    return transformer


def _random_parameter(name: str, placeholder: mx.array, random: np.random.Generator, dtype: mx.Dtype) -> mx.array:
    """Values of the size that they have in a trained model: weights of about 0.02, norms of about 1."""
    shape, deviation = placeholder.shape, 0.02
    if placeholder.dtype == mx.uint32:  # words of 4 or 8 bits
        return mx.array(random.integers(0, 2**32, shape, dtype=np.uint32))
    if placeholder.dtype == mx.uint8:  # MXFP4: powers of two; the values themselves are of about 3
        return mx.array(random.integers(118, 122, shape, dtype=np.uint8))
    values = random.standard_normal(shape, dtype=np.float32) * deviation
    if name.endswith("scales"):  # of codes from 0 to 255
        values = np.full(shape, deviation / 74, np.float32)
    elif name.endswith("biases"):  # centre the codes on zero
        values = np.full(shape, -127.5 * deviation / 74, np.float32)
    elif "norm" in name:
        values += 1
    return mx.array(values).astype(mx.bfloat16).astype(dtype)
