"""What the choice of a token asks of the logits: of all of them here, or of a part here and the rest elsewhere.

B batch, V the vocabulary, R the columns of it that this machine has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..model.peers import Peers

__all__ = ["WHOLE", "SplitVocabulary", "Vocabulary"]

_CANDIDATES: Final = 4096
"""The most likely tokens of each machine among which ``top_p`` looks first."""


class Vocabulary:
    """All logits are on this machine: R is V, and a token is its column."""

    def size(self, logits: mx.array) -> int:
        """[B, R] -> V."""
        return logits.shape[-1]

    def argmax(self, scores: mx.array) -> mx.array:
        """[B, R] -> the token of the largest score, [B]; the first of equal ones."""
        return mx.argmax(scores, axis=-1)

    def sample(self, logits: mx.array, key: mx.array) -> mx.array:
        """[B, R], in float32 -> a token drawn with the probabilities softmax(logits), [B]."""
        return mx.random.categorical(logits, key=key)

    def logsumexp(self, logits: mx.array) -> mx.array:
        """[B, R] -> [B, 1]."""
        return mx.logsumexp(logits, axis=-1, keepdims=True)

    def largest(self, logits: mx.array) -> mx.array:
        """[B, R] -> [B, 1]."""
        return logits.max(axis=-1, keepdims=True)

    def likely(self, logprobs: mx.array, count: int) -> tuple[mx.array, mx.array]:
        """[B, R] -> the ``count`` most likely tokens and their log-probabilities, [B, count] each, in no order."""
        tokens = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[..., :count]
        return tokens, mx.take_along_axis(logprobs, tokens, axis=-1)

    def only_likely(self, logprobs: mx.array, count: int) -> mx.array:
        """[B, R] -> the same, with -inf for all tokens but the ``count`` most likely."""
        excluded = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[..., count:]
        return mx.put_along_axis(logprobs, excluded, mx.array(-mx.inf, logprobs.dtype), axis=-1)

    def ordered(self, logprobs: mx.array, share: float) -> mx.array:
        """[B, R] -> the log-probabilities of the most likely tokens, ascending: of all tokens, or of as many as
        reach that share of the probability."""
        return mx.sort(logprobs, axis=-1)

    def of(self, values: mx.array, tokens: mx.array) -> mx.array:
        """[B, R] and tokens [B] -> each one's value, [B]."""
        return mx.take_along_axis(values, tokens[:, None], axis=-1)[:, 0]

    def check(self, logits: mx.array, tokens: mx.array) -> mx.array:
        """[B, R] and the tokens that were chosen from them, [B] -> [B], not finite if the logits are NaN."""
        return self.of(logits, tokens)

    def check_all(self, logits: mx.array) -> mx.array:
        """[B, R] -> [], not finite if any logit is not."""
        return mx.abs(logits).sum()

    def marked(self, seen: mx.array, tokens: mx.array) -> mx.array:
        """bool [B, R] and tokens [B] -> the same, with True for these tokens."""
        return mx.put_along_axis(seen, tokens[:, None], mx.array(True), axis=-1)

    def columns(self, tokens: Iterable[int]) -> list[int]:
        """The columns of those of the tokens that are here."""
        return list(tokens)

    def part(self, values: NDArray[Any]) -> NDArray[Any]:
        """[V] -> [R]."""
        return values

    def all(self, logits: mx.array) -> mx.array:
        """[B, R] -> [B, V]."""
        return logits


WHOLE: Final = Vocabulary()


class SplitVocabulary(Vocabulary):
    """Every machine has the logits of some tokens, or a single one that is -inf in place of none.

    Logits are never gathered: a machine sends a score and its token, a sum, or its most likely tokens. All
    machines ask the same in the same order, and all get the same answer.

    Args:
        peers: the machines.
        size: V.
    """

    def __init__(self, peers: Peers, size: int) -> None:
        self._peers = peers
        self._size = size
        self._begin, self._end = peers.share.head.start, peers.share.head.stop
        self._one_has_all = peers.share.split == "pipeline"
        self._most = size if self._one_has_all else -(-size // peers.share.size)

    def size(self, logits: mx.array) -> int:
        """V."""
        return self._size

    def argmax(self, scores: mx.array) -> mx.array:
        """As of all logits; -1 if they are NaN."""
        return self._winner(scores, mx.argmax(scores, axis=-1))

    def sample(self, logits: mx.array, key: mx.array) -> mx.array:
        """By Gumbel-max: the largest of logit + noise, where a token's noise does not depend on where it is. A
        machine that has all logits draws as if it were alone."""
        if self._one_has_all:
            return self._winner(logits, mx.random.categorical(logits, key=key))
        noise = mx.random.gumbel((logits.shape[0], self._size), key=key)
        return self.argmax(logits + noise[:, self._begin : self._end])

    def logsumexp(self, logits: mx.array) -> mx.array:
        """[B, R] -> [B, 1]."""
        return super().logsumexp(self._gathered(super().logsumexp(logits)))

    def largest(self, logits: mx.array) -> mx.array:
        """[B, R] -> [B, 1]."""
        return super().largest(self._gathered(super().largest(logits)))

    def likely(self, logprobs: mx.array, count: int) -> tuple[mx.array, mx.array]:
        """As of all logits: of the most likely of each machine."""
        tokens, values = self._candidates(logprobs, count)
        best, values = super().likely(values, count)
        return mx.take_along_axis(tokens, best, axis=-1), values

    def only_likely(self, logprobs: mx.array, count: int) -> mx.array:
        """As of all logits."""
        tokens, _ = self.likely(logprobs, count)
        width = logprobs.shape[-1]
        here = (tokens >= self._begin) & (tokens < self._end)
        # Tokens of other machines are put into one more column, which is dropped.
        columns = mx.where(here, tokens - self._begin, width)
        excluded = mx.put_along_axis(mx.ones((len(logprobs), width + 1)), columns, mx.array(0.0), axis=-1)
        return mx.where(excluded[:, :width] > 0, mx.array(-mx.inf, logprobs.dtype), logprobs)

    def ordered(self, logprobs: mx.array, share: float) -> mx.array:
        """As of all logits. Asks for more than the most likely ones only where they do not reach ``share``."""
        few = min(_CANDIDATES, self._most)
        _, values = self._candidates(logprobs, few)
        if few < self._most and cast(float, mx.exp(values).sum(axis=-1).min().item()) < share:
            _, values = self._candidates(logprobs, self._most)
        return mx.sort(values, axis=-1)

    def of(self, values: mx.array, tokens: mx.array) -> mx.array:
        """[B, R] and tokens [B] -> each one's value in float32, [B]."""
        here = (tokens >= self._begin) & (tokens < self._end)
        found = super().of(values, mx.where(here, tokens - self._begin, 0)).astype(mx.float32)
        return self._gathered(mx.where(here, found, -mx.inf)[:, None]).max(axis=-1)

    def check(self, logits: mx.array, tokens: mx.array) -> mx.array:
        """As of all logits. Nothing is sent: the choice of the tokens has compared all scores."""
        return mx.where(tokens < 0, mx.nan, 0.0)

    def check_all(self, logits: mx.array) -> mx.array:
        """[B, R] -> [], the same on every machine."""
        logits = logits.astype(mx.float32) if self._end else mx.zeros(logits.shape)
        return self._peers.total(super().check_all(logits))

    def marked(self, seen: mx.array, tokens: mx.array) -> mx.array:
        """bool [B, R] and tokens [B] -> the same, with True for those of the tokens that are here."""
        here = mx.arange(self._begin, self._begin + seen.shape[-1])
        return seen | (here == tokens[:, None])

    def columns(self, tokens: Iterable[int]) -> list[int]:
        """The columns of those of the tokens that are here."""
        return [token - self._begin for token in tokens if self._begin <= token < self._end]

    def part(self, values: NDArray[Any]) -> NDArray[Any]:
        """[V] -> [R]."""
        return values[self._begin : self._end] if self._end else np.zeros_like(values[:1])

    def all(self, logits: mx.array) -> mx.array:
        """[B, R] -> [B, V]. Only for functions of a caller's, which are made for all logits."""
        if not self._end:
            logits = mx.zeros_like(logits)
        missing = self._begin, self._size - self._begin - logits.shape[-1]
        return self._peers.total(mx.pad(logits, [(0, 0), missing]))

    def _winner(self, scores: mx.array, columns: mx.array) -> mx.array:
        """The token with the largest score, where each machine names a column of its own, [B]."""
        score = Vocabulary.of(self, scores, columns).astype(mx.float32)
        # A token is less than 2^24, so that float32 holds it.
        pairs = mx.stack([score, (columns + self._begin).astype(mx.float32)], axis=-1)
        found = self._peers.gathered(pairs)  # [machines, B, 2]
        best = mx.argmax(found[..., 0], axis=0)
        score, token = mx.split(mx.take_along_axis(found, best[None, :, None], axis=0)[0], 2, axis=-1)
        return mx.where(mx.isfinite(score), token, -1.0).astype(mx.int32)[:, 0]

    def _candidates(self, logprobs: mx.array, count: int) -> tuple[mx.array, mx.array]:
        """The ``count`` most likely tokens of each machine and their log-probabilities, [B, machines · count]."""
        here = min(count, logprobs.shape[-1])
        columns, values = super().likely(logprobs, here)
        missing = [(0, 0), (0, count - here)]
        tokens = mx.pad(columns.astype(mx.int32) + self._begin, missing)
        values = mx.pad(values.astype(mx.float32), missing, constant_values=-mx.inf)
        return self._gathered(tokens), self._gathered(values)

    def _gathered(self, part: mx.array) -> mx.array:
        """[B, N] -> [B, machines · N]."""
        found = self._peers.gathered(part)
        return mx.concatenate(list(found), axis=-1)
