"""A chat is used as people use it: what is assigned counts or raises, and answers are never mixed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import gptoss_mlx as gptoss
from gptoss_mlx.api import GptOss
from gptoss_mlx.errors import InvalidRequest, SchemaError
from gptoss_mlx.events import Reply, ToolCall, ToolResult
from tests.chat.scripted import ScriptedModel, failing

FINAL = "<|channel|>final<|message|>{}<|return|>"
UNREAD = r"another answer of this chat is not read to its end; .*fork\(\)"


@pytest.mark.parametrize("name", ["temperature", "tool", "instruction", "text"])
def test_an_unknown_attribute_is_an_error(name: str) -> None:
    chat: Any = ScriptedModel().chat()
    with pytest.raises(AttributeError, match=f"a chat has no '{name}' to assign; its settings are instructions, "):
        setattr(chat, name, 1)
    with pytest.raises(AttributeError, match=name):
        setattr(gptoss.AsyncChat(chat), name, 1)


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


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_async_hooks_are_awaited(in_a_loop: bool) -> None:
    """In the loop of the turn where there is one."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def change(call: ToolCall) -> ToolCall:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return dataclasses.replace(call, arguments='{"a": 2, "b": 2}')

    async def praise(call: ToolCall, result: ToolResult) -> str:
        await asyncio.sleep(0)
        return f"{result.output}!"

    call = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": 2}<|call|>'
    chat = ScriptedModel(call, FINAL.format("4")).chat(tools=[add], before_call=change, after_call=praise)

    async def main() -> asyncio.AbstractEventLoop:
        await gptoss.AsyncChat(chat).send("1+2?")
        return asyncio.get_running_loop()

    if in_a_loop:
        assert [asyncio.run(main())] == loops
    else:
        chat.send("1+2?")
    assert [message.text for message in chat.messages if message.role == "tool"] == ["4!"]


@dataclasses.dataclass
class City:
    name: str


@pytest.mark.parametrize("schema", [City("Oslo"), [City("Oslo")], object(), (1, 2), lambda: None])
def test_whatever_is_given_as_a_schema_ends_in_the_error_tree(schema: Any) -> None:
    model = ScriptedModel()
    with pytest.raises(SchemaError, match="schema is "):
        model.chat().send("hi", schema=schema)
    assert not model.prompts


def test_an_object_in_place_of_its_class_is_named() -> None:
    oslo: Any = City("Oslo")
    with pytest.raises(SchemaError, match=r"schema is .*City\(name='Oslo'\), an object; give its class City"):
        ScriptedModel().chat().send("hi", schema=oslo)


def test_a_reply_reads_back(demo: GptOss) -> None:
    call = "<|channel|>commentary to=functions.lamp <|constrain|>json<|message|>{}<|call|>"
    lamp = {"name": "lamp", "parameters": {"type": "object"}}
    called = ScriptedModel(call).chat(tools=[lamp]).send("on?")
    spelled = demo.ask("Yes?", choices=["yes"], max_thinking_tokens=3, top_logprobs=2)
    for reply in (called, spelled):
        assert Reply.from_dict(json.loads(json.dumps(reply.to_dict()))) == reply
    assert spelled._repr_markdown_() == "yes"
    assert called._repr_markdown_() == "`functions.lamp({})`"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (3, "the reply is 3; a dict as of"),
        ({}, "the reply is {}; a dict"),
        ({"text": "", "texts": 1}, "the reply has 'texts'; it may have text, "),
        ({"text": 3}, "text of the reply is 3: "),
        ({"text": "", "usage": {"prompt_tokens": "many"}}, "usage of the reply is "),
        ({"text": "", "messages": 3}, "messages of the reply is 3: "),
        ({"text": "", "messages": [{"role": "boss"}]}, "messages of the reply is .*role"),
        ({"text": "", "finish_reason": "bored"}, "finish_reason of the reply is 'bored'"),
    ],
)
def test_what_is_no_reply_is_refused(data: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Reply.from_dict(data)


def test_the_logger_tells_what_the_engine_does(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "gptoss_mlx"), gptoss.load("demo", dtype="float32", context=512) as model:
        for _ in range(2):
            model.ask("a secret", max_tokens=3)
        model.clear_caches()
    said = caplog.text
    for pattern in (
        "loaded demo in float32, context 512",
        r"prefill of \d+ tokens, 0 of them cached",
        r"prefill of \d+ tokens, [1-9]\d* of them cached",
        r"evicted \d+ prompt caches",
    ):
        assert re.search(pattern, said), pattern
    assert "secret" not in said
    assert {record.levelno for record in caplog.records if record.name.startswith("gptoss_mlx")} == {logging.DEBUG}
