"""How tokens are sampled, as plain values that are checked without MLX."""

from __future__ import annotations

from dataclasses import dataclass

from .arguments import checked_flag, checked_integer, checked_number
from .errors import InvalidRequest
from .files.read import short_repr

__all__ = ["SamplingParams", "checked_sampling"]


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
        checked_number("temperature", self.temperature, 0.0, 100.0)
        checked_number("top_p", self.top_p, 0.0, 1.0)
        checked_number("min_p", self.min_p, 0.0, 1.0)
        if self.top_p == 0:
            raise InvalidRequest("top_p is 0; use temperature 0 for the most likely token")
        checked_integer("top_k", self.top_k, 0, 2**31 - 1)
        checked_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        checked_flag("stop_loops", self.stop_loops)
        if self.seed is not None:
            checked_integer("seed", self.seed, 0, 2**64 - 1)
        if self.max_tokens is not None:
            checked_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        stop: object = self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise InvalidRequest(f"stop is {short_repr(stop)}; a tuple of texts that are not empty is needed")
        object.__setattr__(self, "stop", tuple(stop))


def checked_sampling(sampling: object) -> SamplingParams:
    """How tokens are chosen; None is the default."""
    if sampling is None:
        return SamplingParams()
    if not isinstance(sampling, SamplingParams):
        raise InvalidRequest(
            f"sampling is {short_repr(sampling)}; SamplingParams is needed, such as SamplingParams(temperature=0)"
        )
    return sampling
