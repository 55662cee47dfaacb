"""Chats: what the model is shown, what the caller sees, and that nothing said is lost."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from gptoss_mlx import SamplingParams
from gptoss_mlx.api import GptOss
from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.errors import ChatFileError, InvalidRequest, NotEnoughMemory
from gptoss_mlx.events import Done, Preamble, Progress, Reply, Text, Thinking, ToolCall, ToolResult
from gptoss_mlx.harmony import Channel, Message
from tests.chat.scripted import ScriptedModel, failing, wire

FINAL = "<|channel|>final<|message|>{}<|return|>"
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>"
CALL = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": 2}<|call|>'


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def test_an_answer_comes_as_events_and_as_a_reply() -> None:
    chat = ScriptedModel(THOUGHT.format("Hello there.")).chat()
    with chat.stream("hi") as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if isinstance(event, Thinking)) == "Hm."
    assert "".join(event.delta for event in events if isinstance(event, Text)) == "Hello there."
    assert isinstance(events[-1], Done)
    reply = stream.reply
    assert (reply.text, reply.thinking, reply.finish_reason) == ("Hello there.", "Hm.", "stop")
    assert [str(message.channel) for message in reply.messages] == ["analysis", "final"]
    assert reply.usage.completion_tokens == len(wire(THOUGHT.format("Hello there.")))
    assert reply.usage.reasoning_tokens == len(wire("Hm."))
    json.dumps([event.to_dict() for event in events])


def test_the_next_turn_shows_the_answer_but_not_the_thinking() -> None:
    model = ScriptedModel(THOUGHT.format("One."), FINAL.format("Two."))
    chat = model.chat(instructions="Count.", effort="low", date="2026-01-02")
    chat.send("first")
    chat.send("second")
    assert model.shown[1].endswith(
        "<|start|>developer<|message|># Instructions\n\nCount.<|end|>"
        "<|start|>user<|message|>first<|end|><|start|>assistant<|channel|>final<|message|>One.<|end|>"
        "<|start|>user<|message|>second<|end|><|start|>assistant"
    )
    assert "Current date: 2026-01-02\n\nReasoning: low" in model.shown[0]


def test_history_is_computed_ahead_only_after_a_complete_answer() -> None:
    model = ScriptedModel(THOUGHT.format("One."), THOUGHT.format("Two."), THOUGHT.format("x"))
    chat = model.chat()
    chat.send("first")
    (ahead,) = model.ahead
    chat.send("second")
    assert model.prompts[1][: len(ahead)] == ahead
    with chat.stream("third") as stream:
        next(stream)
        stream.cancel()
    assert len(model.ahead) == 2


def test_retry_undo_and_edit_change_what_the_model_is_shown() -> None:
    model = ScriptedModel(*(FINAL.format(f"answer {n}") for n in range(5)))
    chat = model.chat()
    chat.send("first")
    chat.send("second")
    assert chat.retry(effort="high").text == "answer 2"
    assert "Reasoning: high" in model.shown[2]
    assert [message.text for message in chat.messages] == ["first", "answer 0", "second", "answer 2"]
    assert chat.undo() == "second"
    assert [message.text for message in chat.messages] == ["first", "answer 0"]
    assert chat.edit(-2, "other").text == "answer 3"
    assert [message.text for message in chat.messages] == ["other", "answer 3"]


def test_what_cannot_be_done_says_so_and_changes_nothing() -> None:
    chat = ScriptedModel(FINAL.format("x")).chat()
    for refused in (chat.undo, chat.retry, chat.continue_stream):
        with pytest.raises(InvalidRequest):
            refused()
    with pytest.raises(InvalidRequest, match="empty"):
        chat.stream("  \n")
    with pytest.raises(InvalidRequest, match="low, medium or high"):
        chat.effort = "off"  # type: ignore[assignment]
    chat.send("hi")
    with pytest.raises(InvalidRequest, match="message 1 is not the user's"):
        chat.edit(1, "x")
    assert [message.text for message in chat.messages] == ["hi", "x"]


def test_a_refused_request_leaves_the_conversation_as_it_was() -> None:
    chat = ScriptedModel(FINAL.format("x"), InvalidRequest("too long")).chat()
    chat.send("hi")
    with pytest.raises(InvalidRequest):
        chat.send("a very long text")
    assert [message.text for message in chat.messages] == ["hi", "x"]


def test_a_fork_goes_its_own_way() -> None:
    chat = ScriptedModel(FINAL.format("x"), FINAL.format("y"), FINAL.format("z")).chat()
    chat.send("hi")
    twin = chat.fork()
    twin.send("left")
    chat.send("right")
    assert [message.text for message in twin.messages] == ["hi", "x", "left", "y"]
    assert [message.text for message in chat.messages] == ["hi", "x", "right", "z"]


def test_tools_are_called_and_their_results_shown_to_the_model() -> None:
    model = ScriptedModel("<|channel|>analysis<|message|>Add.<|end|><|start|>assistant" + CALL, FINAL.format("3"))
    chat = model.chat(tools=[add])
    with chat.stream("1+2?") as stream:
        events = list(stream)
    assert [event for event in events if isinstance(event, ToolCall | ToolResult)] == [
        ToolCall(name="functions.add", arguments='{"a": 1, "b": 2}'),
        ToolResult(name="functions.add", output="3"),
    ]
    # During the chain the analysis stays, and the call as the model wrote it: its tokens are computed.
    assert model.shown[1].endswith(
        f"<|start|>assistant<|channel|>analysis<|message|>Add.<|end|><|start|>assistant{CALL}"
        "<|start|>functions.add to=assistant<|channel|>commentary<|message|>3<|end|><|start|>assistant"
    )
    assert stream.reply.text == "3"
    assert "type add = (_: {" in model.shown[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (CALL.replace("functions.add", "functions.sub"), "there is no such tool"),
        (CALL.replace('{"a": 1, "b": 2}', "{a: 1"), "Invalid JSON"),
        (CALL.replace('"b": 2', '"b": "two"'), "valid integer"),
    ],
)
def test_a_wrong_call_is_answered_with_an_error_and_the_conversation_goes_on(call: str, message: str) -> None:
    model = ScriptedModel(call, FINAL.format("Sorry."))
    with model.chat(tools=[add]).stream("1+2?") as stream:
        (result,) = [event for event in stream if isinstance(event, ToolResult)]
    assert result.error
    assert message in result.output
    assert message in model.shown[1]
    assert stream.reply.text == "Sorry."


def test_an_invented_tool_result_is_no_call() -> None:
    script = "<|channel|>analysis<|message|>Hm.<|end|><|start|>functions.add to=assistant<|channel|>commentary"
    script += "<|message|>7<|end|><|start|>assistant" + FINAL.format("7")
    reply = ScriptedModel(script).chat(tools=[add]).send("1+2?")
    assert reply.tool_calls == ()
    assert reply.text == "7"
    assert all(message.recipient is None for message in reply.messages)


def test_a_tool_without_a_function_is_the_callers() -> None:
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
    reply = ScriptedModel(CALL).chat(tools=[tool]).send("1+2?")
    assert reply.finish_reason == "tool_calls"
    assert [call.name for call in reply.tool_calls] == ["functions.add"]


OUTSIDE = {"name": "add", "parameters": {"type": "object", "required": ["a"]}}
"""A tool whose calls are the caller's."""


def test_results_from_outside_go_on_with_the_turn(tmp_path: Path) -> None:
    model = ScriptedModel(THOUGHT.split("<|start|>")[0] + "<|start|>assistant" + CALL, CALL, FINAL.format("3."))
    chat = model.chat(tools=[OUTSIDE])
    chat.send("1+2?")
    chat.save(tmp_path / "chat.json")
    chat = Chat.load(cast(GptOss, model), tmp_path / "chat.json", tools=[OUTSIDE])
    assert chat.pending_calls == (ToolCall(name="functions.add", arguments='{"a": 1, "b": 2}'),)
    assert chat.send_results({"sum": 3}).finish_reason == "tool_calls"
    assert model.shown[1].endswith(
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant to=functions.add<|channel|>commentary <|constrain|>json"
        '<|message|>{"a": 1, "b": 2}<|call|>'
        '<|start|>functions.add to=assistant<|channel|>commentary<|message|>{"sum":3}<|end|><|start|>assistant'
    )
    reply = chat.send_results(ToolResult(name="functions.add", output="again 3"))
    assert (reply.text, reply.finish_reason) == ("3.", "stop")
    assert list(chat.pending_calls) == []
    assert [str(message.role) for message in chat.messages[1:]] == [
        *("assistant", "assistant", "tool", "assistant", "tool", "assistant")
    ]


def test_of_several_calls_only_those_without_a_function_wait() -> None:
    to_add = CALL.replace("<|call|>", "<|end|>")
    outside = to_add.replace("functions.add", "functions.outside")
    model = ScriptedModel(
        "<|start|>assistant".join([outside, to_add, outside[:-7] + "<|call|>"]), FINAL.format("x")
    )
    chat = model.chat(tools=[add, {**OUTSIDE, "name": "outside"}])
    with chat.stream("1+2?") as stream:
        (result,) = [event for event in stream if isinstance(event, ToolResult)]
    assert (result.name, stream.reply.finish_reason) == ("functions.add", "tool_calls")
    assert [call.name for call in chat.pending_calls] == ["functions.outside"] * 2
    for wrong in ([], ["one"], ["one", "two", "three"], ["one", ToolResult(name="functions.add", output="x")]):
        with pytest.raises(InvalidRequest, match=r"in order: functions\.outside, functions\.outside"):
            chat.send_results(*wrong)
    with pytest.raises(InvalidRequest, match="send_results"):
        chat.continue_stream()
    assert chat.send_results("one", "two").text == "x"
    assert [message.text for message in chat.messages[-4:-1]] == ["3", "one", "two"]
    with pytest.raises(InvalidRequest, match="no call waits"):
        chat.send_results("three")


@pytest.mark.parametrize(
    "call", [CALL.replace('"a": 1', '"c": 1'), CALL.replace("}", ""), CALL[:-30] + "<|call|>"]
)
def test_a_call_that_is_not_valid_never_reaches_the_caller(call: str) -> None:
    model = ScriptedModel(call, CALL)
    with model.chat(tools=[OUTSIDE]).stream("1+2?") as stream:
        (result,) = [event for event in stream if isinstance(event, ToolResult)]
    assert result.error
    assert stream.reply.finish_reason == "tool_calls"
    assert [entry.arguments for entry in stream.reply.tool_calls][-1] == '{"a": 1, "b": 2}'


def test_a_chain_of_calls_ends_at_the_bound_and_can_go_on() -> None:
    model = ScriptedModel(*[CALL] * 16, FINAL.format("3"))
    chat = model.chat(tools=[add])
    assert chat.send("again and again").finish_reason == "tool_calls"
    assert len(model.prompts) == 16
    with chat.continue_stream() as stream:
        assert stream.finish().text == "3"
    assert model.shown[16].count("<|call|>") == 16


def test_max_tokens_are_those_of_all_steps_together() -> None:
    used = len(wire(CALL))
    model = ScriptedModel(CALL, CALL, FINAL.format("never said"))
    chat = model.chat(tools=[add], sampling=SamplingParams(max_tokens=2 * used))
    reply = chat.send("again and again")
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 2 * used)
    assert [sampling.max_tokens for sampling in model.samplings] == [2 * used, used]
    assert chat.messages[-1].text == "3"


def test_the_thinking_budget_is_that_of_all_steps_together() -> None:
    think = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
    model = ScriptedModel(
        think.format("One, two") + CALL,
        think.format("ä👋") + CALL,
        think.format("three") + CALL,
        FINAL.format("3"),
    )
    reply = model.chat(tools=[add]).send("1+2?", max_thinking_tokens=5, tool_choice="required")
    spent = [0, *itertools.accumulate(len(wire(text)) for text in ("One, two", "ä👋", "three"))]
    assert spent[-1] == reply.usage.reasoning_tokens > 5
    guides = [options["guide"]._plan for options in model.options]
    assert [plan.max_thinking_tokens for plan in guides] == [max(5 - tokens, 0) for tokens in spent]
    assert [plan.tool_choice for plan in guides] == ["required", "auto", "auto", "auto"]


BEFORE = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


@pytest.mark.parametrize("recipient", ["assistant", "user", "all", "assistantcommentary"])
@pytest.mark.parametrize(
    ("channel", "fields"),
    [("final", ("", "Hello.")), ("analysis", ("Hello.", "")), ("commentary", ("", "Hello."))],
)
def test_a_message_to_a_role_or_to_all_is_text_of_its_channel(
    channel: str, recipient: str, fields: tuple[str, str]
) -> None:
    for header in (f" to={recipient}<|channel|>{channel}", f"<|channel|>{channel} to={recipient}"):
        model = ScriptedModel(f"{header}<|message|>Hello.<|end|>")
        chat = model.chat(tools=[add])
        with chat.stream("hi") as stream:
            events = [event for event in stream if not isinstance(event, Progress)]
        reply = stream.reply
        assert (reply.thinking, reply.text, reply.tool_calls, len(model.prompts)) == (*fields, (), 1)
        assert "".join(getattr(event, "delta", "") for event in events) == "Hello."
        assert (chat.messages[-1].channel, chat.messages[-1].recipient) == (channel, None)
        assert "recipient that is not a tool" in reply.repairs[0]


def test_an_answer_on_commentary_is_the_text_and_is_streamed_once() -> None:
    script = BEFORE + "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant"
    model = ScriptedModel(script + "<|channel|>commentary<|message|>Hello.<|return|>", FINAL.format("Bye."))
    chat = model.chat(tools=[add])
    with chat.stream("hi") as stream:
        events = list(stream)
    deltas = [event.delta for event in events if isinstance(event, Preamble | Text)]
    assert not any(isinstance(event, Text) for event in events)
    assert "".join(deltas) == "Wait.\n\nHello."
    assert stream.reply.text == "Hello."
    assert (stream.reply.thinking, stream.reply.finish_reason) == ("Hm.", "stop")
    assert stream.reply.repairs == ("missing final message: the last preamble is the answer",)
    assert [message.channel for message in chat.messages] == [None, "analysis", "commentary", "commentary"]
    chat.send("And?")
    assert "<|channel|>commentary<|message|>Hello.<|end|>" in model.shown[1]


def test_a_preamble_before_a_call_is_not_an_answer() -> None:
    first = "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant" + CALL
    for tool, reason in ((add, "stop"), (OUTSIDE, "tool_calls")):
        reply = ScriptedModel(first, "<|channel|>analysis<|message|>Hm.<|return|>").chat(tools=[tool]).send("1+2?")
        assert (reply.text, reply.finish_reason) == ("", reason)


@pytest.mark.parametrize(
    "name", ["add", "function.add", "functions/add", "functions.addjson", "functions.addcode"]
)
def test_a_call_by_another_name_runs(name: str) -> None:
    call = f'<|channel|>commentary to={name}<|message|>{{"a": 1, "b": 2}}<|call|>'
    model = ScriptedModel(call, FINAL.format("3"))
    chat = model.chat(tools=[add])
    reply = chat.send("1+2?")
    assert (reply.text, [call.name for call in reply.tool_calls]) == ("3", ["functions.add"])
    assert reply.repairs == (f"call by another name: {name}",)
    assert " to=functions.add<|channel|>commentary" in model.shown[1]
    assert "<|start|>functions.add to=assistant<|channel|>commentary<|message|>3<|end|>" in model.shown[1]


@pytest.mark.parametrize("role", ["add", "functions.add", "function.add"])
def test_a_declared_tool_as_role_is_a_call(role: str) -> None:
    call = f'{role}<|channel|>commentary json<|message|>{{"a": 1, "b": 2}}<|call|>'
    model = ScriptedModel(BEFORE.removesuffix("assistant") + call, FINAL.format("3"))
    with model.chat(tools=[add]).stream("1+2?") as stream:
        assert not any(isinstance(event, Preamble) for event in stream)
    assert (stream.reply.text, [call.name for call in stream.reply.tool_calls]) == ("3", ["functions.add"])
    assert stream.reply.repairs == (f"call by another name: {role}",)


def test_a_declared_python_called_as_the_built_in_runs() -> None:
    def python(code: str) -> str:
        return f"ran {code}"

    call = '<|channel|>analysis to=python code<|message|>{"code": "1"}<|call|>'
    model = ScriptedModel(call, FINAL.format("3"))
    assert model.chat(tools=[python]).send("1+2?").text == "3"
    assert "<|message|>ran 1<|end|>" in model.shown[1]


def test_a_call_by_another_name_of_a_tool_without_a_function_is_the_callers() -> None:
    call = '<|channel|>commentary to=add json<|message|>{"a": 1}<|call|>'
    chat = ScriptedModel(call, FINAL.format("3")).chat(tools=[OUTSIDE])
    reply = chat.send("1+2?")
    assert reply.finish_reason == "tool_calls"
    assert reply.tool_calls == chat.pending_calls == (ToolCall(name="functions.add", arguments='{"a": 1}'),)
    assert chat.send_results("3").text == "3"


@pytest.mark.parametrize(
    ("name", "arguments"), [("add", "{}"), ("ad", '{"a": 1, "b": 2}'), ("python", "1"), ("functions.addjson", "")]
)
@pytest.mark.parametrize("tool", [add, OUTSIDE | {"parameters": {"type": "object", "required": ["a", "b"]}}])
def test_a_call_that_means_no_tool_or_has_wrong_arguments_is_told_the_names(
    name: str, arguments: str, tool: Any
) -> None:
    model = ScriptedModel(f" to={name}<|channel|>commentary<|message|>{arguments}<|call|>", FINAL.format("Sorry."))
    with model.chat(tools=[tool]).stream("1+2?") as stream:
        (result,) = [event for event in stream if isinstance(event, ToolResult)]
    assert result == ToolResult(
        name=name, output=f"Error: {name}: there is no such tool; there are functions.add", error=True
    )
    assert (stream.reply.text, stream.reply.repairs) == ("Sorry.", ())


@pytest.mark.parametrize("end", [" ", "", " json", "<|constrain|>json", " json\n"])
@pytest.mark.parametrize("name", ["functions.add", "add", "functions/add"])
def test_a_call_without_a_message_token_runs_if_one_tool_and_valid_arguments_result(name: str, end: str) -> None:
    call = f' to={name}<|channel|>commentary{end}{{"a": 1, "b":2}}<|call|>'
    reply = ScriptedModel(call, FINAL.format("3")).chat(tools=[add]).send("1+2?")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("functions.add", '{"a": 1, "b":2}')]
    assert [message.text for message in reply.messages] == ['{"a": 1, "b":2}', "3", "3"]
    assert any("header without a message token" in repair for repair in reply.repairs)


def test_a_call_that_runs_into_its_end_has_no_arguments() -> None:
    switched: list[bool] = []

    def lamp(on: bool = True) -> str:
        switched.append(on)
        return "done"

    script = "<|channel|>commentary to=functions.lamp json<|call|>"
    assert ScriptedModel(script, FINAL.format("On.")).chat(tools=[lamp]).send("On!").text == "On."
    assert switched == [True]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (' to=functions.sum<|channel|>commentary{"a": 1, "b": 2}<|call|>', "there is no such tool"),
        (' to=functions.add<|channel|>commentary{"a": 1}<|call|>', "b: this argument is missing"),
        (' to=functions.add<|channel|>commentary{"a": 1, "b": 2<|call|>', "arguments: Invalid JSON"),
        (' to=functions.add<|channel|>commentary so {"a": 1, "b": 2}<|call|>', "arguments: Invalid JSON"),
        (" to=functions.add<|channel|>commentary json<|call|>", "a: this argument is missing"),
    ],
)
def test_a_call_without_a_message_token_is_refused_otherwise(call: str, problem: str) -> None:
    with ScriptedModel(call, FINAL.format("Sorry.")).chat(tools=[add]).stream("1+2?") as stream:
        (result,) = [event for event in stream if isinstance(event, ToolResult)]
    assert result.error
    assert problem in result.output
    assert stream.reply.text == "Sorry."


@pytest.mark.parametrize("text", ["", "<|channel|>analysis<|message|>Hm.", "<|channel|>commentary<|message|>"])
def test_a_reply_of_analysis_or_nothing_has_no_text(text: str) -> None:
    reply = ScriptedModel(f"{text}<|return|>").chat().send("hi")
    assert (reply.text, reply.finish_reason) == ("", "stop")


def test_preambles_are_events_of_their_own() -> None:
    script = "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant" + CALL
    with ScriptedModel(script, FINAL.format("3")).chat(tools=[add]).stream("1+2?") as stream:
        deltas = [event.delta for event in stream if isinstance(event, Preamble)]
    assert "".join(deltas) == "Let me look."
    assert stream.reply.text == "3"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("<|message|>Hello.<|return|>", "Hello."),
        ("Hello.", "Hello."),
        ("<|channel|>final<|channel|>final<|message|>Hello.<|return|>", "Hello."),
        ("<|start|>assistant<|channel|>final<|message|>Hello.<|return|>", "Hello."),
        ("<|channel|>final json<|message|>Hello.<|return|>", "Hello."),
    ],
)
def test_no_answer_is_lost_to_a_malformed_header(script: str, text: str) -> None:
    chat = ScriptedModel(script).chat()
    assert chat.send("hi").text == text
    assert chat.messages[-1].text == text
    assert str(chat.messages[-1].channel) == "final"


def test_a_cut_answer_is_marked_and_can_be_continued() -> None:
    model = ScriptedModel("<|channel|>final<|message|>One, two", ", three.<|return|>")
    chat = model.chat()
    reply = chat.send("count")
    assert (reply.finish_reason, reply.text) == ("length", "One, two")
    assert chat.messages[-1].truncated
    with chat.continue_stream() as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if isinstance(event, Text)) == ", three."
    assert model.shown[1].endswith("<|start|>assistant<|channel|>final<|message|>One, two")
    assert [message.text for message in chat.messages] == ["count", "One, two, three."]


@pytest.mark.parametrize("more", [None, "", ", three", ", three<|return|>"])
def test_an_unfinished_answer_is_never_lost_by_going_on_with_it(more: str | None) -> None:
    model = ScriptedModel("<|channel|>final<|message|>One, two", failing(more or ""))
    chat = model.chat()
    chat.send("count")
    stream = chat.continue_stream()
    if more is None:
        assert [message.text for message in chat.messages] == ["count", "One, two"]
        del stream
    else:
        with pytest.raises(NotEnoughMemory):
            stream.finish()
    assert [message.text for message in chat.messages] == ["count", "One, two" + (more or "").partition("<")[0]]
    assert chat.messages[-1].truncated == ("<|return|>" not in (more or ""))


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "forgotten"])
def test_what_was_shown_is_kept_however_the_stream_ends(fails: bool, tmp_path: Path) -> None:
    model = ScriptedModel(failing(THOUGHT.format("One, two").removesuffix("<|return|>")), ", three.<|return|>")
    chat = model.chat()
    stream = chat.stream("count")
    shown = ""
    with contextlib.suppress(NotEnoughMemory):
        for event in stream:
            shown += event.delta if isinstance(event, Text) else ""
            if not fails and shown == "One, two":
                break
    del stream
    gc.collect()
    assert shown == "One, two"
    assert [message.text for message in chat.messages] == ["count", "Hm.", "One, two"]
    chat.save(tmp_path / "chat.json")
    again = Chat.load(cast(GptOss, model), tmp_path / "chat.json")
    with again.continue_stream() as stream:
        assert stream.finish().text == ", three."
    assert again.messages[-1].text == "One, two, three."


def test_nothing_is_kept_of_an_answer_that_failed_before_it_began() -> None:
    chat = ScriptedModel(failing(""), failing("<|channel|>analysis"), FINAL.format("Hello.")).chat()
    for _ in range(2):
        with pytest.raises(NotEnoughMemory):
            chat.retry() if chat.messages else chat.send("hi")
        assert [message.text for message in chat.messages] == ["hi"]
    assert chat.retry().text == "Hello."


def test_a_tools_result_is_kept_when_nobody_reads_on() -> None:
    chat = ScriptedModel(CALL, FINAL.format("3")).chat(tools=[add])
    for event in chat.stream("1+2?"):
        if isinstance(event, ToolResult):
            break
    assert [message.text for message in chat.messages] == ["1+2?", '{"a": 1, "b": 2}', "3"]
    with chat.continue_stream() as stream:
        assert stream.finish().text == "3"


def test_a_stream_that_is_read_after_another_one_began_does_not_disturb_it() -> None:
    model = ScriptedModel(CALL, FINAL.format("Hello."), FINAL.format("3"))
    chat = model.chat(tools=[add])
    late = chat.stream("1+2?")
    next(late)
    assert chat.undo() == "1+2?"
    chat.send("hi")
    assert late.finish().text == "3"
    assert [message.text for message in chat.messages] == ["hi", "Hello."]
    assert "1+2?" in model.shown[2]
    assert "hi" not in model.shown[2].partition("user<|message|>")[2]


@pytest.mark.parametrize("name", ["functions.add", "python", "functions.nö"])
@pytest.mark.parametrize("tool", [add, OUTSIDE], ids=["ours", "the caller's"])
def test_a_call_on_final_is_a_call_and_no_answer(name: str, tool: Any) -> None:
    """The model goes on with the result, and what was thought before the call stays as long as the turn lasts."""
    call = f' to={name}<|channel|>final<|message|>{{"a": 1, "b": 2}}<|call|>'
    model = ScriptedModel("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" + call, FINAL.format("3"))
    chat = model.chat(tools=[tool])
    reply = chat.send("1+2?")
    if chat.pending_calls:
        assert (reply.finish_reason, reply.text) == ("tool_calls", "")
        reply = chat.send_results("3")
    assert (reply.text, reply.finish_reason) == ("3", "stop")
    assert list(chat.pending_calls) == []
    assert [str(message.channel) for message in chat.messages[1:]] == [
        *("analysis", "commentary", "commentary", "final")
    ]
    assert "Hm." in model.shown[1]


def test_messages_that_follow_each_other_are_parted() -> None:
    written = (("analysis", "One."), ("analysis", "Two."), ("final", "A"), ("final", "B"))
    messages = [f"<|channel|>{channel}<|message|>{text}" for channel, text in written]
    model = ScriptedModel("<|end|><|start|>assistant".join(messages) + "<|return|>")
    chat = model.chat(sampling=SamplingParams(stop=("\n\n", "xy")))
    with chat.stream("hi") as stream:
        deltas = [event.delta for event in stream if isinstance(event, Text)]
    assert (stream.reply.thinking, stream.reply.text) == ("One.\n\nTwo.", "A\n\nB")
    assert "".join(deltas) == stream.reply.text
    assert [message.text for message in chat.messages] == ["hi", "One.", "Two.", "A", "B"]


def test_a_stop_text_ends_the_answer_before_it() -> None:
    script = "<|channel|>analysis<|message|>STOP here<|end|><|start|>assistant" + FINAL.format("One STO STOP two")
    chat = ScriptedModel(script).chat(sampling=SamplingParams(stop=("STOP",)))
    with chat.stream("count") as stream:
        deltas = [event.delta for event in stream if isinstance(event, Text)]
    assert "".join(deltas) == stream.reply.text == chat.messages[-1].text == "One STO "
    assert stream.reply.finish_reason == "stop"
    assert stream.reply.thinking == "STOP here"


ON_COMMENTARY = "<|channel|>commentary<|message|>One STO STOP two"


def stopped_deltas(script: str, tools: Sequence[Any]) -> tuple[str, Reply, Chat]:
    """The streamed text of an answer with a stop text, its reply, and the chat after it."""
    chat = ScriptedModel(script, FINAL.format("3")).chat(tools=tools, stop="STOP")
    with chat.stream("count") as stream:
        text = "".join(event.delta for event in stream if isinstance(event, Preamble | Text))
    return text, stream.reply, chat


@pytest.mark.parametrize(
    "end", ["<|return|>", "<|end|><|start|>assistant<|channel|>analysis<|message|>Hm.<|return|>", ""]
)
@pytest.mark.parametrize("tools", [[], [add]])
def test_a_stop_text_ends_an_answer_on_commentary(tools: list[Any], end: str) -> None:
    text, reply, chat = stopped_deltas(f"{ON_COMMENTARY}{end}", tools)
    assert text == reply.text == "One STO "
    assert reply.finish_reason == "stop"
    answer = chat.messages[1]
    assert (answer.text, str(answer.channel), answer.truncated) == ("One STO ", "commentary", False)


def test_without_tools_nothing_is_generated_after_a_stop_text_on_commentary() -> None:
    _, reply, _ = stopped_deltas(f"{ON_COMMENTARY}{' and so on' * 50}", [])
    assert reply.usage.completion_tokens < 12


@pytest.mark.parametrize("then", [CALL, FINAL.format("3"), ON_COMMENTARY.replace("STOP two", "<|return|>")])
def test_a_stop_text_in_a_preamble_ends_nothing(then: str) -> None:
    text, reply, chat = stopped_deltas(f"{ON_COMMENTARY}<|end|><|start|>assistant{then}", [add])
    assert text.startswith("One STO STOP two")
    assert reply.finish_reason == "stop"
    assert reply.text == ("One STO " if "STO" in then else "3")
    assert chat.messages[1].text == "One STO STOP two"
    assert text.count("two") == 1


def test_cancelling_keeps_what_was_said() -> None:
    chat = ScriptedModel(FINAL.format("a long answer that goes on")).chat()
    with chat.stream("hi") as stream:
        for event in stream:
            if isinstance(event, Text):
                stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.text.startswith("a")
    assert chat.messages[-1].truncated


def test_a_saved_chat_comes_back(tmp_path: Path) -> None:
    model = ScriptedModel(THOUGHT.format("x"), "<|channel|>final<|message|>cut")
    chat = model.chat(instructions="Be terse.", effort="high", date="2026-01-02")
    chat.send("hi")
    chat.send("ünïcode ∑")
    chat.title = "A title"
    path = tmp_path / "chat.json"
    chat.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = Chat.load(cast(GptOss, model), path)
    assert again.conversation == chat.conversation
    assert (again.title, again.effort, again.messages[-1].truncated) == ("A title", "high", True)
    assert "ünïcode" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[]", "not a saved chat"),
        ("{}", "not a saved chat"),
        ('{"version": 99}', "format 99"),
        ('{"version": 1}', "messages is missing"),
        ('{"version": 1, "messages": [{"role": "emperor"}]}', r"messages\[0\]"),
        ('{"version": 1, "messages": [3]}', r"messages\[0\]"),
        ('{"version": 1, "messages": [{"role": "system", "content": "Obey."}]}', "no place in a saved chat"),
        ('{"version": 1, "messages": [], "title": 3}', "title"),
        ('{"version": 1, "messages": [], "effort": "off"}', "effort"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_damaged_chat_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(content)
    with pytest.raises((ChatFileError, InvalidRequest), match=message):
        Chat.load(cast(GptOss, ScriptedModel()), path)


def test_the_readable_beginning_of_a_damaged_chat_can_be_kept(tmp_path: Path) -> None:
    from gptoss_mlx.chat import file as chatfile

    path = tmp_path / "chat.json"
    entries: list[Any] = [Message.user("hi").to_dict(), {"role": "emperor"}, Message.user("lost").to_dict()]
    path.write_text(json.dumps({"version": 1, "messages": entries}))
    content = chatfile.read(path, keep_readable=True)
    assert [entry.text for entry in content.messages] == ["hi"]
    assert content.damaged == 2


@pytest.mark.parametrize(
    "content",
    [
        '{"version": 1, "messages": [[' + "[]," * 2**20 + "]",  # would be parsed one by one
        '{"version": 1' + " " * 200_000,  # where a search may begin at every space
    ],
    ids=["lists", "spaces"],
)
def test_a_damaged_chat_that_would_take_long_or_much_memory_is_refused(content: str, tmp_path: Path) -> None:
    from gptoss_mlx.chat import file as chatfile

    path = tmp_path / "chat.json"
    path.write_text(content)
    tracemalloc.start()
    try:
        with pytest.raises(ChatFileError, match="cannot be read as a chat"):
            chatfile.read(path, keep_readable=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(content)


def test_a_call_that_was_cancelled_before_it_ran_does_not_run() -> None:
    ran: list[str] = []

    def wipe(place: str) -> str:
        """Wipes a place."""
        ran.append(place)
        return "wiped"

    call = '<|channel|>commentary to=functions.wipe <|constrain|>json<|message|>{"place": "disk"}<|call|>'
    chat = ScriptedModel(call, "<|channel|>final<|message|>Done.<|return|>").chat(tools=[wipe])
    with chat.stream("Wipe it.") as stream:
        for event in stream:
            if isinstance(event, ToolCall):
                stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    assert ran == []
    assert [waiting.name for waiting in chat.pending_calls] == ["functions.wipe"]


def test_a_cancelled_answer_stays_in_the_chat_as_far_as_it_came() -> None:
    chat = ScriptedModel(
        "<|channel|>final<|message|>One two three.<|return|>", "<|channel|>final<|message|>Yes.<|return|>"
    ).chat()
    stream = chat.stream("Count.")
    said = next(iter(stream.text))
    stream.cancel()
    chat.send("And?")
    assert [message.text for message in chat.messages] == ["Count.", said, "And?", "Yes."]


def test_a_generated_message_is_rendered_as_it_was_written_until_it_changes() -> None:
    tokens = wire("<|channel|>analysis<|message|>A")
    split = [*tokens, *wire("d"), *wire("d.<|end|><|start|>assistant" + CALL)]  # "Add." as no text is encoded
    model = ScriptedModel(split, FINAL.format("3"))
    chat = model.chat(tools=[{"name": "add", "parameters": {"type": "object"}}])
    chat.send("1+2?")
    chat.send_results("3")
    first = model.prompts[0]
    assert model.prompts[1][: len(first) + len(split)] == first + split
    thought = chat.messages[1]
    assert thought.text == "Add."
    assert replace(thought, channel=Channel.COMMENTARY).written is None
