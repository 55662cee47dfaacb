"""The engine on the embedded model: what is warm equals what is cold, and requests end when told to."""

from __future__ import annotations

import gc
import json
import random
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import pytest

from gptoss_mlx.api import GptOss, load
from gptoss_mlx.cache.entry import CacheEntry
from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.chat.options import ChatOptions
from gptoss_mlx.chat.stream import Stream
from gptoss_mlx.engine import entries
from gptoss_mlx.engine.generate import Request, prefill
from gptoss_mlx.engine.steps import Steps
from gptoss_mlx.errors import (
    CheckpointError,
    ContextFull,
    InvalidRequest,
    ModelClosed,
    ModelNotFound,
    NotEnoughMemory,
)
from gptoss_mlx.events import Progress
from gptoss_mlx.harmony import Message, render
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.model.transformer import Transformer
from gptoss_mlx.sampling import SamplingParams
from tests import DEMO
from tests.conftest import settled

GREEDY = SamplingParams(temperature=0, max_tokens=150)


def prompt(model: GptOss, text: str = "What is 12+30?") -> list[int]:
    chat = model.chat()
    return render(chat.conversation.adding(*_user(text)), model.tokenizer)


def _user(text: str) -> Any:
    return [Message.user(text)]


def test_generation_ends_with_a_stop_token_or_at_the_length(demo: GptOss) -> None:
    tokens = list(demo.generate(prompt(demo), SamplingParams(temperature=0)))
    assert tokens[-1] in demo.stop_tokens
    assert not demo.stop_tokens & set(tokens[:-1])
    assert list(demo.generate(prompt(demo), SamplingParams(temperature=0, max_tokens=3))) == tokens[:3]
    assert list(demo.generate(prompt(demo), SamplingParams(temperature=0, max_tokens=1))) == tokens[:1]


def test_generation_follows_the_logits(demo: GptOss) -> None:
    """Greedy decoding through prefill, cache and look-ahead is the argmax of the whole sequence at once."""
    start = prompt(demo)
    tokens = list(demo.generate(start, GREEDY))
    logits = demo.transformer(mx.array([start + tokens]))[0]
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
def test_warm_equals_cold(name: str, idle: bool, demo: GptOss, cold_demo: GptOss) -> None:
    chat = demo.chat(sampling=GREEDY)
    for action in ACTIONS[name]:
        action(chat)
        if idle:
            settled(demo)
    assert retried_cold(chat, cold_demo) == chat.messages


def retried_cold(chat: Chat, cold_demo: GptOss) -> tuple[Message, ...]:
    """The same conversation up to the last question, answered with nothing computed."""
    cold_demo.clear_caches()
    cold = cold_demo.chat(effort=chat.effort, sampling=chat.sampling, messages=chat.messages)
    cold.retry()
    return cold.messages


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_eight_conversations_in_any_order_under_a_bound_answer_as_cold_ones(
    kv_bits: Literal[8] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns, retries, edits and forks, of conversations that evict each other's caches."""
    chance, brief = random.Random(3), SamplingParams(temperature=0, max_tokens=12)
    questions = ["hi", "who are you?", "What is 5+6?", "What is MXFP4?", "How many layers has it?"]
    monkeypatch.setattr(Budget, "cache_limit", 3 * 2**20)
    with (
        GptOss(DEMO, dtype="float32", kv_bits=kv_bits) as model,
        GptOss(DEMO, dtype="float32", kv_bits=kv_bits) as cold,
    ):
        chats = [model.chat(sampling=brief, effort="low", instructions="Be terse." * (n % 2)) for n in range(8)]
        for chat in chats:
            chat.send(chance.choice(questions))
        for _ in range(40):
            n = chance.randrange(8)
            chat, action = chats[n], chance.choice(["send", "send", "retry", "edit", "fork"])
            if action == "fork":
                chat = chats[n] = chance.choice(chats).fork()
            if action == "retry":
                chat.retry()
            elif action == "edit":
                chat.edit(0, chance.choice(questions))
            else:
                chat.send(chance.choice(questions))
            assert model._runner.call(lambda: model._runner.store.nbytes) <= 3 * 2**20
            if chance.random() < 0.5:
                settled(model)
            cold.clear_caches()
            twin = Chat(cold, messages=chat.messages, **chat_options(chat))
            twin.retry()
            assert twin.messages == chat.messages


def chat_options(chat: Chat) -> ChatOptions:
    return ChatOptions(instructions=chat.instructions, effort=chat.effort, sampling=chat.sampling)


def test_later_turns_compute_only_what_is_new(demo: GptOss) -> None:
    chat = demo.chat(sampling=GREEDY, effort="low")
    replies = []
    for question in ("hi", "who are you?", "What is 5+6?", "What is 9-4?"):
        replies.append(chat.send(question))
        settled(demo)
    for question, reply in zip(("who are you?", "What is 5+6?", "What is 9-4?"), replies[1:], strict=True):
        new = reply.usage.prompt_tokens - reply.usage.cached_tokens
        assert new <= len(demo.tokenizer.encode(question)) + 16


def test_without_a_pause_the_last_answer_is_computed_again_and_nothing_else(
    demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "prefill_when_idle", lambda tokens, boundaries: None)
    demo.clear_caches()
    chat = demo.chat(sampling=GREEDY, effort="low")
    chat.send("hi")
    for question in ("who are you?", "What is 5+6?", "What is 9-4?"):
        kept = sum(len(demo.tokenizer.encode(message.text)) for message in chat.messages[-1:])
        usage = chat.send(question).usage
        assert usage.prompt_tokens - usage.cached_tokens <= kept + len(demo.tokenizer.encode(question)) + 16


def test_usage_adds_up(demo: GptOss) -> None:
    reply = demo.ask("What is 12+30?", sampling=GREEDY)
    usage = reply.usage
    assert 0 <= usage.cached_tokens < usage.prompt_tokens
    assert 0 < usage.reasoning_tokens < usage.completion_tokens <= 150


def test_progress_counts_the_prompt(demo: GptOss) -> None:
    demo.clear_caches()
    with demo.stream("What is 12+30?", sampling=GREEDY) as stream:
        progress = [event for event in stream if isinstance(event, Progress)]
    assert progress[0].done == 0
    assert progress[-1].done == progress[-1].total - 1
    assert stream.reply.usage.prompt_tokens == progress[0].total


def test_after_each_chunk_what_it_freed_is_given_back(demo: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    entry = CacheEntry(0, demo.transformer.make_cache())
    here = threading.get_ident()  # the model may be computing ahead for another chat in its own thread
    monkeypatch.setattr(
        mx, "clear_cache", lambda: happened.append("clear") if threading.get_ident() == here else None
    )
    request = Request(
        stop_tokens=frozenset(),
        max_tokens=1,
        max_positions=1000,
        max_chunk=16,
        on_prefill=lambda done, total: happened.append(f"{done} of {total}"),
    )
    assert prefill(Steps(demo.transformer), prompt(demo)[:41], entry, request)
    assert happened == ["0 of 41", "clear", "16 of 41", "clear", "32 of 41", "clear", "40 of 41"]


def test_cancelling_gives_control_back_at_once(demo: GptOss) -> None:
    endless = dict.fromkeys(demo.stop_tokens, -100)
    stream = demo.stream("What is 12+30?", logit_bias=endless)
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
    demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = SamplingParams(temperature=0, max_tokens=4)
    questions = [f"What is {n}+{n + 3}?" for n in range(32)]
    alone = [demo.ask(question, sampling=brief).messages for question in questions]
    served: list[list[int]] = []
    replies: dict[int, Any] = {}

    def noted(steps: Steps, prompt: list[int], *rest: Any) -> bool:
        served.append(prompt)
        return prefill(steps, prompt, *rest)

    def read(streams: Iterable[tuple[int, Stream]]) -> None:
        for number, stream in streams:
            replies[number] = stream.finish().messages

    monkeypatch.setattr(entries, "prefill", noted)
    monkeypatch.setattr(demo, "prefill_when_idle", lambda *ignored, **named: None)
    streams = list(enumerate(demo.stream(question, sampling=brief) for question in questions))
    # Eight threads read four answers each, the last one first: the order is that of the requests nevertheless.
    threads = [threading.Thread(target=read, args=(streams[n::8][::-1],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [replies[number] for number in range(32)] == alone
    texts = [demo.tokenizer.decode(prompt) for prompt in served]
    assert [question in text for question, text in zip(questions, texts, strict=True)] == [True] * 32


def test_closing_a_model_cancels_what_runs() -> None:
    with load("demo") as model:
        endless = dict.fromkeys(model.stop_tokens, -100)
        stream = model.stream("hi", logit_bias=endless)
        next(stream)
    assert stream.finish().finish_reason == "cancelled"


def test_an_answer_that_lacks_its_form_because_the_model_was_closed_is_an_error() -> None:
    with load("demo") as model:
        stream = model.stream("hi", regex="[a-z]{100000}", max_thinking_tokens=0)
        next(stream)
    with pytest.raises(ModelClosed, match="closed before the answer was complete; load it again"):
        stream.finish()


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


# Memory: what is given up, what is refused, and what happens when there is none left.


def test_the_conversation_used_longest_ago_is_given_up_and_answers_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions = ["hi", "who are you?", "What is MXFP4?"]
    monkeypatch.setattr(Budget, "cache_limit", 4 * 2**20)
    with GptOss(DEMO, dtype="float32") as model:
        chats = [model.chat(sampling=GREEDY, effort="low", instructions=str(n)) for n in range(3)]
        for chat, question in zip(chats, questions, strict=True):
            chat.send(question)
            settled(model)
        known = [chat.context_used - chat.tokens_to_prefill() for chat in chats]
        assert known[0] < known[2]
        assert model._runner.store.nbytes <= 4 * 2**20
        chats[0].send("What is 5+6?")
        assert retried_cold(chats[0].fork(instructions="0"), model) == chats[0].messages


def test_an_answer_ends_at_the_end_of_the_context() -> None:
    with GptOss(DEMO, context=150) as model:
        assert model.context_limit == 150
        chat = model.chat(sampling=SamplingParams(temperature=0), effort="high")
        assert chat.context_limit == 150
        reply = chat.send("What is MXFP4? " * 5)
        assert reply.usage.prompt_tokens + reply.usage.completion_tokens <= 150
        used = chat.context_used
        assert 0 < used <= 151  # an unfinished message is closed when it is rendered
        with pytest.raises(ContextFull, match="the context holds 150"):
            chat.send("What is MXFP4? " * 40)
        assert chat.context_used == used


@pytest.mark.parametrize("endless", [False, True], ids=["at the context", "at max_tokens"])
def test_a_model_that_never_stops_ends_with_length(endless: bool) -> None:
    noise = SamplingParams(temperature=20.0, seed=1, max_tokens=20 if endless else None)
    with GptOss(DEMO, context=120) as model:
        model.stop_tokens = frozenset()
        reply = model.ask("hi", sampling=noise)
        assert reply.finish_reason == "length"
        spent = reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert (reply.usage.completion_tokens == 20) if endless else (spent == 120)


def test_a_tool_result_that_fills_the_context_ends_the_turn(demo: GptOss) -> None:
    def everything() -> str:
        """Everything."""
        return "word " * 3000

    with GptOss(DEMO, context=1000) as model:
        chat = model.chat(tools=[everything], sampling=GREEDY)
        reply = chat.send("Tell me.", tool_choice="everything", max_thinking_tokens=2)
        assert reply.finish_reason == "length"
        assert chat.messages[-1].text == "word " * 3000
        chat.undo()
        assert chat.send("hi").text


@pytest.mark.parametrize("at", [1, 2, 12])
def test_running_out_of_memory_ends_the_answer_and_leaves_the_chat_alive(
    at: int, demo: GptOss, cold_demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.clear_caches()
    chat = demo.chat(sampling=GREEDY, effort="low")
    chat.send("hi")
    settled(demo)
    calls = 0
    original = Transformer.layer_outputs

    def starved(self: Transformer, *arguments: Any) -> Iterator[mx.array]:
        nonlocal calls
        calls += 1
        *first, last = original(self, *arguments)
        yield from first
        if calls == at:
            raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")
        yield last

    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "layer_outputs", starved)
        with pytest.raises(NotEnoughMemory, match="memory ran out"):
            chat.send("who are you?")
    assert chat.retry().finish_reason == "stop"
    assert retried_cold(chat, cold_demo) == chat.messages


def test_any_other_failure_leaves_nothing_half_computed(demo: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    start = prompt(demo)
    demo.clear_caches()
    expected = list(demo.generate(start, GREEDY))
    original = Transformer.layer_outputs

    def broken(self: Transformer, *arguments: Any) -> Iterator[mx.array]:
        yield next(original(self, *arguments))
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "layer_outputs", broken)
        demo.clear_caches()
        with pytest.raises(ValueError, match="broken"):
            list(demo.generate(start, GREEDY))
    assert demo.cached_length(start) == 0
    assert list(demo.generate(start, GREEDY)) == expected


def test_keys_and_values_in_8_bits_go_back_and_forth_too() -> None:
    with GptOss(DEMO, dtype="float32", kv_bits=8) as model:
        chat = model.chat(sampling=GREEDY, effort="low")
        chat.send("hi")
        chat.send("who are you?")
        settled(model)
        assert chat.fork().retry().text == chat.retry().text
        reply = chat.send("What is 5+6?")
        assert reply.usage.cached_tokens > reply.usage.prompt_tokens // 2
