"""How a loaded model shares a device's memory: weights first, then the chunk at work, the rest for prompt caches.

Everything is computed from the config before anything is allocated, so that a model that cannot fit is refused
with the figures and the remedy instead of failing halfway. This is the only answer to "does it fit": loading,
``convert``, ``info``, ``doctor`` and ``bench`` ask here.
"""

from __future__ import annotations

import bisect
import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..arguments import checked_integer
from ..cache.layers import most_capacity
from ..cache.quantized import KV_BITS, group_size_of
from ..cache.store import MAX_SNAPSHOT_BYTES, MAX_SNAPSHOTS
from ..config import PRECISIONS, ModelConfig, precision_of, with_packed_experts, with_precision
from ..errors import ContextFull, NotEnoughMemory
from ..files.units import format_bytes
from ..hub.models import data_directory, name_of
from ..quantization import MXFP4
from ..share import Share
from .device import DeviceInfo, wired_limit_command
from .sizes import full_bytes, weight_bytes, window_bytes, working_bytes

__all__ = ["CHUNKS", "MIN_CONTEXT", "Budget"]

CHUNKS: Final = (64, 128, 256, 512, 1024, 2048)
"""Sizes of a prefill chunk, in tokens."""
MIN_CONTEXT: Final = 4096
"""The positions that must fit where no context is asked for."""
_CONTEXT_STEP: Final = 1024
_CACHE_SHARE: Final = 8
"""Prompt caches may take one part in so many of the device's memory, if one full context takes less."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The memory of one device as one model uses it. All sizes are in bytes, all lengths in positions.

    Raises:
        InvalidRequest: a value is out of its range.

    Example:
        >>> from gptoss_mlx.config import GPT_OSS_20B
        >>> mac = DeviceInfo(name="M2", memory_bytes=16 * 2**30, gpu_bytes=16 * 2**30 * 2 // 3, is_mac=True)
        >>> budget = Budget(config=GPT_OSS_20B, device=mac)
        >>> budget.fits, budget.wired_limit_command
        (False, 'sudo sysctl iogpu.wired_limit_mb=13312')
    """

    config: ModelConfig
    device: DeviceInfo
    element_bytes: int = 2
    """Size of a value that is not packed: 2 for bfloat16, 4 for float32."""
    kv_bits: int | None = None
    context: int | None = None
    """The most positions of a conversation, where fewer than the model's are enough."""
    max_cache_bytes: int | None = None
    """Lowers :attr:`cache_limit`."""
    share: Share | None = None
    """The part of the model on this device; None for all of it."""
    source: Path | None = None
    """The model's directory, which a remedy converts; None where only its shape is known."""
    others: tuple[Budget, ...] = ()
    """Of the other machines that compute the model: what this one promises must fit all of them."""

    def __post_init__(self) -> None:
        if self.context is not None:
            checked_integer("context", self.context, 1, self.config.max_position_embeddings)
        if self.max_cache_bytes is not None:
            checked_integer("max_cache_bytes", self.max_cache_bytes, 1)

    def of_elements(self, element_bytes: int) -> Budget:
        """The same with values of another size, on all machines."""
        others = tuple(replace(other, element_bytes=element_bytes) for other in self.others)
        return replace(self, element_bytes=element_bytes, others=others)

    @functools.cached_property
    def weight_bytes(self) -> int:
        """All weights on this device."""
        return weight_bytes(self.config, element_bytes=self.element_bytes, share=self.share)

    @functools.cached_property
    def part(self) -> ModelConfig:
        """The shapes of this device's share of the model: of its caches and products."""
        return self.config if self.share is None else self.share.config(self.config)

    @property
    def required(self) -> int:
        """The positions that must fit before the model is loaded."""
        return self.context or min(MIN_CONTEXT, self.config.max_position_embeddings)

    @property
    def fits(self) -> bool:
        """Whether the model loads: :meth:`check_load` without the error."""
        return self._holds(self.required)

    @property
    def wired_limit_command(self) -> str | None:
        """The command after which a Mac holds the model; None if it fits already or the memory is too small."""
        raised = None if self.fits else _with_raised_limit(self)
        return raised and raised[0]

    def cache_bytes(self, length: int) -> int:
        """The most that a prompt cache of that many positions holds, the unused end of its buffers included."""
        full = full_bytes(self.part, most_capacity(length), self.kv_bits, self.element_bytes)
        return full + window_bytes(self.part, self.element_bytes)

    @property
    def snapshot_bytes(self) -> int:
        """The most that the snapshots of one prompt cache take."""
        return min(MAX_SNAPSHOTS * window_bytes(self.part, self.element_bytes), MAX_SNAPSHOT_BYTES)

    def needed_bytes(self, length: int | None = None, chunk: int = CHUNKS[0]) -> int:
        """Weights, a prompt and one chunk of its prefill. Snapshots are counted apart.

        Args:
            length: of the prompt; by default :attr:`required`.
            chunk: tokens of the chunk.
        """
        length = self.required if length is None else length
        return self.weight_bytes + self.cache_bytes(length) + self.working_bytes(length, chunk)

    def working_bytes(self, length: int, chunk: int = CHUNKS[0]) -> int:
        """The activations of a prefill chunk that ends at position ``length``."""
        return working_bytes(
            self.part,
            chunk=chunk,
            positions=length,
            fused=self.device.is_mac,
            kv_bits=self.kv_bits,
            element_bytes=self.element_bytes,
        )

    @functools.cached_property
    def positions(self) -> int:
        """The most positions of one conversation: the model's, those asked for, or those that fit the memory."""
        return min(budget._held_positions for budget in self._all)

    @property
    def cache_limit(self) -> int:
        """The most that all prompt caches together may take.

        One full context with its snapshots, or an eighth of the device's memory, whichever is more; never more
        than weights and a prefill chunk leave, nor than ``max_cache_bytes``.
        """
        left = self.device.gpu_bytes - self.weight_bytes - self.working_bytes(self.positions)
        one = self._full_context(self.positions)
        limit = min(left, max(one, self.device.memory_bytes // _CACHE_SHARE))
        limit = limit if self.max_cache_bytes is None else min(limit, self.max_cache_bytes)
        # The others hold other parts of the same caches, of as many full contexts as they have memory for.
        contexts = [other.cache_limit / other._full_context(self.positions) for other in self.others]
        return min([limit, *(int(one * number) for number in contexts)])

    def chunk_limit(self, length: int) -> int:
        """The largest prefill chunk that fits beside a conversation of that many positions."""
        fitting = [chunk for chunk in CHUNKS if self.needed_bytes(length, chunk) <= self.device.gpu_bytes]
        own = fitting[-1] if fitting else CHUNKS[0]
        return min([own, *(other.chunk_limit(length) for other in self.others)])

    def check_load(self) -> None:
        """Before the weights are read.

        Raises:
            NotEnoughMemory: the model does not fit; the message has the figures and the remedies.
        """
        for budget in self._all:
            if not budget.fits:
                raise NotEnoughMemory(budget._explanation(_STEPS))

    def check_prompt(self, length: int) -> None:
        """Before a prefill.

        Raises:
            ContextFull: the prompt leaves no position for an answer in the context.
            NotEnoughMemory: the prompt and one position for the answer do not fit the memory.
        """
        if length < self.positions:
            return
        if length >= self._asked:
            raise ContextFull(
                f"the prompt has {length} tokens; the context holds {self._asked}, one of them for the answer"
            )
        least = min(self._all, key=lambda budget: budget._held_positions)
        with_answer = replace(least, context=length + 1)
        raise NotEnoughMemory(
            f"the prompt has {length:,} tokens, and the memory holds {self.positions:,}: "
            + with_answer._explanation(_STEPS[:-1])  # a shorter context would not hold the prompt
        )

    @property
    def _all(self) -> tuple[Budget, ...]:
        """This budget and the other machines'."""
        return self, *self.others

    @functools.cached_property
    def _held_positions(self) -> int:
        """The most positions that this device holds."""
        return _longest(self._asked, self._holds)

    def _full_context(self, length: int) -> int:
        """The most that a prompt cache of that many positions takes with its snapshots."""
        return self.cache_bytes(length) + self.snapshot_bytes

    @property
    def _asked(self) -> int:
        return self.context or self.config.max_position_embeddings

    def _holds(self, length: int) -> bool:
        return self._fits_device(length) and self._fits_bound(length)

    def _fits_device(self, length: int) -> bool:
        return self.needed_bytes(length) <= self.device.gpu_bytes

    def _fits_bound(self, length: int) -> bool:
        held = self._full_context(length)
        return self.max_cache_bytes is None or held <= self.max_cache_bytes

    @property
    def _owner(self) -> str:
        if self.share is None or not self.share.rank:
            return "this machine's"
        return f"machine {self.share.rank}'s ({self.device.name})"

    def _explanation(self, steps: tuple[_Step, ...]) -> str:
        """Why :attr:`required` positions do not fit, in figures, and which of the steps would help."""
        length = self.required
        if self._fits_device(length):
            held = self.cache_bytes(length) + self.snapshot_bytes
            return (
                f"{length:,} positions and their snapshots take {held:,} bytes and max_cache_bytes is "
                f"{self.max_cache_bytes:,}; raise it, or lower context"
            )
        return (
            f"{format_bytes(self.needed_bytes(length))} are needed with {length:,} positions of context "
            f"({format_bytes(self.weight_bytes)} of weights, {format_bytes(self.cache_bytes(length))} of keys and "
            f"values, {format_bytes(self.working_bytes(length))} to compute with), and "
            f"{format_bytes(self.device.gpu_bytes)} of {self._owner} {format_bytes(self.device.memory_bytes)} "
            f"may be used; {_remedy(self, steps)}"
        )


_Change = tuple[str, Budget]
"""An option or a command, and the budget after it."""
_Step = Callable[[Budget], _Change | None]


def _remedy(budget: Budget, steps: tuple[_Step, ...]) -> str:
    """Each step that is enough by itself; if none is, the first few steps that are enough together."""
    changes = [change for step in steps if (change := step(budget)) is not None]
    enough = [command for command, changed in changes if changed.fits]
    if enough:
        return f"what helps: {', or '.join(enough)}"
    together: list[str] = []
    for step in steps:
        if (change := step(budget)) is not None:
            together.append(change[0])
            budget = change[1]
        if budget.fits:
            return f"what helps: {' with '.join(together)}"
    return "no setting makes it fit; take a smaller model or a larger machine"


def _with_quantized_cache(budget: Budget) -> _Change | None:
    if budget.kv_bits is not None or group_size_of(budget.config.head_dim) is None:
        return None
    return f"--kv-bits {KV_BITS}", replace(budget, kv_bits=KV_BITS)


def _with_smaller_weights(budget: Budget) -> _Change | None:
    """The largest precision below the budget's own that fits; q4 if none does."""
    own = PRECISIONS.index(precision_of(budget.config))
    found: _Change | None = None
    for precision in PRECISIONS[own + 1 :]:
        smaller = with_precision(budget.config, precision)
        found = _converted(budget, smaller, "--dense", precision)
        if found[1].fits:
            break
    return found


def _with_packed_experts(budget: Budget) -> _Change | None:
    if budget.config.experts == MXFP4:
        return None
    return _converted(budget, with_packed_experts(budget.config), "--experts", "mxfp4")


def _converted(budget: Budget, config: ModelConfig, option: str, form: str) -> _Change:
    """The command that makes a smaller model beside the converted ones, with its form in its name."""
    if budget.source is None:
        return f"gptoss convert SOURCE {option} {form}", replace(budget, config=config)
    smaller = data_directory() / f"{name_of(budget.source)}-{form}"
    command = shlex.join(["gptoss", "convert", str(budget.source), str(smaller), option, form])
    return command, replace(budget, config=config, source=smaller)


def _with_raised_limit(budget: Budget) -> _Change | None:
    device = budget.device.with_raised_limit(budget.needed_bytes())
    return None if device is None else (wired_limit_command(device), replace(budget, device=device))


def _with_shorter_context(budget: Budget) -> _Change | None:
    length = _longest(budget.config.max_position_embeddings, budget._fits_device)
    length -= length % _CONTEXT_STEP
    return (f"--context {length}", replace(budget, context=length)) if length else None


# From the least loss to the most.
_STEPS: Final = (
    _with_quantized_cache,
    _with_smaller_weights,
    _with_packed_experts,
    _with_raised_limit,
    _with_shorter_context,
)


def _longest(limit: int, holds: Callable[[int], bool]) -> int:
    """The longest length up to ``limit`` that holds; 0 if none does."""
    return bisect.bisect_left(range(1, limit + 1), True, key=lambda length: not holds(length))
