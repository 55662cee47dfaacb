"""Logits: the most likely tokens, a function that changes them, and logits that are no numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.api import GptOss
from gptoss_mlx.errors import CheckpointError, InvalidRequest
from gptoss_mlx.model.transformer import Transformer
from gptoss_mlx.sampling import SamplingParams

BRIEF = SamplingParams(temperature=0, max_tokens=6)


def prompt(demo: GptOss) -> list[int]:
    return demo.tokenizer.encode("Once upon a time")


def test_the_most_likely_tokens_are_those_of_the_logits(demo: GptOss) -> None:
    generation = demo.generate(prompt(demo), BRIEF, top_logprobs=3)
    tokens = list(generation)
    start = len(prompt(demo))
    logits = demo.transformer(mx.array([[*prompt(demo), *tokens]]))[0, start - 1 : -1]
    expected = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    for row, token, logprob, likely in zip(
        expected, tokens, generation.logprobs, generation.top_logprobs, strict=True
    ):
        assert likely[0][0] == token
        assert likely[0][1] == pytest.approx(logprob)
        order: Any = mx.argsort(-row)[:3].tolist()
        assert [other for other, _ in likely] == order
        assert [value for _, value in likely] == pytest.approx([row[other].item() for other in order], abs=2e-3)


def test_a_mask_that_is_not_over_the_vocabulary_is_refused(demo: GptOss) -> None:
    class Short:
        def allowed(self) -> Any:
            return np.ones(7, bool)

        def advance(self, token: int) -> None:
            raise AssertionError

    size = demo.config.vocab_size
    with pytest.raises(InvalidRequest, match=rf"a mask of shape \({size},\) is needed"):
        list(demo.generate(demo.tokenizer.encode("Once"), guide=Short()))


@pytest.mark.parametrize("guided", [False, True])
def test_each_token_has_its_channel_and_its_rivals(demo: GptOss, guided: bool) -> None:
    options: Any = {"choices": ["yes", "no"], "max_thinking_tokens": 3} if guided else {}
    reply = demo.ask("Yes or no?", top_logprobs=2, max_tokens=60, seed=1, **options)
    assert reply.logprobs is not None
    assert {len(entry.top_logprobs) for entry in reply.logprobs} == {2}
    for name, text in (("analysis", reply.thinking), ("final", reply.text)):
        assert "".join(entry.text for entry in reply.logprobs if entry.channel == name) == text
    assert len(reply.logprobs) == reply.usage.completion_tokens


@pytest.mark.parametrize("guided", [False, True])
def test_a_processor_sees_every_token_and_decides(demo: GptOss, guided: bool) -> None:
    wanted = demo.tokenizer.encode("x")[0]
    seen: list[list[int]] = []

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        listed: Any = tokens.tolist()
        seen.append(listed)
        return mx.where(mx.arange(logits.shape[-1]) == wanted, logits + 1000, logits)

    options: Any = {"regex": "[a-z]{3}", "max_thinking_tokens": 0} if guided else {}
    if guided:
        assert demo.ask("Hi", logits_processor=process, **options).text == "xxx"
        assert [after[len(before) :] for before, after in itertools.pairwise(seen[:3])] == [[wanted]] * 2
    else:
        assert list(demo.generate(prompt(demo), BRIEF, logits_processor=process)) == [wanted] * 6
        assert seen == [[*prompt(demo), *[wanted] * count] for count in range(6)]


def test_a_processor_that_returns_no_logits_is_named(demo: GptOss) -> None:
    for wrong in (None, mx.zeros((3,))):
        process: Any = lambda tokens, logits, wrong=wrong: wrong  # noqa: E731
        with pytest.raises(InvalidRequest, match=r"logits_processor returned .*; an mx\.array of shape \(1, "):
            list(demo.generate(prompt(demo), BRIEF, logits_processor=process))
    with pytest.raises(InvalidRequest, match="logits_processor is 3, which cannot be called"):
        demo.ask("Hi", logits_processor=cast(Any, 3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("guided", [False, True])
def test_logits_that_are_no_numbers_end_the_answer(
    demo: GptOss, monkeypatch: pytest.MonkeyPatch, value: float, at: int, guided: bool
) -> None:
    """At the first token one is enough; later, whenever the sampled one is it."""
    original, calls = Transformer.__call__, 0

    def broken(self: Transformer, *arguments: Any, **named: Any) -> mx.array:
        nonlocal calls
        logits = original(self, *arguments, **named)
        calls += bool(named.get("last_only"))
        return (
            logits
            if calls < at
            else mx.where(mx.arange(logits.shape[-1]) < (3 if at == 1 else 10**6), value, logits)
        )

    options: Any = {"regex": "[a-z]{30}", "max_thinking_tokens": 0} if guided else {"temperature": 0.5}
    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "__call__", broken)
        with pytest.raises(CheckpointError, match="weights are broken; check the checkpoint with 'gptoss verify'"):
            demo.ask("Hi", **options)
    assert demo.ask("Hi", choices=["yes"], max_thinking_tokens=0).text == "yes"


def test_the_hidden_states_are_those_of_every_layer(demo: GptOss) -> None:
    tokens, transformer = prompt(demo), demo.transformer
    states = transformer.hidden_states(tokens)
    assert len(states) == 1 + demo.config.num_hidden_layers
    assert {state.shape for state in states} == {(1, len(tokens), demo.config.hidden_size)}
    last = states[-1].reshape(len(tokens), -1)
    logits = transformer.lm_head.product(transformer.norm(last))
    assert mx.array_equal(logits, transformer(mx.array([tokens]))[0])
    assert mx.array_equal(states[0][0], transformer.embed_tokens.rows(mx.array(tokens)))
