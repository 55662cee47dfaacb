"""From logits to the next token.

OpenAI recommends temperature 1 and nothing else, so that and greedy are the cases that cost little: they work on
the raw logits. Anything else is mlx-lm's filters on normalised log-probabilities.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection

import mlx.core as mx

from ..sampling import SamplingParams

__all__ = ["Sampler", "make_sampler"]

Sampler = Callable[[mx.array], mx.array]
"""Logits [B, V] -> token ids [B]."""
_COLDEST = 1e-9
"""Temperatures below are greedy. Here the least difference between two logits of a usual size, 1e-6 in float32,
has become 1,000, and the noise that sampling adds is within 25; far below, the quotient would overflow."""


def make_sampler(params: SamplingParams, control_tokens: Collection[int] = ()) -> Sampler:
    """The function that chooses the tokens of one request. Make it in the thread that uses it.

    Its randomness is a key of its own and not MLX's global state, so that requests do not disturb each other.

    Args:
        params: how.
        control_tokens: those that a repetition penalty spares: every message repeats them.
    """
    choose = _chooser(params)
    if params.repetition_penalty == 1:
        return choose
    return _penalised(choose, params.repetition_penalty, control_tokens)


def _chooser(params: SamplingParams) -> Sampler:
    if params.temperature < _COLDEST:
        return lambda logits: mx.argmax(logits, axis=-1)
    filters = _filters(params)
    scale = 1 / params.temperature
    key = mx.random.key(params.seed if params.seed is not None else secrets.randbits(63))

    def sample(logits: mx.array) -> mx.array:
        nonlocal key
        logits = logits.astype(mx.float32)
        if filters:
            logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for keep in filters:
            logits = keep(logits)
        key, subkey = mx.random.split(key)
        return mx.random.categorical(logits * scale, key=subkey)

    return sample


def _penalised(choose: Sampler, penalty: float, control_tokens: Collection[int]) -> Sampler:
    """``choose`` on logits in which the tokens chosen before are less likely."""
    seen: mx.array | None = None  # [B, V]
    spared = mx.array(sorted(control_tokens), dtype=mx.int32)

    def sample(logits: mx.array) -> mx.array:
        nonlocal seen
        if seen is None:
            seen = mx.zeros(logits.shape, dtype=mx.bool_)
        logits = logits.astype(mx.float32)
        penalised = mx.where(logits > 0, logits / penalty, logits * penalty)
        chosen = choose(mx.where(seen, penalised, logits))
        seen = mx.put_along_axis(seen, chosen[:, None], mx.array(True), axis=-1)
        if spared.size:
            seen[:, spared] = False
        return chosen

    return sample


def _filters(params: SamplingParams) -> list[Callable[[mx.array], mx.array]]:
    """Those of mlx-lm, in its order: log-probabilities in, the ruled out ones -inf."""
    if params.top_p == 1 and params.min_p == 0 and params.top_k == 0:
        return []
    # Imported here: it pulls transformers in, which takes most of a second.
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

    filters: list[Callable[[mx.array], mx.array]] = []
    if params.top_p < 1:
        filters.append(lambda logprobs: _keeping_the_first(logprobs, apply_top_p(logprobs, params.top_p)))
    if params.min_p > 0:
        filters.append(lambda logprobs: apply_min_p(logprobs, params.min_p))
    if params.top_k > 0:
        filters.append(lambda logprobs: apply_top_k(logprobs, min(params.top_k, logprobs.shape[-1] - 1)))
    return filters


def _keeping_the_first(logprobs: mx.array, kept: mx.array) -> mx.array:
    """``kept``, with the most likely tokens in any case: a small top_p is lost in the rounding of the sum of all
    probabilities, and nothing would be left."""
    return mx.where(logprobs == logprobs.max(axis=-1, keepdims=True), logprobs, kept)
