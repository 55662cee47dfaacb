"""From logits to the next token.

OpenAI recommends temperature 1 and nothing else, so temperature 1 and greedy are the cheap cases: they use the raw
logits. The filters ``top_p``, ``min_p`` and ``top_k`` work on normalised log-probabilities.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Mapping

import mlx.core as mx

from ..sampling import SamplingParams
from .vocabulary import WHOLE, Vocabulary

__all__ = ["Sampler", "keep_min_p", "keep_top_k", "keep_top_p", "make_sampler"]

Sampler = Callable[[mx.array], mx.array]
"""Logits [B, V] -> token ids [B]; of several machines each has its columns of the logits, and all get the ids."""
_COLDEST = 1e-9
"""Temperatures below are greedy. Here the least difference between two logits of a usual size, 1e-6 in float32,
has become 1,000, and the noise that sampling adds is within 25; far below, the quotient would overflow."""


def make_sampler(
    params: SamplingParams, control_tokens: Collection[int] = (), vocabulary: Vocabulary = WHOLE
) -> Sampler:
    """The function that chooses the tokens of one request. Make it in the thread that uses it.

    Its randomness is a key of its own and not MLX's global state, so that requests do not disturb each other.

    Args:
        params: how.
        control_tokens: those that a repetition penalty spares: every message repeats them.
        vocabulary: where the logits are.
    """
    choose = _chooser(params, vocabulary)
    if params.repetition_penalty != 1:
        choose = _penalised(choose, params.repetition_penalty, control_tokens, vocabulary)
    return _biased(choose, params.logit_bias, vocabulary) if params.logit_bias else choose


def _chooser(params: SamplingParams, vocabulary: Vocabulary) -> Sampler:
    if params.temperature < _COLDEST:
        return vocabulary.argmax
    filters = _filters(params, vocabulary)
    scale = 1 / params.temperature
    key = mx.random.key(params.seed if params.seed is not None else secrets.randbits(63))

    def sample(logits: mx.array) -> mx.array:
        nonlocal key
        logits = logits.astype(mx.float32)
        if filters:
            logits = logits - vocabulary.logsumexp(logits)
        for keep in filters:
            logits = keep(logits)
        key, subkey = mx.random.split(key)
        return vocabulary.sample(logits * scale, subkey)

    return sample


def _penalised(
    choose: Sampler, penalty: float, control_tokens: Collection[int], vocabulary: Vocabulary
) -> Sampler:
    """``choose`` on logits in which the tokens chosen before are less likely."""
    seen: mx.array | None = None  # [B, V]
    spared = mx.array(vocabulary.columns(sorted(control_tokens)), dtype=mx.int32)

    def sample(logits: mx.array) -> mx.array:
        nonlocal seen
        if seen is None:
            seen = mx.zeros(logits.shape, dtype=mx.bool_)
        logits = logits.astype(mx.float32)
        penalised = mx.where(logits > 0, logits / penalty, logits * penalty)
        chosen = choose(mx.where(seen, penalised, logits))
        seen = vocabulary.marked(seen, chosen)
        if spared.size:
            seen[:, spared] = False
        return chosen

    return sample


def _biased(choose: Sampler, bias: Mapping[int, float], vocabulary: Vocabulary) -> Sampler:
    """``choose`` on logits to which a bias is added, before every other change."""
    here = [token for token in bias if vocabulary.columns([token])]
    columns = mx.array(vocabulary.columns(here), dtype=mx.int32)
    values = mx.array([bias[token] for token in here], dtype=mx.float32)
    if not here:
        return choose
    return lambda logits: choose(logits.astype(mx.float32).at[:, columns].add(values))


def _filters(params: SamplingParams, vocabulary: Vocabulary) -> list[Callable[[mx.array], mx.array]]:
    """The filters in mlx-lm's order: log-probabilities in, with those of excluded tokens set to -inf."""
    filters: list[Callable[[mx.array], mx.array]] = []
    if params.top_p < 1:
        filters.append(lambda logprobs: keep_top_p(logprobs, params.top_p, vocabulary))
    if params.min_p > 0:
        filters.append(lambda logprobs: keep_min_p(logprobs, params.min_p, vocabulary))
    if params.top_k > 0:
        filters.append(lambda logprobs: keep_top_k(logprobs, params.top_k, vocabulary))
    return filters


def keep_top_p(logprobs: mx.array, top_p: float, vocabulary: Vocabulary = WHOLE) -> mx.array:
    """Keeps the most likely tokens that together reach a share of the probability (nucleus sampling, Holtzman et
    al. 2020).

    The most likely token is kept in any case: a tiny share is lost in the rounding of the sum.
    """
    ordered = vocabulary.ordered(logprobs, top_p)
    probabilities = mx.exp(ordered.astype(mx.float32))
    # Of all tokens more likely than each one.
    above = mx.cumsum(probabilities, axis=-1, reverse=True, inclusive=False)
    total = above[..., :1] + probabilities[..., :1]
    excluded = (above >= top_p * total).sum(axis=-1, keepdims=True)
    least = mx.take_along_axis(ordered, mx.minimum(excluded, ordered.shape[-1] - 1), axis=-1)
    return mx.where(logprobs < least, -mx.inf, logprobs)


def keep_min_p(logprobs: mx.array, min_p: float, vocabulary: Vocabulary = WHOLE) -> mx.array:
    """Keeps the tokens at least ``min_p`` times as likely as the most likely one (Nguyen et al. 2024)."""
    least = vocabulary.largest(logprobs) + math.log(min_p)
    return mx.where(logprobs < least, -mx.inf, logprobs)


def keep_top_k(logprobs: mx.array, top_k: int, vocabulary: Vocabulary = WHOLE) -> mx.array:
    """Keeps the ``top_k`` most likely tokens."""
    return logprobs if top_k >= vocabulary.size(logprobs) else vocabulary.only_likely(logprobs, top_k)
