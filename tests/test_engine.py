"""The engine on the embedded model: what is warm equals what is cold, and requests end when told to."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx import engine
from gptoss_mlx.chat import Chat
from gptoss_mlx.engine import GptOss, load
from gptoss_mlx.errors import CheckpointError, InvalidRequest, ModelClosed, ModelNotFound
from gptoss_mlx.events import Progress
from gptoss_mlx.generate import prefill
from gptoss_mlx.harmony import render
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.stream import Stream
from tests.conftest import DEMO

GREEDY = SamplingParams(temperature=0, max_tokens=150)


def prompt(model: GptOss, text: str = "What is 12+30?") -> list[int]:
    chat = model.chat()
    return render(chat.conversation.adding(*_user(text)), model.tokenizer)


def _user(text: str) -> Any:
    from gptoss_mlx.harmony import Message

    return [Message.user(text)]


def test_generation_ends_with_a_stop_token_or_at_the_length(demo: GptOss) -> None:
    tokens = list(demo.generate(prompt(demo), SamplingParams(temperature=0)))
    assert tokens[-1] in demo.stop_tokens
    assert not demo.stop_tokens & set(tokens[:-1])
    assert list(demo.generate(prompt(demo), SamplingParams(temperature=0, max_tokens=3))) == tokens[:3]
    assert list(demo.generate(prompt(demo), SamplingParams(temperature=0, max_tokens=1))) == tokens[:1]


def test_generation_follows_the_logits(exact_demo: GptOss) -> None:
    """Greedy decoding through prefill, cache and look-ahead is the argmax of the whole sequence at once."""
    start = prompt(exact_demo)
    tokens = list(exact_demo.generate(start, GREEDY))
    logits = exact_demo.transformer(mx.array([start + tokens]))[0]
    expected = mx.argmax(logits[len(start) - 1 : -1], axis=-1).tolist()
    assert tokens == expected


def test_a_seed_reproduces(demo: GptOss) -> None:
    sampling = SamplingParams(seed=7, max_tokens=30, temperature=5.0)
    first, second = (list(demo.generate(prompt(demo), sampling)) for _ in range(2))
    other = list(demo.generate(prompt(demo), SamplingParams(seed=8, max_tokens=30, temperature=5.0)))
    assert first == second != other


@pytest.mark.parametrize("tokens", [[], [-1], [10**6], [1.5], ["a"]])
def test_prompts_out_of_range_are_refused(tokens: Any, demo: GptOss) -> None:
    with pytest.raises(InvalidRequest):
        demo.generate(tokens)


def test_a_prompt_longer_than_the_context_is_refused(demo: GptOss) -> None:
    limit = demo.config.max_position_embeddings
    with pytest.raises(InvalidRequest, match=str(limit)):
        demo.generate([1] * limit)


def settled(model: GptOss) -> None:
    """Waits until idle work is done."""
    while model._worker._jobs.qsize():
        time.sleep(0.001)
    model._worker.submit(lambda: None).result()


Action = Callable[[Chat], object]
ACTIONS: dict[str, list[Action]] = {
    "turns": [lambda chat: chat.send("hi"), lambda chat: chat.send("What is 5+6?")],
    "retry": [lambda chat: chat.send("hi"), lambda chat: chat.send("What is 5+6?"), lambda chat: chat.retry()],
    "undo": [lambda chat: chat.send("hi"), lambda chat: chat.undo(), lambda chat: chat.send("who are you?")],
    "edit": [
        lambda chat: chat.send("hi"),
        lambda chat: chat.send("What is 5+6?"),
        lambda chat: chat.edit(0, "who are you?"),
        lambda chat: chat.send("What is 9-4?"),
    ],
    "effort": [lambda chat: chat.send("What is 5+6?"), lambda chat: chat.send("What is 9-4?", effort="high")],
    "fork": [
        lambda chat: chat.send("hi"),
        lambda chat: chat.fork().send("ok"),
        lambda chat: chat.send("What is 5+6?"),
    ],
}


@pytest.mark.parametrize("idle", [False, True], ids=["at once", "after a pause"])
@pytest.mark.parametrize("name", ACTIONS)
def test_warm_equals_cold(name: str, idle: bool, exact_demo: GptOss) -> None:
    chat = exact_demo.chat(sampling=GREEDY)
    for action in ACTIONS[name]:
        action(chat)
        if idle:
            settled(exact_demo)
    # Cold: the same conversation up to the last question, with nothing computed.
    cold = Chat(exact_demo, effort=chat.effort, sampling=GREEDY, messages=chat.messages)
    cold.retry()
    assert cold.messages == chat.messages


def test_later_turns_compute_only_what_is_new(exact_demo: GptOss) -> None:
    chat = exact_demo.chat(sampling=GREEDY, effort="low")
    replies = []
    for question in ("hi", "who are you?", "What is 5+6?", "What is 9-4?"):
        replies.append(chat.send(question))
        settled(exact_demo)
    for question, reply in zip(("who are you?", "What is 5+6?", "What is 9-4?"), replies[1:], strict=True):
        new = reply.usage.prompt_tokens - reply.usage.cached_tokens
        assert new <= len(exact_demo.tokenizer.encode(question)) + 16


def test_without_a_pause_the_last_answer_is_computed_again_and_nothing_else(exact_demo: GptOss) -> None:
    prefix = exact_demo.make_prefix()
    chat = exact_demo.chat(sampling=GREEDY, effort="low")
    chat._prefix = prefix
    chat._settle = lambda reply: None  # type: ignore[method-assign]
    chat.send("hi")
    for question in ("who are you?", "What is 5+6?", "What is 9-4?"):
        kept = sum(len(exact_demo.tokenizer.encode(message.text)) for message in chat.messages[-1:])
        usage = chat.send(question).usage
        assert usage.prompt_tokens - usage.cached_tokens <= kept + len(exact_demo.tokenizer.encode(question)) + 16


def test_usage_adds_up(demo: GptOss) -> None:
    reply = demo.ask("What is 12+30?", sampling=GREEDY)
    usage = reply.usage
    assert 0 <= usage.cached_tokens < usage.prompt_tokens
    assert 0 < usage.reasoning_tokens < usage.completion_tokens <= 150


def test_progress_counts_the_prompt(demo: GptOss) -> None:
    with demo.stream("What is 12+30?", sampling=GREEDY) as stream:
        progress = [event for event in stream if isinstance(event, Progress)]
    assert progress[0].done == 0
    assert progress[-1].done == progress[-1].total - 1
    assert stream.reply.usage.prompt_tokens == progress[0].total


def test_cancelling_gives_control_back_at_once(demo: GptOss) -> None:
    endless = SamplingParams(temperature=20.0)
    stream = demo.stream("What is 12+30?", sampling=endless)
    threading.Timer(0.2, stream.cancel).start()
    for _ in stream:
        pass
    assert stream.reply.finish_reason == "cancelled"
    # The model answers the next request.
    assert demo.ask("hi", sampling=GREEDY).finish_reason in ("stop", "length")


def test_a_generation_that_nobody_reads_stops(demo: GptOss) -> None:
    generation = demo.generate(prompt(demo), SamplingParams(temperature=20.0))
    next(generation)
    channel = generation._channel
    del generation
    gc.collect()
    assert channel.cancelled.is_set()
    assert demo.ask("hi", sampling=GREEDY).text


def test_requests_of_many_threads_are_served_in_order_as_if_alone(
    exact_demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = SamplingParams(temperature=0, max_tokens=4)
    questions = [f"What is {n}+{n + 3}?" for n in range(32)]
    alone = [exact_demo.ask(question, sampling=brief).messages for question in questions]
    served: list[list[int]] = []
    replies: dict[int, Any] = {}

    def noted(transformer: Any, prompt: list[int], *rest: Any) -> bool:
        served.append(prompt)
        return prefill(transformer, prompt, *rest)

    def read(streams: Iterable[tuple[int, Stream]]) -> None:
        for number, stream in streams:
            replies[number] = stream.finish().messages

    monkeypatch.setattr(engine, "prefill", noted)
    monkeypatch.setattr(exact_demo, "_compute_ahead", lambda *ignored: None)
    streams = list(enumerate(exact_demo.stream(question, sampling=brief) for question in questions))
    # Eight threads read four answers each, the last one first: the order is that of the requests nevertheless.
    threads = [threading.Thread(target=read, args=(streams[n::8][::-1],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [replies[number] for number in range(32)] == alone
    texts = [exact_demo.tokenizer.decode(prompt) for prompt in served]
    assert [question in text for question, text in zip(questions, texts, strict=True)] == [True] * 32


def test_a_closed_model_says_so() -> None:
    model = load("demo")
    model.close()
    model.close()
    for request in (lambda: model.ask("hi"), lambda: model.generate([1]), lambda: model.transformer):
        with pytest.raises(ModelClosed):
            request()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: (place / "config.json").unlink(), "config.json: missing"),
        (lambda place: (place / "tokenizer.json").unlink(), "tokenizer.json: missing"),
        (lambda place: (place / "model.safetensors").unlink(), "no safetensors files"),
        (lambda place: (place / "generation_config.json").write_text('{"eos_token_id": "x"}'), "eos_token_id"),
        (lambda place: (place / "config.json").write_text('{"model_type": "llama"}'), "model_type is 'llama'"),
    ],
)
def test_a_damaged_checkpoint_is_refused(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    place = tmp_path / "demo"
    shutil.copytree(DEMO, place)
    change(place)
    with pytest.raises(CheckpointError, match=message):
        load(place)


def test_stop_tokens_come_from_the_generation_config(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    shutil.copytree(DEMO, place)
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": [5]}))
    with load(place) as model:
        assert {5, model.tokenizer.special["<|return|>"]} < model.stop_tokens


def test_an_unknown_model_names_the_command_that_gets_it() -> None:
    for name in ("20b", "openai/gpt-oss-120b", "no-such-model"):
        with pytest.raises(ModelNotFound, match="gptoss"):
            load(name)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="dtype is 'float16'"):
        load("demo", dtype="float16")  # type: ignore[arg-type]
