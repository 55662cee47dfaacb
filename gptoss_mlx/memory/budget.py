"""How a loaded model shares a device's memory: weights first, then the chunk at work, the rest for prompt caches.

Everything is computed from the config before anything is allocated, so that what cannot fit is refused with its
figures and the remedy instead of failing halfway.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass, replace
from typing import Final

from ..cache.layered import most_capacity
from ..cache.quantized import KV_BITS, group_size_of
from ..cache.store import MAX_MARK_BYTES, MAX_MARKS
from ..config import PRECISIONS, ModelConfig, precision_of, with_precision
from ..errors import ContextFull, InvalidRequest, NotEnoughMemory
from ..files.read import short_repr
from ..files.units import format_bytes
from .device import DeviceInfo, wired_limit_command
from .sizes import full_bytes, weight_bytes, window_bytes, working_bytes

__all__ = ["CHUNKS", "Budget"]

CHUNKS: Final = (64, 128, 256, 512, 1024, 2048)
"""Sizes of a prefill chunk, in tokens."""
LEAST_CONTEXT: Final = 4096
"""Where no context is asked for, a model that has room for fewer positions is not loaded."""
_CONTEXT_STEP: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one model may use of one device. All sizes are in bytes, all lengths in positions.

    Raises:
        InvalidRequest: a value out of its range.
    """

    config: ModelConfig
    device: DeviceInfo
    element_bytes: int = 2
    """Of what is not packed: 2 for bfloat16, 4 for float32."""
    kv_bits: int | None = None
    context: int | None = None
    """The most positions of a conversation, where fewer than the model's are enough."""
    max_cache_bytes: int | None = None
    """The most that all prompt caches together may take; by default what the device has left."""

    def __post_init__(self) -> None:
        most = self.config.max_position_embeddings
        if self.context is not None and (type(self.context) is not int or not 1 <= self.context <= most):
            raise InvalidRequest(
                f"context is {short_repr(self.context)}; a whole number from 1 to {most} is needed"
            )
        if self.max_cache_bytes is not None and (
            type(self.max_cache_bytes) is not int or self.max_cache_bytes < 1
        ):
            raise InvalidRequest(
                f"max_cache_bytes is {short_repr(self.max_cache_bytes)}; a whole number from 1 is needed"
            )

    @functools.cached_property
    def weight_bytes(self) -> int:
        """Of all weights."""
        return weight_bytes(self.config, element_bytes=self.element_bytes)

    @property
    def wanted(self) -> int:
        """Positions that there has to be room for before the model is loaded."""
        return self.context or min(LEAST_CONTEXT, self.config.max_position_embeddings)

    def cache_bytes(self, length: int) -> int:
        """The most that a prompt cache of that many positions holds, the unused end of its buffers included."""
        full = full_bytes(self.config, most_capacity(length), self.kv_bits, self.element_bytes)
        return full + window_bytes(self.config, self.element_bytes)

    @property
    def mark_bytes(self) -> int:
        """The most that the marks of a conversation take."""
        return min(MAX_MARKS * window_bytes(self.config, self.element_bytes), MAX_MARK_BYTES)

    def needed_bytes(self, length: int, chunk: int = CHUNKS[0]) -> int:
        """Weights, a prompt of that many positions and one chunk of its prefill; marks are counted apart."""
        return self.weight_bytes + self.cache_bytes(length) + self.working_bytes(length, chunk)

    def working_bytes(self, length: int, chunk: int = CHUNKS[0]) -> int:
        """What a prefill chunk needs for its activations, the last one of that many positions."""
        return working_bytes(
            self.config,
            chunk=chunk,
            positions=length,
            fused=self.device.is_mac,
            kv_bits=self.kv_bits,
            element_bytes=self.element_bytes,
        )

    @functools.cached_property
    def positions(self) -> int:
        """The most positions of one conversation: of the model, asked for, or what there is memory for."""
        lengths = range(1, self._asked + 1)
        return bisect.bisect_left(lengths, True, key=lambda length: not self._has_room(length))

    @property
    def cache_limit(self) -> int:
        """What all prompt caches together may take."""
        left = self.device.gpu_bytes - self.weight_bytes - self.working_bytes(self.positions)
        return left if self.max_cache_bytes is None else min(left, self.max_cache_bytes)

    def chunk_limit(self, length: int) -> int:
        """The largest prefill chunk that there is memory for beside a conversation of that many positions."""
        fitting = [chunk for chunk in CHUNKS if self.needed_bytes(length, chunk) <= self.device.gpu_bytes]
        return fitting[-1] if fitting else CHUNKS[0]

    def check_load(self) -> None:
        """Before the weights are read.

        Raises:
            NotEnoughMemory: with the figures and what would help.
        """
        if not self._has_room(self.wanted):
            raise NotEnoughMemory(self._explanation(self.wanted))

    def check_prompt(self, length: int) -> None:
        """Before a prefill.

        Raises:
            ContextFull: the prompt leaves no place for an answer in the context.
            NotEnoughMemory: nor would it in the memory.
        """
        if length < self.positions:
            return
        if length >= self._asked:
            raise ContextFull(
                f"the prompt has {length} tokens; the context holds {self._asked}, one of them for the answer"
            )
        raise NotEnoughMemory(
            f"the prompt has {length:,} tokens, and there is memory for {self.positions:,}: "
            + self._explanation(length)
        )

    @property
    def _asked(self) -> int:
        return self.context or self.config.max_position_embeddings

    def _has_room(self, length: int) -> bool:
        return self._fits_device(length) and self._fits_bound(length)

    def _fits_device(self, length: int) -> bool:
        return self.needed_bytes(length) <= self.device.gpu_bytes

    def _fits_bound(self, length: int) -> bool:
        held = self.cache_bytes(length) + self.mark_bytes
        return self.max_cache_bytes is None or held <= self.max_cache_bytes

    def _explanation(self, length: int) -> str:
        """Why there is no room, in figures, and what would make some."""
        if self._fits_device(length):
            held = self.cache_bytes(length) + self.mark_bytes
            return (
                f"{length:,} positions and their marks take {held:,} bytes and max_cache_bytes is "
                f"{self.max_cache_bytes:,}; raise it, or lower context"
            )
        return (
            f"{format_bytes(self.needed_bytes(length))} are needed with {length:,} positions of context "
            f"({format_bytes(self.weight_bytes)} of weights, {format_bytes(self.cache_bytes(length))} of keys and "
            f"values, {format_bytes(self.working_bytes(length))} to compute with), and "
            f"{format_bytes(self.device.gpu_bytes)} of this machine's {format_bytes(self.device.memory_bytes)} "
            f"may be used; {self._remedy(length)}"
        )

    def _remedy(self, length: int) -> str:
        """What would help, each by itself; else what would together."""
        smaller = self._smaller()
        helping = [name for name, budget in smaller.items() if budget._fits_device(length)]
        helping += _shorter_context(self)
        command = wired_limit_command(self.device, self.needed_bytes(length))
        if command is not None:
            helping.append(command)
        if helping:
            return f"what helps: {', or '.join(helping)}"
        # All at once: the smallest weights, the smallest keys and values, and the context that is left room for.
        least = self
        for budget in smaller.values():
            least = replace(least, config=budget.config, kv_bits=budget.kv_bits or least.kv_bits)
        together = [name for name in smaller if "q8" not in name] + _shorter_context(least)
        if together and (least._fits_device(length) or _shorter_context(least)):
            return f"what helps: {' with '.join(together)}"
        return "no setting makes it fit; take a smaller model or a larger machine"

    def _smaller(self) -> dict[str, Budget]:
        """Each change that makes the model or its caches smaller, by its name, and what it leads to."""
        found = {}
        if self.kv_bits is None and group_size_of(self.config.head_dim) is not None:
            found[f"--kv-bits {KV_BITS}"] = replace(self, kv_bits=KV_BITS)
        own = PRECISIONS.index(precision_of(self.config))
        for precision in PRECISIONS[own + 1 :]:
            config = with_precision(self.config, precision)
            found[f"gptoss convert --dense {precision}"] = replace(self, config=config)
        return found


def _shorter_context(budget: Budget) -> list[str]:
    """The option that makes the context as long as there is room for, where that is enough to be of use."""
    lengths = range(1, budget.config.max_position_embeddings + 1)
    room = bisect.bisect_left(lengths, True, key=lambda length: not budget._fits_device(length))
    room -= room % _CONTEXT_STEP
    return [f"--context {room}"] if room else []
