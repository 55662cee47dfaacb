"""Tokens in, tokens out: prefill in chunks, then decode one token ahead.

Runs in the thread that owns MLX. Knows nothing of harmony, text or threads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..cache.store import PrefixCache
from ..errors import InvalidRequest, NotEnoughMemory
from ..files.read import short_repr
from ..memory.metal import is_out_of_memory
from ..model.transformer import Transformer
from .sampler import Sampler

__all__ = ["ChunkSize", "Request", "Steering", "check_prompt", "computing", "decode", "prefill"]


_GROWTH = 256  # decoded tokens between two looks at whether there is room for more


@dataclass(slots=True)
class ChunkSize:
    """How many tokens a prefill chunk has: as many as take at most half a second, so that cancelling waits
    no longer."""

    tokens: int = 256
    seconds: float = 0.5

    def measured(self, tokens: int, elapsed: float) -> None:
        """Learns from a chunk; short ones say little."""
        if tokens >= 64 and elapsed > 0:
            fits = int(tokens * self.seconds / elapsed)
            self.tokens = max(64, min(2048, 2 * self.tokens, fits // 64 * 64))


class Steering(Protocol):
    """Says before every token what may come next; ``guide.Guide`` is one."""

    def allowed(self) -> int | NDArray[np.bool_]:
        """The one token that may come next, or which of the vocabulary may."""

    def advance(self, token: int) -> None:
        """Told every token that was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one generation needs to know beside the prompt."""

    sampler: Sampler
    stop_tokens: frozenset[int]
    max_tokens: int | None
    max_positions: int
    """Of prompt and completion together."""
    max_chunk: int = 2048
    """The most tokens of a prefill chunk that there is memory for."""
    boundaries: tuple[int, ...] = ()
    """Positions of the prompt to mark, ascending."""
    cancelled: Callable[[], bool] = lambda: False
    on_prefill: Callable[[int, int], None] = field(default=lambda done, total: None)
    on_growth: Callable[[int], None] = field(default=lambda length: None)
    """Called before the cache grows, with the positions it is to hold."""
    guide: Steering | None = None
    on_logprob: Callable[[float], None] | None = None
    """Called before each token with its log-probability."""


def check_prompt(prompt: Sequence[int], vocab_size: int) -> None:
    """Before any work.

    Raises:
        InvalidRequest: the prompt is empty, or a token is out of range.
    """
    if not prompt:
        raise InvalidRequest("the prompt is empty; at least one token is needed")
    wrong = next((token for token in prompt if type(token) is not int or not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(f"token {short_repr(wrong)} is out of range (0 to {vocab_size - 1})")


@contextlib.contextmanager
def computing(prefix: PrefixCache) -> Iterator[None]:
    """Around whatever computes into a prefix: after a failure the prefix begins anew, since a part of a chunk may
    be in it.

    Raises:
        NotEnoughMemory: the device ran out of it. The next request finds it free again.
    """
    try:
        yield
    except Exception as error:
        prefix.forget()
        mx.clear_cache()
        if is_out_of_memory(error):
            raise NotEnoughMemory(
                f"the memory ran out ({error}); the conversation is kept: ask again with a smaller context or "
                "kv_bits=8, or close other programs"
            ) from error
        raise
    finally:
        # The token computed ahead may still run; the process must not end under it.
        mx.synchronize()


def prefill(
    transformer: Transformer,
    prompt: list[int],
    prefix: PrefixCache,
    request: Request,
    chunk_size: ChunkSize,
) -> bool:
    """Computes keys and values of the prompt's tokens that are not cached, up to and without the last one.

    The last token is left to :func:`decode`, whose first step needs it: so nothing here computes logits, or
    the last layer's experts.

    Returns:
        False if it was cancelled; the cache then holds the chunks that were finished.
    """
    begin = prefix.reuse(prompt)
    total = len(prompt) - begin
    # The prompt's own end is marked one token early: a retry, the same prompt again, needs that token's logits.
    marks = {min(position, len(prompt) - 1) for position in request.boundaries}
    ends = sorted(position for position in marks | {len(prompt) - 1} if position >= begin)
    request.on_growth(len(prompt))
    prefix.cache.reserve(len(prompt))
    request.on_prefill(0, total)
    for end in ends:
        while len(prefix.tokens) < end:
            if request.cancelled():
                return False
            size = min(chunk_size.tokens, request.max_chunk)
            chunk = prompt[len(prefix.tokens) : min(end, len(prefix.tokens) + size)]
            started = time.perf_counter()
            transformer(mx.array([chunk]), prefix.cache, last_only=True)
            mx.eval(prefix.cache.arrays())
            chunk_size.measured(len(chunk), time.perf_counter() - started)
            prefix.extend(chunk)
            # What a chunk of another length left behind would only lie there beside what the next one needs.
            mx.clear_cache()
            request.on_prefill(len(prefix.tokens) - begin, total)
        if end in marks:
            prefix.mark()
    return True


def decode(transformer: Transformer, prompt: list[int], prefix: PrefixCache, request: Request) -> Iterator[int]:
    """Generates tokens after a prefilled prompt, the stop token included.

    While the caller has one token, the device already computes the next; not so with a guide, which has to know
    a token before it can say what follows.
    """
    if request.guide is not None:
        yield from _decode_guided(transformer, prompt, prefix, request, request.guide)
        return

    def step(tokens: mx.array) -> mx.array:
        logits = transformer(tokens[None], prefix.cache, last_only=True)[:, -1]
        following = request.sampler(logits)
        if request.on_logprob is not None:
            logprobs.append(_logprob(logits, following))
        mx.async_eval(following, *logprobs[-1:])
        return following

    logprobs: list[mx.array] = []
    limit = request.max_positions - len(prompt)
    if request.max_tokens is not None:
        limit = min(limit, request.max_tokens)
    upcoming = step(mx.array(prompt[-1:]))
    prefix.extend(prompt[-1:])
    for produced in range(1, limit + 1):
        current = upcoming
        if produced % _GROWTH == 0:
            request.on_growth(len(prompt) + produced + _GROWTH)
        if produced < limit and not request.cancelled():
            upcoming = step(current)
        token = cast(int, current.item())
        if upcoming is not current:
            prefix.extend([token])
        if request.on_logprob is not None:
            request.on_logprob(cast(float, logprobs.pop(0).item()))
        yield token
        if token in request.stop_tokens or upcoming is current:
            return


def _decode_guided(
    transformer: Transformer, prompt: list[int], prefix: PrefixCache, request: Request, guide: Steering
) -> Iterator[int]:
    """:func:`decode` where a guide says what may come next. It works that out while the device computes the
    logits, and the device goes on with a token before anyone has read it; tokens without alternatives are
    computed together."""

    def forward(tokens: mx.array) -> mx.array:
        logits = transformer(tokens[None], prefix.cache, last_only=True)[:, -1]
        mx.async_eval(logits)
        return logits

    limit = request.max_positions - len(prompt)
    if request.max_tokens is not None:
        limit = min(limit, request.max_tokens)
    logits = forward(mx.array(prompt[-1:]))
    prefix.extend(prompt[-1:])
    room = len(prompt) + _GROWTH
    while limit > 0 and not request.cancelled():
        if len(prefix.tokens) > room:
            room = len(prefix.tokens) + _GROWTH
            request.on_growth(room)
        allowed = guide.allowed()
        if isinstance(allowed, int):
            tokens = _forced(allowed, guide, request, limit)
            _tell_logprob(logits, mx.array(tokens[:1]), request)
            if len(tokens) < limit:
                logits = forward(mx.array(tokens))
                prefix.extend(tokens)
        else:
            chosen = request.sampler(mx.where(mx.array(allowed), logits, mx.array(-mx.inf, logits.dtype)))
            # By itself: a token that is only a step on the way to logits could not be read before those are there.
            mx.async_eval(chosen)
            following = forward(chosen) if limit > 1 else logits
            tokens = [cast(int, chosen.item())]
            if limit > 1:
                prefix.extend(tokens)
            _tell_logprob(logits, chosen, request)
            logits = following
            guide.advance(tokens[0])
        yield from tokens
        limit -= len(tokens)
        if tokens[-1] in request.stop_tokens:
            return


def _forced(token: int, guide: Steering, request: Request, limit: int) -> list[int]:
    """The tokens that have no alternative; where log-probabilities are asked for, one at a time."""
    tokens = [token]
    guide.advance(token)
    while len(tokens) < limit and tokens[-1] not in request.stop_tokens and request.on_logprob is None:
        following = guide.allowed()
        if not isinstance(following, int):
            break
        guide.advance(following)
        tokens.append(following)
    return tokens


def _tell_logprob(logits: mx.array, tokens: mx.array, request: Request) -> None:
    if request.on_logprob is not None:
        request.on_logprob(cast(float, _logprob(logits, tokens).item()))


def _logprob(logits: mx.array, tokens: mx.array) -> mx.array:
    """logits: [1, V], tokens: [1] -> the log-probability of each."""
    logits = logits.astype(mx.float32)
    return mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)
