"""Options as people write them: sampling by name, numbers of NumPy, and what is refused."""

from __future__ import annotations

import inspect
import math
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx as gptoss
from gptoss_mlx.api import GptOss
from gptoss_mlx.chat.options import ChatOptions, TurnOptions
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.sampling import SamplingParams
from tests.chat.scripted import ScriptedModel

FINAL = "<|channel|>final<|message|>{}<|return|>"
BY_NAME: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "seed": 7,
    "max_tokens": 99,
    "stop": "\n",
    "repetition_penalty": 1.1,
    "logit_bias": {17: -100, "18": 3},
    "stop_loops": True,
}


def test_every_field_of_sampling_has_a_name() -> None:
    model = ScriptedModel(*[FINAL.format("Hi.")] * 3)
    model.chat().send("hi", **BY_NAME)
    model.chat(**BY_NAME).send("hi")
    model.chat().fork(**BY_NAME).send("hi")
    assert model.samplings == [SamplingParams(**BY_NAME)] * 3
    assert set(inspect.signature(SamplingParams).parameters) == set(BY_NAME)


def test_every_default_that_a_signature_shows_may_be_given() -> None:
    shown = {name: part.default for name, part in inspect.signature(GptOss.ask).parameters.items()}
    model = ScriptedModel(FINAL.format("Hi."))
    of_chat: Any = {name: shown[name] for name in ChatOptions.__annotations__}
    of_answer: Any = {name: shown[name] for name in TurnOptions.__annotations__}
    assert model.chat(**of_chat).send("hi", **of_answer).text == "Hi."
    assert model.samplings == [SamplingParams()]
    assert (shown["tool_choice"], shown["logprobs"], shown["top_logprobs"]) == ("auto", False, 0)


def test_a_name_replaces_its_field_and_leaves_the_others() -> None:
    model = ScriptedModel(*[FINAL.format("Hi.")] * 4)
    chat = model.chat(sampling=SamplingParams(seed=1, temperature=0.5), max_tokens=50)
    chat.send("hi", temperature=0)
    chat.send("hi", sampling=SamplingParams(seed=2), top_k=3, seed=None)
    chat.send("hi", sampling=None)
    chat.retry(max_tokens=40)
    kept = SamplingParams(seed=1, temperature=0.5, max_tokens=50)
    assert chat.sampling == kept
    assert model.samplings == [
        SamplingParams(seed=1, temperature=0, max_tokens=50),
        SamplingParams(seed=2, top_k=3),
        kept,
        SamplingParams(seed=1, temperature=0.5, max_tokens=40),
    ]


def test_the_numbers_of_arrays_are_numbers() -> None:
    scalars: dict[str, Any] = {"temperature": np.float32(0.5), "top_k": np.int64(4), "seed": mx.array(3)}
    made = SamplingParams(**scalars, max_tokens=cast(Any, np.array(9)), logit_bias={cast(Any, np.int32(5)): 1.5})
    assert made == SamplingParams(temperature=0.5, top_k=4, seed=3, max_tokens=9, logit_bias={5: 1.5})
    assert [type(value) for value in (made.temperature, made.top_k, made.seed)] == [float, int, int]
    wrong: Any
    for wrong in (np.array([1]), np.float32(1.0), np.bool_(True)):
        with pytest.raises(InvalidRequest, match="top_k is"):
            SamplingParams(top_k=wrong)


def test_arrays_are_prompts(demo: GptOss) -> None:
    tokens = demo.tokenizer.encode("Once upon a time")
    brief = SamplingParams(temperature=0, max_tokens=3)
    expected = list(demo.generate(tokens, brief))
    made: Any
    for made in (np.array(tokens), mx.array(tokens), [np.int64(token) for token in tokens]):
        assert list(demo.generate(made, brief)) == expected
        assert demo.cached_length(made) == len(tokens) - 1
    with pytest.raises(InvalidRequest, match=r"token 1\.5 is out of range"):
        demo.generate(cast(Any, np.array([1.5])))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stop": ""}, "stop is ''; a text or a tuple of texts is needed"),
        ({"temperature": "hot"}, "temperature is 'hot'; a number from 0 to 100"),
        ({"logit_bias": [1]}, r"logit_bias is \[1\]; a dict of token ids and numbers is needed"),
        ({"logit_bias": {"a": 1}}, "a token of logit_bias is 'a'; a whole number from 0"),
        ({"logit_bias": {-1: 1}}, "a token of logit_bias is -1; a whole number"),
        ({"logit_bias": {1: 101}}, r"logit_bias\[1\] is 101; a number from -100 to 100"),
        ({"logit_bias": {1: math.nan}}, r"logit_bias\[1\] is nan; a number"),
        ({"sampling": {}}, "sampling is {}; SamplingParams is needed"),
        ({"temprature": 1}, "there is no option 'temprature'; there are"),
    ],
)
def test_an_option_of_sampling_is_refused_before_any_work(options: Any, said: str) -> None:
    model = ScriptedModel()
    for verb in (model.chat().send, model.chat().stream):
        with pytest.raises(InvalidRequest, match=said):
            verb("hi", **options)
    with pytest.raises(InvalidRequest, match=said):
        model.chat(**options)
    assert not model.prompts


def test_a_bias_rules_tokens_in_and_out(demo: GptOss) -> None:
    prompt = demo.tokenizer.encode("Once upon a time")
    (first,) = demo.generate(prompt, SamplingParams(temperature=0, max_tokens=1))
    (other,) = demo.generate(prompt, SamplingParams(temperature=0, max_tokens=1, logit_bias={first: -100}))
    assert other != first
    wanted = demo.tokenizer.encode("x")[0]
    biased = SamplingParams(seed=1, max_tokens=3, logit_bias={wanted: 100})
    assert list(demo.generate(prompt, biased)) == [wanted] * 3
    with pytest.raises(InvalidRequest, match=r"logit_bias has the token \d+, which is out of range"):
        demo.generate(prompt, SamplingParams(logit_bias={demo.config.vocab_size: 1}))


def test_a_bias_does_not_bring_back_what_a_form_rules_out(demo: GptOss) -> None:
    bias = dict.fromkeys(demo.tokenizer.encode("no"), 100.0)
    assert demo.ask("Sure?", choices=["yes"], max_thinking_tokens=0, logit_bias=bias).text == "yes"


@pytest.mark.parametrize("verb", [GptOss.ask, GptOss.stream, gptoss.Chat.send, gptoss.AsyncGptOss.ask])
def test_help_shows_every_option(verb: Any) -> None:
    parameters = inspect.signature(verb).parameters
    assert set(BY_NAME) <= set(parameters)
    assert all(part.kind is not part.VAR_KEYWORD for part in parameters.values())
