"""Tokens in, tokens out: prefill in chunks, then decode one token ahead.

Runs in the thread that owns MLX. Knows nothing of harmony, text or threads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..cache.entry import CacheEntry
from ..errors import CheckpointError, InvalidRequest, NotEnoughMemory
from ..files.read import short_repr
from ..memory.metal import is_out_of_memory
from ..sampling import SamplingParams
from .chooser import Chooser
from .steps import CHUNKS, Steps

__all__ = [
    "GROWTH",
    "CallersError",
    "Decoding",
    "LogitsProcessor",
    "Request",
    "Steering",
    "Tokens",
    "check_bias",
    "check_prompt",
    "computing",
    "decode",
    "prefill",
]


Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
LogitsProcessor: TypeAlias = Callable[[mx.array, mx.array], mx.array]
"""Changes logits before a token is sampled, as in mlx-lm: the tokens so far [N] and the logits [1, V] -> logits
[1, V]. Called in the model's thread."""
Tokens: TypeAlias = list[int] | mx.array
"""Tokens to compute: known ones, or a chosen one, [1], that is not read yet."""
Decoding: TypeAlias = Generator[Tokens, mx.array, None]
"""A request that yields tokens to compute and receives the logits after the last of them, [1, V]."""
GROWTH: Final = 256
"""Decoded tokens between two checks of the memory."""


class Steering(Protocol):
    """Says before every token what may come next; ``guide.Guide`` is one."""

    def allowed(self) -> int | NDArray[np.bool_]:
        """The only token that may come next, or a mask over the vocabulary."""

    def advance(self, token: int) -> None:
        """Takes every token that was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The settings of one generation, beside its prompt."""

    stop_tokens: frozenset[int]
    max_tokens: int | None
    max_positions: int
    """Of prompt and completion together."""
    max_chunk: int = CHUNKS[-1]
    """The most tokens of a prefill chunk that there is memory for."""
    cancelled: Callable[[], bool] = lambda: False
    on_prefill: Callable[[int, int], None] = field(default=lambda done, total: None)
    on_pause: Callable[[], None] = field(default=lambda: None)
    """Called between two groups of layers of the prefill."""
    on_growth: Callable[[int], None] = field(default=lambda length: None)
    """Called before the cache grows, with the positions it is to hold."""
    on_token: Callable[[int], None] = field(default=lambda token: None)
    """Called with each token that was generated, when it is read."""
    guide: Steering | None = None
    process: LogitsProcessor | None = None
    on_logprob: Callable[[float, list[tuple[int, float]]], None] | None = None
    """Called before each token with its log-probability, and the most likely tokens with theirs."""
    top_logprobs: int = 0
    """The number of the most likely tokens."""


def check_prompt(prompt: Sequence[int], vocab_size: int) -> None:
    """Checks a prompt before any work.

    Raises:
        InvalidRequest: the prompt is empty, or a token is out of range.
    """
    if not prompt:
        raise InvalidRequest("the prompt is empty; at least one token is needed")
    wrong = next((token for token in prompt if type(token) is not int or not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(f"token {short_repr(wrong)} is out of range (0 to {vocab_size - 1})")


def check_bias(sampling: SamplingParams, vocab_size: int) -> None:
    """Checks the tokens of ``logit_bias``.

    Raises:
        InvalidRequest: a token is out of range.
    """
    wrong = next((token for token in sampling.logit_bias if token >= vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(f"logit_bias has the token {wrong}, which is out of range (0 to {vocab_size - 1})")


@contextlib.contextmanager
def computing(on_failure: Callable[[], None]) -> Iterator[None]:
    """Surrounds every computation into an entry of the store.

    Args:
        on_failure: drops the entry, since it may hold a part of a chunk.

    Raises:
        NotEnoughMemory: the device ran out of it. It is free again for the next request.
    """
    try:
        yield
    except BaseException as error:
        on_failure()
        if is_out_of_memory(error):
            raise NotEnoughMemory(
                f"the memory ran out ({error}); the conversation is kept: ask again with a smaller context or "
                "keys and values in 8 bits, or close other programs"
            ) from error
        raise
    finally:
        # The token computed ahead may still run; the process must not end under it.
        mx.synchronize()


class CallersError(Exception):
    """A RuntimeError or NotEnoughMemory of a caller's function, its argument: of the computation itself it would
    concern other requests and machines too."""


def callers(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Calls a function of the caller's while something is computed.

    Raises:
        CallersError: it has raised a RuntimeError or NotEnoughMemory. Other exceptions pass through, and so does
            one of MLX that the memory ran out.
    """
    try:
        return function(*args, **kwargs)
    except (RuntimeError, NotEnoughMemory) as error:
        if is_out_of_memory(error):
            raise
        raise CallersError(error) from error


def prefill(steps: Steps, prompt: list[int], entry: CacheEntry, request: Request) -> bool:
    """Computes keys and values of the prompt's tokens that are not cached, all but the last one.

    The last token is left to :func:`decode`, whose first step needs it. So this computes no logits, nor the last
    layer's experts. It takes ceil((len(prompt) - cached - 1) / chunk) forward passes, however many snapshots are
    inside.

    Returns:
        False if it was cancelled; the entry then holds the chunks that were finished.
    """

    def stopped() -> bool:
        request.on_pause()
        return request.cancelled()

    begin, end = len(entry.tokens), len(prompt) - 1
    total = len(prompt) - begin
    entry.cache.reserve(len(prompt))
    request.on_prefill(0, total)
    while (position := len(entry.tokens)) < end:
        chunk = prompt[position : min(end, position + steps.pace.chunk(request.max_chunk))]
        if not steps.chunk(entry, chunk, stopped):
            return False
        request.on_prefill(len(entry.tokens) - begin, total)
    return True


def decode(prompt: list[int], request: Request, chooser: Chooser) -> Decoding:
    """Generates tokens after a prefilled prompt, the stop token included.

    Knows nothing of caches: it yields the tokens to compute next, after those that are computed already, and
    receives the logits after the last of them. Tokens that it has generated leave through the request.

    While the caller handles one token, the device already computes the next one. A guide prevents that, because it
    has to know a token before it can say what may follow.
    """
    if request.guide is not None:
        yield from _decode_guided(prompt, request, chooser, request.guide)
        return

    limit = _limit(prompt, request)
    choices = _Choices(prompt, request, chooser)
    # All logits are checked once, since the sampler may pass over a NaN; then only what it chose.
    upcoming = choices.after((yield prompt[-1:]), mx.array(prompt[-1:]), check_all=True)
    for produced in range(1, limit + 1):
        current, logit = upcoming
        if produced % GROWTH == 0:
            request.on_growth(min(len(prompt) + produced + GROWTH, request.max_positions))
        if produced < limit and not request.cancelled():
            upcoming = choices.after((yield current), current)
        token = cast(int, current.item())
        _check_logit(logit)
        choices.report()
        request.on_token(token)
        if token in request.stop_tokens or upcoming[0] is current:
            return


class _Choices:
    """The tokens of one request that the device chooses before the one before them is read."""

    def __init__(self, prompt: list[int], request: Request, chooser: Chooser) -> None:
        self._request = request
        self._chooser = chooser
        self._history = mx.array(prompt[:-1] if request.process else [], dtype=mx.int32)
        self._logprobs: list[tuple[mx.array, ...]] = []

    def after(self, logits: mx.array, tokens: mx.array, *, check_all: bool = False) -> tuple[mx.array, mx.array]:
        """The token after ``tokens``, [1], and its logit; both are being computed."""
        chooser, request, processed = self._chooser, self._request, logits
        if request.process is not None:
            self._history = mx.concatenate([self._history, tokens])
            processed = _processed(request.process, self._history, logits)
        following, logit = chooser.choose(logits, processed, check_all=check_all)
        wanted = [following, logit]
        if request.on_logprob is not None:
            self._logprobs.append(chooser.logprobs(logits, following, request.top_logprobs))
            wanted += self._logprobs[-1]
        mx.async_eval(*wanted)
        return following, logit

    def report(self) -> None:
        """Reports the log-probability of the token that is read now, where that was asked for."""
        if self._logprobs:
            _report(self._logprobs.pop(0), self._request)


def _limit(prompt: list[int], request: Request) -> int:
    """How many tokens may be generated."""
    limit = request.max_positions - len(prompt)
    return limit if request.max_tokens is None else min(limit, request.max_tokens)


def _decode_guided(prompt: list[int], request: Request, chooser: Chooser, guide: Steering) -> Decoding:
    """:func:`decode` with a guide. The guide computes the mask while the device computes the logits, and the
    device continues with a token before it is read here. Tokens without alternatives are computed together."""
    limit = _limit(prompt, request)
    logits = yield prompt[-1:]
    unchecked: mx.array | None = chooser.check(logits)
    mx.async_eval(logits, unchecked)
    known = list(prompt)
    room = len(known) + GROWTH
    while limit > 0 and not request.cancelled():
        room = _with_room(room, len(known), request)
        allowed = callers(guide.allowed)
        if unchecked is not None:
            _check_logit(unchecked)
            unchecked = None
        if isinstance(allowed, int):
            tokens = _forced(allowed, guide, request, limit)
            _report_logprob(chooser, logits, mx.array(tokens[:1]), request)
            room = _with_room(room, len(known) + len(tokens), request)
            if len(tokens) < limit:
                logits = yield tokens
                mx.async_eval(logits)
        else:
            processed = logits
            if request.process is not None:
                processed = _processed(request.process, mx.array(known, dtype=mx.int32), logits)
            _check_mask(allowed, chooser.vocabulary.size(logits))
            chosen, logit = chooser.choose(logits, processed, allowed=allowed)
            likely = None
            if request.on_logprob is not None:
                likely = chooser.logprobs(logits, chosen, request.top_logprobs)
            # Evaluated by themselves: as intermediates of the next logits they could not be read before they are
            # there.
            mx.async_eval(chosen, logit)
            following = logits
            if limit > 1:
                following = yield chosen
                mx.async_eval(following)
            tokens = [cast(int, chosen.item())]
            _check_logit(logit)
            if likely is not None:
                _report(likely, request)
            logits = following
            callers(guide.advance, tokens[0])
        known += tokens
        for token in tokens:
            request.on_token(token)
        limit -= len(tokens)
        if tokens[-1] in request.stop_tokens:
            return


def _with_room(room: int, length: int, request: Request) -> int:
    """Asks for more memory where there is room for fewer positions than ``length``; returns the room then."""
    if length <= room:
        return room
    request.on_growth(min(length + GROWTH, request.max_positions))
    return length + GROWTH


def _forced(token: int, guide: Steering, request: Request, limit: int) -> list[int]:
    """The tokens without an alternative; only one at a time where log-probabilities are asked for."""
    tokens = [token]
    callers(guide.advance, token)
    while len(tokens) < limit and tokens[-1] not in request.stop_tokens and request.on_logprob is None:
        following = callers(guide.allowed)
        if not isinstance(following, int):
            break
        callers(guide.advance, following)
        tokens.append(following)
    return tokens


def _check_mask(allowed: NDArray[np.bool_], size: int) -> None:
    """Refuses a guide's mask that is not over the vocabulary, before other machines are told of it.

    Raises:
        InvalidRequest: it is not.
    """
    if allowed.shape != (size,):
        raise InvalidRequest(f"the guide allows {short_repr(allowed)}; a mask of shape ({size},) is needed")


def _check_logit(logit: mx.array) -> None:
    """Refuses NaN and infinity.

    Args:
        logit: [1], of a token that is there already, so that this waits for nothing.

    Raises:
        CheckpointError: the model computed no number.
    """
    value = cast(float, logit.item())
    if not math.isfinite(value):
        raise CheckpointError(
            f"the model computed the logit {value}: its weights are broken; check the checkpoint with "
            "'gptoss verify', then convert or download it again"
        )


def _report_logprob(chooser: Chooser, logits: mx.array, tokens: mx.array, request: Request) -> None:
    if request.on_logprob is not None:
        _report(chooser.logprobs(logits, tokens, request.top_logprobs), request)


def _report(logprobs: tuple[mx.array, ...], request: Request) -> None:
    assert request.on_logprob is not None
    logprob, *most_likely = (cast("list[Any]", array.tolist()) for array in logprobs)
    pairs = zip(*most_likely, strict=True) if most_likely else ()
    request.on_logprob(logprob[0], sorted(pairs, key=lambda pair: -pair[1]))


def _processed(process: LogitsProcessor, tokens: mx.array, logits: mx.array) -> mx.array:
    """The logits that the caller's function makes of the model's.

    Raises:
        InvalidRequest: they are not logits of the same shape. Exceptions of the function pass through.
    """
    made: object = callers(process, tokens, logits)
    if not isinstance(made, mx.array) or made.shape != logits.shape:
        shape = tuple(logits.shape)
        raise InvalidRequest(
            f"logits_processor returned {short_repr(made)}; an mx.array of shape {shape} is needed"
        )
    return made
