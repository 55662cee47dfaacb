"""A model that never stops: every answer ends at its bound, and whoever waits gets control back."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
from collections.abc import Iterator

import pytest

from gptoss_mlx import SamplingParams
from gptoss_mlx.api import GptOss
from gptoss_mlx.errors import OutputError
from gptoss_mlx.events import Done
from gptoss_mlx.harmony import Channel
from tests import DEMO
from tests.engine.endless import SCRIPTS, WAYS_TO_STOP, endless

BRIEF = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture(scope="module")
def model() -> Iterator[GptOss]:
    with GptOss(DEMO, name="demo", dtype="float32") as model:
        yield model


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_answer_that_never_ends_ends_at_max_tokens(name: str, model: GptOss) -> None:
    with endless(model, name):
        chat = model.chat(sampling=BRIEF)
        with chat.stream("hi") as stream:
            events = list(stream)
    reply = stream.reply
    assert isinstance(events[-1], Done)
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 40)
    assert all(message.channel in (Channel.ANALYSIS, Channel.FINAL) for message in reply.messages)
    # Whatever it was, it is text, and the conversation that holds it can be rendered.
    (reply.text + reply.thinking + "".join(message.text for message in reply.messages)).encode()
    assert chat.context_used


def test_an_answer_that_never_ends_ends_with_the_context(model: GptOss) -> None:
    with endless(model, "an answer"), pytest.MonkeyPatch.context() as patch:
        chat = model.chat()
        limit = chat.context_used + 100
        patch.setattr(model._runner, "budget", dataclasses.replace(model.budget, context=limit))
        reply = chat.send("hi")
    assert reply.finish_reason == "length"
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens == limit


def test_a_guide_keeps_an_endless_model_to_its_form(model: GptOss) -> None:
    with endless(model, "thinking"):
        reply = model.ask("hi", max_thinking_tokens=5, sampling=BRIEF)
        with pytest.raises(OutputError, match="cut short") as caught:
            model.ask("hi", regex="[ab ]+c", max_thinking_tokens=0, sampling=BRIEF)
    assert (reply.usage.reasoning_tokens, reply.finish_reason) == (5, "length")
    assert reply.text
    assert set(caught.value.text) <= set("ab ")


@pytest.mark.parametrize("way", WAYS_TO_STOP)
def test_whoever_stops_it_gets_control_back_and_nothing_stays_behind(way: str, model: GptOss) -> None:
    alone = model.ask("hi", sampling=BRIEF).text
    counts = []
    for _ in range(8):
        with endless(model, "an answer"):
            WAYS_TO_STOP[way](model)
        gc.collect()
        counts.append((len(os.listdir("/dev/fd")), threading.active_count()))
    # A thread may still be ending when it is counted; what is left behind each time would add up.
    for kind in zip(*counts, strict=True):
        assert min(kind[4:]) <= max(kind[:4]), counts
    assert model.ask("hi", sampling=BRIEF).text == alone
