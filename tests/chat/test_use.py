"""A chat is used as people use it: what is assigned counts or raises, and answers are never mixed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import gptoss_mlx as gptoss
from gptoss_mlx.api import GptOss
from gptoss_mlx.errors import InvalidRequest
from tests.chat.scripted import ScriptedModel, failing

FINAL = "<|channel|>final<|message|>{}<|return|>"
UNREAD = r"another answer of this chat is not read to its end; .*fork\(\)"


@pytest.mark.parametrize("name", ["temperature", "tool", "instruction", "text"])
def test_an_unknown_attribute_is_an_error(name: str) -> None:
    chat: Any = ScriptedModel().chat()
    for one in (chat, gptoss.AsyncChat(chat)):
        with pytest.raises(AttributeError, match=name):
            setattr(one, name, 1)


@pytest.mark.parametrize("verb", ["send", "stream", "retry", "stream_edit", "send_results", "continue_stream"])
def test_no_turn_begins_while_a_stream_is_unread(verb: str) -> None:
    model = ScriptedModel(FINAL.format("One."), FINAL.format("Two."))
    chat = model.chat()
    stream = chat.stream("hi")
    arguments: dict[str, tuple[Any, ...]] = {"send": ("x",), "stream": ("x",), "stream_edit": (0, "x")}
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=UNREAD):
            getattr(chat, verb)(*arguments.get(verb, ()))
        next(stream)
    assert stream.finish().text == "One."
    assert chat.send("again").text == "Two."
    assert len(model.prompts) == 2


def test_a_stream_that_is_over_is_in_nobodys_way() -> None:
    model = ScriptedModel(FINAL.format("One."), failing("<|channel|>final"), *[FINAL.format("Last.")] * 3)
    chat = model.chat()
    with chat.stream("left") as stream:
        next(stream)
    failed = chat.stream("fails")
    with pytest.raises(gptoss.GptOssError):
        failed.finish()
    cancelled = chat.stream("cancelled")
    cancelled.cancel()
    chat.stream("dropped")
    assert chat.send("asked").text == "Last."


def test_two_threads_do_not_mix_their_answers() -> None:
    begun, gate = threading.Event(), threading.Event()

    def wait() -> str:
        """Waits."""
        begun.set()
        assert gate.wait(60)
        return "done"

    call = "<|channel|>commentary to=functions.wait <|constrain|>json<|message|>{}<|call|>"
    model = ScriptedModel(call, FINAL.format("One."))
    chat = model.chat(tools=[wait])
    stream = chat.stream("first")
    thread = threading.Thread(target=stream.finish)
    thread.start()
    assert begun.wait(60)
    with pytest.raises(InvalidRequest, match=UNREAD):
        chat.send("second")
    with pytest.raises(InvalidRequest, match="another thread reads this stream"):
        next(stream)
    gate.set()
    thread.join()
    assert [message.text for message in chat.messages if message.role == "user"] == ["first"]
    assert chat.messages[-1].text == "One."


def test_what_a_saved_chat_is_loaded_with_is_kept(demo: GptOss, tmp_path: Path) -> None:
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    demo.chat(instructions="Be terse.").save(tmp_path / "chat.json")
    chat = demo.load_chat(tmp_path / "chat.json", tools=[add], temperature=0, before_call=lambda call: None)
    assert (chat.instructions, chat.sampling.temperature, len(chat.fork().settings.toolbox)) == ("Be terse.", 0, 1)
    assert chat.before_call is not None
    assert len(chat.fork(tools=[]).settings.toolbox) == 0
    assert chat.fork().before_call is chat.before_call
