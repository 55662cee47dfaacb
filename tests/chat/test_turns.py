"""Ten turns of a chat with calls, retries, edits, undo, fork and a change of effort, on the embedded model in
float32: what is warm equals what is cold, and no turn computes more than it has to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from gptoss_mlx.api import GptOss
from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.events import Reply
from gptoss_mlx.harmony import Channel, Message
from gptoss_mlx.sampling import SamplingParams
from tests import DEMO
from tests.conftest import settled

GREEDY = SamplingParams(temperature=0, max_tokens=40)


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """The weather."""
    return f"4 degrees and rain in {city}, all day long"


@dataclass
class Record:
    """What the engine was asked and what it gave: for each request its prompt, what was cached and the tokens."""

    requests: list[tuple[list[int], int, list[int]]] = field(default_factory=list)


def recorded(model: GptOss, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Records the requests of a model from now on."""
    kept, original = Record(), model.generate

    def noted(prompt: list[int], *rest: Any, **named: Any) -> Any:
        generation = original(prompt, *rest, **named)
        tokens: list[int] = []
        items = generation.items

        def observed() -> Iterator[Any]:
            for item in items():
                if isinstance(item, int):
                    tokens.append(item)
                yield item
            kept.requests.append((prompt, generation.cached_tokens, tokens))

        monkeypatch.setattr(generation, "items", observed)
        return generation

    monkeypatch.setattr(model, "generate", noted)
    return kept


@dataclass(frozen=True)
class Turn:
    """One thing that a user does."""

    act: Callable[[Chat], Reply]
    new: str = ""
    """What the user said in it."""
    anew: int | None = None
    """From which question on everything may be computed; by default, what the turn before kept."""


def say(text: str, **options: Any) -> Turn:
    return Turn(lambda chat: chat.send(text, **options), text)


CALL: dict[str, Any] = {"tool_choice": "weather", "max_thinking_tokens": 6}
TURNS = [
    say("hi"),
    say("What is MXFP4?"),
    say("How warm is it?", **CALL),
    Turn(lambda chat: chat.retry()),
    say("How many layers does gpt-oss-20b have?"),
    Turn(lambda chat: chat.edit(questions(chat.messages)[-1], "Who are you?"), "Who are you?"),
    say("How warm is it in Rome?", **CALL),
    Turn(lambda chat: chat.send("What is 5+6?", effort="high"), "What is 5+6?", 0),
    Turn(lambda chat: chat.edit(questions(chat.messages)[1], "What is a sink?"), "What is a sink?", 1),
    say("Thank you."),
]


def questions(messages: Sequence[Message]) -> list[int]:
    """Where the user's messages are."""
    return [n for n, message in enumerate(messages) if message.role == "user"]


def kept_tokens(model: GptOss, messages: list[Message]) -> int:
    """What harmony keeps of the messages: everything but the analysis, and that too where no answer came of it."""
    answered = any(message.channel == Channel.FINAL for message in messages)
    return sum(
        len(model.tokenizer.encode(message.text)) + len(model.tokenizer.encode(message.recipient or "")) + 8
        for message in messages
        if message.channel != Channel.ANALYSIS or not answered
    )


def twin_of(chat: Chat, model: GptOss) -> Chat:
    """The same conversation with a model that has nothing computed."""
    model.clear_caches()
    twin = model.chat(messages=chat.messages)
    twin.settings = chat.settings
    return twin


@pytest.mark.parametrize("idle", [False, True], ids=["at once", "after a pause"])
def test_ten_turns_are_the_same_warm_and_cold_and_cost_what_is_new(
    idle: bool, demo: GptOss, cold_demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = demo
    model.clear_caches()
    record, cold_record = recorded(model, monkeypatch), recorded(cold_demo, monkeypatch)
    chat = model.chat(tools=[weather], sampling=GREEDY, effort="low", max_steps=2)
    if not idle:
        monkeypatch.setattr(model, "prefill_when_idle", lambda tokens, boundaries: None)
    last_turn: list[Message] = []
    finished = False
    for n, turn in enumerate(TURNS):
        cold = twin_of(chat, cold_demo)
        before = list(chat.messages)
        record.requests.clear()
        reply = turn.act(chat)
        warm_requests = list(record.requests)
        check_usage(reply, warm_requests)
        first_prompt, cached, _ = warm_requests[0]
        if n:
            allowed = len(model.tokenizer.encode(turn.new)) + 16
            if turn.anew == 0:
                assert cached == 0
                allowed = len(first_prompt)
            elif turn.anew is not None:
                allowed += kept_tokens(model, before[questions(before)[turn.anew] :])
            elif not (idle and finished):
                allowed += kept_tokens(model, last_turn)
            assert len(first_prompt) - cached <= allowed, n
        if idle:
            settled(model)
        cold_record.requests.clear()
        turn.act(cold)
        assert [tokens for _, _, tokens in warm_requests] == [tokens for _, _, tokens in cold_record.requests], n
        assert cold.messages == chat.messages
        last_turn = list(chat.messages[questions(chat.messages)[-1] + 1 :])
        finished = reply.finish_reason == "stop"


def check_usage(reply: Reply, requests: list[tuple[list[int], int, list[int]]]) -> None:
    usage = reply.usage
    assert usage.prompt_tokens == sum(len(prompt) for prompt, _, _ in requests)
    assert usage.cached_tokens == sum(cached for _, cached, _ in requests)
    assert usage.completion_tokens == sum(len(tokens) for _, _, tokens in requests)
    assert 0 <= usage.reasoning_tokens <= usage.completion_tokens
    assert usage.cached_tokens < usage.prompt_tokens


RESUME = """
import json, sys
from gptoss_mlx.api import GptOss
from gptoss_mlx.sampling import SamplingParams
directory, place = sys.argv[1:]
with GptOss(directory, dtype="float32") as model:
    chat = model.load_chat(place + "/chat.json")
    chat.sampling = SamplingParams(temperature=0, max_tokens=40)
    chat.load_cache(place + "/cache")
    reply = chat.send("Who are you?")
    print(json.dumps([reply.text, reply.thinking, reply.usage.cached_tokens]))
"""


def test_a_chat_goes_on_in_another_process_as_if_nothing_had_happened(demo: GptOss, tmp_path: Path) -> None:
    chat = demo.chat(sampling=GREEDY, effort="low")
    for question in ("hi", "What is MXFP4?", "What is a sink?"):
        chat.send(question)
    settled(demo)
    chat.save(tmp_path / "chat.json")
    chat.save_cache(tmp_path / "cache")
    command = [sys.executable, "-c", RESUME, str(DEMO), str(tmp_path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    reply = chat.send("Who are you?")
    assert json.loads(shown) == [reply.text, reply.thinking, reply.usage.cached_tokens]
    assert reply.usage.cached_tokens > reply.usage.prompt_tokens // 2


def test_a_change_of_effort_says_what_it_costs(demo: GptOss) -> None:
    demo.clear_caches()
    chat = demo.chat(sampling=SamplingParams(temperature=0, max_tokens=300), effort="low")
    assert min(chat.tokens_to_prefill(), chat.tokens_to_prefill("high")) > 0
    for question in ("hi", "What is MXFP4?"):
        assert chat.send(question).finish_reason == "stop"
    settled(demo)
    assert chat.tokens_to_prefill() <= 2
    told = chat.tokens_to_prefill("high")
    assert chat.effort == "low"
    reply = chat.send("Who are you?", effort="high")
    spent = reply.usage.prompt_tokens - reply.usage.cached_tokens
    assert 0 <= spent - told <= len("Who are you?") + 16
    assert told > chat.context_used // 3
