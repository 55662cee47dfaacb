"""From logits to the next token.

OpenAI recommends temperature 1 and nothing else, so that and greedy are the cases that cost little: they work on
the raw logits. Anything else is mlx-lm's filters on normalised log-probabilities.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass

import mlx.core as mx

from .errors import InvalidRequest
from .reading import shown

__all__ = ["Sampler", "SamplingParams", "make_sampler"]

Sampler = Callable[[mx.array], mx.array]
"""Logits [B, V] -> token ids [B]."""
_COLDEST = 1e-9
"""Temperatures below are greedy. Here the least difference between two logits of a usual size, 1e-6 in float32,
has become 1,000, and the noise that sampling adds is within 25; far below, the quotient would overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen, and when to stop. The defaults are OpenAI's recommendation.

    Raises:
        InvalidRequest: a value out of its range.

    Example:
        >>> greedy = SamplingParams(temperature=0, max_tokens=20)
        >>> model.ask("Who are you?", sampling=greedy).text == model.ask("Who are you?", sampling=greedy).text
        True
        >>> SamplingParams(temperature=-1)
        Traceback (most recent call last):
        gptoss_mlx.errors.InvalidRequest: temperature is -1; a number from 0 to 100 is needed
    """

    temperature: float = 1.0
    """0 is greedy, and so is anything below 1e-9."""
    top_p: float = 1.0
    """Only the most likely tokens that together reach this probability; 1 is all."""
    top_k: int = 0
    """Only the k most likely tokens; 0 is all."""
    min_p: float = 0.0
    """Only tokens at least this likely, relative to the most likely; 0 is all."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the request has generated become less likely: their positive logits are divided by it,
    negative ones multiplied (CTRL, Keskar et al. 2019). 1 is off, as the model was made for. Control tokens, and
    tokens that a form dictates, are left alone."""
    seed: int | None = None
    """The same seed, prompt and cache state give the same tokens."""
    max_tokens: int | None = None
    """Of one request, analysis included; by default as many as the context holds."""
    stop: tuple[str, ...] = ()
    """Texts that end the final answer where they appear; they are not part of it."""
    stop_loops: bool = False
    """End an analysis that goes round in circles: ``finish_reason`` is then ``loop``."""

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        if self.top_p == 0:
            raise InvalidRequest("top_p is 0; use temperature 0 for the most likely token")
        _check_integer("top_k", self.top_k, 0, 2**31 - 1)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        if type(self.stop_loops) is not bool:
            raise InvalidRequest(f"stop_loops is {shown(self.stop_loops)}; True or False is needed")
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, 2**64 - 1)
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        stop: object = self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise InvalidRequest(f"stop is {shown(stop)}; a tuple of texts that are not empty is needed")
        object.__setattr__(self, "stop", tuple(stop))


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


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:
        raise InvalidRequest(f"{name} is {shown(value)}; a number from {low:g} to {high:g} is needed")


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest(f"{name} is {shown(value)}; a whole number from {low} to {high} is needed")
