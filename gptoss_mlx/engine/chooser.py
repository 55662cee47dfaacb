"""The choice of a request's tokens out of the logits, on this machine alone or on several: see ``group``."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .sampler import Sampler
from .vocabulary import WHOLE, Vocabulary

__all__ = ["Chooser"]


class Chooser:
    """Chooses the tokens of one request.

    Nothing that it returns is evaluated, so that the caller evaluates all of a step together.

    Args:
        sampler: from logits to a token.
        vocabulary: where the logits are.
    """

    def __init__(self, sampler: Sampler, vocabulary: Vocabulary = WHOLE) -> None:
        self._sampler = sampler
        self.vocabulary = vocabulary

    def received(self, logits: mx.array) -> mx.array:
        """Takes the logits that were computed for the request, [1, V]. Returns those that it chooses from: the
        same, unless several machines have a part of them each and a caller's function needs them all."""
        return logits

    def choose(
        self,
        logits: mx.array,
        processed: mx.array,
        *,
        allowed: NDArray[np.bool_] | None = None,
        check_all: bool = False,
    ) -> tuple[mx.array, mx.array]:
        """Chooses the next token.

        Args:
            logits: [1, V].
            processed: the same, or what a caller's function has made of them.
            allowed: a mask over the vocabulary.
            check_all: whether all logits are checked and not only the chosen one.

        Returns:
            The token, [1], and a number that is not finite if the model computed NaN.
        """
        if allowed is not None:
            mask = mx.array(self.vocabulary.part(allowed))
            processed = mx.where(mask, processed, mx.array(-mx.inf, logits.dtype))
        chosen = self._sampler(processed)
        if check_all:
            return chosen, self.vocabulary.check_all(logits)
        return chosen, self.vocabulary.check(logits, chosen)

    def check(self, logits: mx.array) -> mx.array:
        """A number that is not finite if one of the logits is not."""
        return self.vocabulary.check_all(logits)

    def logprobs(self, logits: mx.array, tokens: mx.array, top: int) -> tuple[mx.array, ...]:
        """logits: [1, V], tokens: [1] -> the log-probability of each; with ``top`` also the ids of the most likely
        tokens and their log-probabilities."""
        logits = logits.astype(mx.float32)
        logprobs = logits - self.vocabulary.logsumexp(logits)
        of_token = self.vocabulary.of(logprobs, tokens)
        if not top:
            return (of_token,)
        likely, values = self.vocabulary.likely(logprobs, top)
        return of_token, likely[0], values[0]

    def close(self) -> None:
        """Notes that the request has ended."""
