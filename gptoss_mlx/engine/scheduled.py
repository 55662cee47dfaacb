"""Steps on one of several machines: each is evaluated as soon as it is taken.

The machines add up and exchange what they compute, so all of them have to evaluate everything in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..cache.entry import CacheEntry
from ..model.peers import Peers
from ..model.transformer import Transformer
from .chooser import Chooser
from .steps import Pace, Steps
from .vocabulary import SplitVocabulary

__all__ = ["ScheduledChooser", "ScheduledSteps", "never"]


class ScheduledSteps(Steps):
    """Computes this machine's share.

    Args:
        transformer: the share.
        peers: the machines.
        pace: see :class:`Steps`.
    """

    def __init__(self, transformer: Transformer, peers: Peers, pace: Pace | None = None) -> None:
        super().__init__(transformer, pace)
        self.vocabulary = SplitVocabulary(peers, transformer.config.vocab_size)

    def chunk(self, entry: CacheEntry, tokens: list[int], cancelled: Callable[[], bool]) -> bool:
        return super().chunk(entry, tokens, never)


class ScheduledChooser(Chooser):
    """Chooses from this machine's logits together with the other machines."""

    def received(self, logits: mx.array) -> mx.array:
        mx.async_eval(logits)
        return logits

    def choose(
        self,
        logits: mx.array,
        processed: mx.array,
        *,
        allowed: NDArray[np.bool_] | None = None,
        check_all: bool = False,
    ) -> tuple[mx.array, mx.array]:
        chosen = super().choose(logits, processed, allowed=allowed, check_all=check_all)
        mx.async_eval(*chosen)
        return chosen

    def check(self, logits: mx.array) -> mx.array:
        check = super().check(logits)
        mx.async_eval(check)
        return check

    def logprobs(self, logits: mx.array, tokens: mx.array, top: int) -> tuple[mx.array, ...]:
        logprobs = super().logprobs(logits, tokens, top)
        mx.async_eval(*logprobs)
        return logprobs

    def gathered(self, logits: mx.array) -> mx.array:
        """See :meth:`Vocabulary.all`."""
        found = self.vocabulary.all(logits)
        mx.async_eval(found)
        return found


def never() -> bool:
    """Nothing is cancelled within a step, which all machines take as a whole."""
    return False
