"""How tokens are sampled, as plain values that are checked without MLX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .arguments import checked_flag, checked_integer, checked_number
from .errors import InvalidRequest
from .files.read import short_repr

__all__ = ["SamplingParams", "checked_sampling"]

_MAX_BIASES: Final = 2**20


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
    stop: str | tuple[str, ...] = ()
    """A text or texts that end the answer where they appear, also an answer on commentary; they are not part of
    it. Kept as a tuple."""
    stop_loops: bool = False
    """End an analysis that goes round in circles: ``finish_reason`` is then ``loop``."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Is added to the logits of these tokens, from -100 to 100. As in OpenAI's JSON, an id may be text."""

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0.0, 100.0), ("top_p", 0.0, 1.0), ("min_p", 0.0, 1.0)):
            self._keep(name, checked_number(name, getattr(self, name), low, high))
        if self.top_p == 0:
            raise InvalidRequest("top_p is 0; use temperature 0 for the most likely token")
        self._keep("top_k", checked_integer("top_k", self.top_k, 0, 2**31 - 1))
        self._keep(
            "repetition_penalty", checked_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        )
        checked_flag("stop_loops", self.stop_loops)
        if self.seed is not None:
            self._keep("seed", checked_integer("seed", self.seed, 0, 2**64 - 1))
        if self.max_tokens is not None:
            self._keep("max_tokens", checked_integer("max_tokens", self.max_tokens, 1, 2**31 - 1))
        self._keep("stop", _checked_stop(self.stop))
        self._keep("logit_bias", _checked_bias(self.logit_bias))

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _checked_stop(stop: object) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else stop
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest(
            f"stop is {short_repr(stop)}; a text or a tuple of texts is needed, none of them empty"
        )
    return tuple(texts)


def _checked_bias(bias: object) -> dict[int, float]:
    if not isinstance(bias, Mapping) or len(bias) > _MAX_BIASES:
        raise InvalidRequest(
            f"logit_bias is {short_repr(bias)}; a dict of token ids and numbers is needed, such as {{17: -100}}"
        )
    checked = {}
    for token, value in bias.items():
        known = int(token) if isinstance(token, str) and re.fullmatch("[0-9]{1,10}", token) else token
        known = checked_integer("a token of logit_bias", known, 0, 2**31 - 1)
        checked[known] = checked_number(f"logit_bias[{known}]", value, -100.0, 100.0)
    return checked


def checked_sampling(sampling: object) -> SamplingParams:
    """How tokens are chosen; None is the default."""
    if sampling is None:
        return SamplingParams()
    if not isinstance(sampling, SamplingParams):
        raise InvalidRequest(
            f"sampling is {short_repr(sampling)}; SamplingParams is needed, such as SamplingParams(temperature=0)"
        )
    return sampling
