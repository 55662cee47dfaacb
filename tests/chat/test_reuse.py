"""Every request computes only what no request before it has computed, whoever asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.api import GptOss
from gptoss_mlx.cache import store
from gptoss_mlx.cache.store import SNAPSHOT_SPACING
from gptoss_mlx.engine import steps
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.events import Reply
from gptoss_mlx.harmony import Message
from gptoss_mlx.model.transformer import Transformer
from gptoss_mlx.sampling import SamplingParams
from tests import DEMO
from tests.conftest import settled

BRIEF = SamplingParams(temperature=0, max_tokens=8)
INSTRUCTIONS = "Answer in one word, and never say what is not known for sure. " * 40


@pytest.fixture(scope="module")
def model() -> Iterator[GptOss]:
    with GptOss(DEMO, dtype="float32") as model:
        yield model


@pytest.fixture(autouse=True)
def _nothing_computed(model: GptOss) -> None:
    settled(model)
    model.clear_caches()


def computed(reply: Reply) -> int:
    return reply.usage.prompt_tokens - reply.usage.cached_tokens


def weather(city: str) -> str:
    """The weather in a city of the world, now or at any hour of the next ten days."""
    return f"rain in {city}"


def test_a_second_question_with_the_same_instructions_computes_the_question(model: GptOss) -> None:
    assert len(model.tokenizer.encode(INSTRUCTIONS)) >= 500
    options: Any = {"instructions": INSTRUCTIONS, "tools": [weather], "sampling": BRIEF}
    first = model.ask("hi", **options)
    assert first.usage.cached_tokens == 0
    second = model.ask("Who are you?", **options)
    assert computed(second) <= len(model.tokenizer.encode("Who are you?")) + 16


def test_a_new_chat_over_known_messages_finds_what_the_first_one_computed(model: GptOss) -> None:
    chat = model.chat(effort="low", sampling=SamplingParams(temperature=0, max_tokens=200))
    for question in ("hi", "What is MXFP4?", "Who are you?"):
        chat.send(question)
        settled(model)
    again = model.chat(effort="low", messages=chat.messages)
    assert again.tokens_to_prefill() == chat.tokens_to_prefill() <= 2
    assert chat.fork().tokens_to_prefill() <= 2


def test_an_agent_that_sends_everything_again_computes_what_is_new(model: GptOss) -> None:
    messages: Sequence[Message] = ()
    for question in ("How warm is it in Oslo?", "And in Rome?", "And in Paris?"):
        chat = model.chat(tools=[weather], messages=messages, sampling=BRIEF, instructions=INSTRUCTIONS)
        reply = chat.send(question)
        if messages:
            kept = sum(len(model.tokenizer.encode(message.text)) for message in messages[-2:])
            assert computed(reply) <= kept + len(model.tokenizer.encode(question)) + 24
        messages = chat.messages


def test_two_agents_in_turn_do_not_evict_each_other(model: GptOss) -> None:
    agents = [model.chat(instructions=f"{name} {INSTRUCTIONS}", sampling=BRIEF) for name in ("Ada", "Bob")]
    for chat in agents:
        chat.send("hi")
    for _ in range(3):
        for chat in agents:
            assert computed(chat.send("ok")) <= 60


def test_another_question_after_the_same_document_computes_little(model: GptOss) -> None:
    document = "The sliding window holds the last positions; the full layers hold all of them. " * 400
    assert len(model.tokenizer.encode(document)) > 4000
    model.ask(document + "What does the window hold?", sampling=BRIEF)
    other = "What do the full layers hold, and for how long do they hold it?"
    reply = model.ask(document + other, sampling=BRIEF)
    assert computed(reply) <= SNAPSHOT_SPACING + len(model.tokenizer.encode(other)) + 16


def test_a_document_can_be_read_before_the_question_is_known(model: GptOss) -> None:
    chat = model.chat(instructions=INSTRUCTIONS, sampling=BRIEF)
    waiting = chat.tokens_to_prefill()
    assert chat.prefill() == waiting > 500
    assert chat.tokens_to_prefill() == 0
    assert computed(chat.send("hi")) <= 16


def test_prefill_says_how_much_it_computed(model: GptOss) -> None:
    tokens = model.tokenizer.encode(INSTRUCTIONS)
    assert model.prefill(tokens[:300]) == 300
    assert model.prefill(tokens) == len(tokens) - 300
    assert model.prefill(tokens) == 0
    assert model.cached_length(tokens) == len(tokens) - 1
    model.prefill_when_idle([*tokens, 1, 2, 3])
    settled(model)
    assert model.cached_length([*tokens, 1, 2, 3, 4]) == len(tokens) + 3
    model.clear_caches()
    assert model.cached_length(tokens) == 0


@pytest.mark.parametrize("kind", ["generate", "prefill"])
def test_what_a_waiting_request_will_use_is_not_rewound_by_another(model: GptOss, kind: str) -> None:
    runner = model._runner
    options: Any = {"sampling": BRIEF, "stop_tokens": frozenset()}
    prompt = model.tokenizer.encode(INSTRUCTIONS)[:300]
    answer = [item for item in runner.generate(prompt, **options).items() if isinstance(item, int)]
    longer = [*prompt, *answer, 1, 2, 3]
    cached = model.cached_length(longer)
    assert cached > len(prompt)
    turn = threading.Event()
    runner._worker.submit(lambda: turn.wait(60))
    other = runner.generate([*prompt, 4, 5, 6], **options)
    waiting = runner.prefill(longer) if kind == "prefill" else runner.generate(longer, **options)
    turn.set()
    for request in (other, waiting):
        list(request.items())
    assert other.cached_tokens >= len(prompt) - 1
    assert waiting.cached_tokens == cached


def test_many_different_questions_keep_the_memory_flat(model: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_ENTRIES", 5)
    one = SamplingParams(temperature=0, max_tokens=1)
    sizes = []
    for n in range(10, 30):
        model.ask(f"What is {n}+{n + 1}?", sampling=one)
        sizes.append(model._runner.call(lambda: model._runner.store.nbytes))
    assert len(model._runner.store.entries) == 5
    assert max(sizes[5:]) == min(sizes[5:])


# How a prompt is computed.


def forwards(model: GptOss, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the forward passes of requests from now on."""
    lengths: list[int] = []
    original = Transformer.layer_outputs

    def noted(self: Transformer, tokens: mx.array, cache: Any) -> Iterator[mx.array]:
        lengths.append(tokens.shape[1])
        return original(self, tokens, cache)

    monkeypatch.setattr(Transformer, "layer_outputs", noted)
    return lengths


@pytest.mark.parametrize("chunk", [64, 192, 2048])
def test_a_prompt_is_not_cut_at_its_snapshots(chunk: int, model: GptOss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps.Pace, "chunk", lambda self, limit: min(chunk, limit))
    monkeypatch.setattr(model, "prefill_when_idle", lambda tokens, boundaries: None)
    lengths = forwards(model, monkeypatch)
    chat = model.chat(instructions=INSTRUCTIONS, tools=[weather], sampling=BRIEF)
    for question in ("hi", "Who are you?", "What is 5+6? " * 30):
        lengths.clear()
        usage = chat.send(question).usage
        left = usage.prompt_tokens - usage.cached_tokens - 1
        prefill, decode = lengths[: -(-left // chunk)], lengths[-(-left // chunk) :]
        assert sum(prefill) == left
        assert max(prefill) <= chunk
        assert set(decode) == {1}
        assert len(decode) <= usage.completion_tokens + 1


def test_a_saved_cache_holds_nothing_of_another_conversation(model: GptOss, tmp_path: Path) -> None:
    model.chat(instructions="SECRET", sampling=BRIEF).send("My pin is 4711.")
    with pytest.raises(InvalidRequest, match="nothing of this prompt is computed"):
        model.chat().save_cache(tmp_path / "cache")
    chat = model.chat(instructions="SECRET", sampling=BRIEF)
    chat.save_cache(tmp_path / "cache")
    tokens: Any = mx.load(str(tmp_path / "cache"), format="safetensors")
    text = model.tokenizer.decode(tokens["tokens"].tolist())
    assert "SECRET" in text
    assert "4711" not in text
