"""The loop detector: what repeats for ever is found soon, what has a reason to repeat is let alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.chat.repetition import MAX_PERIOD, MIN_REPEATS, MIN_TOKENS, LoopDetector
from gptoss_mlx.sampling import SamplingParams
from tests.chat.scripted import ScriptedModel, wire
from tests.harmony.fixtures import tokenizer


def found(tokens: list[int]) -> int | None:
    """At which token a loop is found."""
    detector = LoopDetector()
    return next((n for n, token in enumerate(tokens) if detector.advance(token)), None)


def repeats(tokens: list[int], end: int) -> bool:
    """The definition, written out: the tokens before ``end`` equal those a period earlier."""
    return any(
        end - max(MIN_TOKENS, MIN_REPEATS * period) - period >= 0
        and all(tokens[n] == tokens[n - period] for n in range(end - max(MIN_TOKENS, MIN_REPEATS * period), end))
        for period in range(1, MAX_PERIOD + 1)
    )


@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.integers(0, 5), max_size=3000),
    block=st.lists(st.integers(0, 200_000), min_size=1, max_size=MAX_PERIOD),
)
def test_a_block_that_comes_again_and_again_is_found_when_it_must_be(before: list[int], block: list[int]) -> None:
    enough = max(MIN_TOKENS, MIN_REPEATS * len(block))
    tokens = before + block * (enough // len(block) + 2)
    at = found(tokens)
    assert at is not None
    assert at < len(before) + len(block) + enough
    assert repeats(tokens, at + 1)
    assert not repeats(tokens, at)


def test_longer_circles_than_the_longest_are_let_alone() -> None:
    assert found(list(range(MAX_PERIOD + 1)) * 5) is None


TABLE = "| id | name | price |\n|---|---|---|\n" + "".join(f"| {n} | item | {n % 7}.00 |\n" for n in range(300))
CODE = "".join(
    f"        self.field_{n} = field_{n}\n        if self.field_{n} is None:\n            return None\n"
    for n in range(150)
)
NUMBERS = ", ".join(str(n) for n in range(1500))
ZEROS = "data = [" + "0, " * 150 + "]"
RULE = "|" + "---|" * 100
STEPS = "".join(f"Let me check {n}: {n} is not it. Wait, let me check the next one.\n" for n in range(100))


@pytest.mark.parametrize(
    "text", [TABLE, CODE, NUMBERS, ZEROS, RULE, STEPS], ids=["table", "code", "numbers", "zeros", "rule", "steps"]
)
def test_what_repeats_for_a_reason_is_no_loop(text: str) -> None:
    tokens = tokenizer().encode(text)
    assert len(tokens) > 90
    assert found(tokens) is None


def test_noise_is_no_loop() -> None:
    rng = random.Random(0)
    assert found([rng.randrange(3) for _ in range(20_000)]) is None


CIRCLE = "So the answer is five. Wait, is it? Let me think again. "


def test_an_analysis_that_goes_in_circles_is_ended_and_says_so() -> None:
    script = wire(f"<|channel|>analysis<|message|>{CIRCLE * 400}")
    model = ScriptedModel(script, script)
    chat = model.chat(sampling=SamplingParams(stop_loops=True))
    reply = chat.send("hi")
    assert reply.finish_reason == "loop"
    assert reply.usage.completion_tokens < MIN_TOKENS + 2 * len(wire(CIRCLE)) + 10
    assert chat.messages[-1].truncated
    # Off, as it is by default, the model is let alone.
    assert model.chat().send("hi").finish_reason == "length"


def test_an_answer_may_repeat_itself() -> None:
    script = wire(f"<|channel|>final<|message|>{'ha ' * 3000}<|return|>")
    reply = ScriptedModel(script).chat(sampling=SamplingParams(stop_loops=True)).send("Laugh 3,000 times.")
    assert reply.finish_reason == "stop"
    assert reply.text == "ha " * 3000
