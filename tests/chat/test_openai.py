"""OpenAI's message lists: they are read as meant, written as they were read, and refused with the path."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss_mlx.chat import openai
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.harmony import Message
from tests.chat.scripted import ScriptedModel

CALL = {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_0", "content": "3"},
    {"role": "assistant", "content": "3.", "reasoning": "So 3."},
    {"role": "user", "content": "Sure?"},
]
FINAL = "<|channel|>final<|message|>{}<|return|>"


def test_a_list_is_the_conversation_that_it_means() -> None:
    model = ScriptedModel(FINAL.format("Yes."))
    chat = model.chat(messages=MESSAGES, effort="low")
    assert chat.instructions == "Be terse."
    assert chat.send().text == "Yes."
    assert model.shown[0].endswith(
        "<|start|>developer<|message|># Instructions\n\nBe terse.<|end|><|start|>user<|message|>1+2?<|end|>"
        '<|start|>assistant to=functions.add<|channel|>commentary <|constrain|>json<|message|>{"a": 1, "b": 2}'
        "<|call|><|start|>functions.add to=assistant<|channel|>commentary<|message|>3<|end|>"
        "<|start|>assistant<|channel|>final<|message|>3.<|end|><|start|>user<|message|>Sure?<|end|><|start|>assistant"
    )
    assert [str(message.channel) for message in chat.messages[1:3]] == ["analysis", "commentary"]


def test_what_is_written_is_what_was_read() -> None:
    chat = ScriptedModel(FINAL.format("Yes.")).chat(messages=MESSAGES)
    assert chat.to_openai() == MESSAGES
    chat.send()
    assert chat.to_openai() == [*MESSAGES, {"role": "assistant", "content": "Yes."}]


def test_several_calls_and_their_results_keep_their_ids() -> None:
    twice = [{**CALL, "id": f"call_{number}"} for number in (0, 1)]
    messages = [
        {"role": "user", "content": "1+2 twice?"},
        {"role": "assistant", "content": "Let me add.", "tool_calls": twice},
        {"role": "tool", "tool_call_id": "call_0", "content": "3"},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
    ]
    chat = ScriptedModel(FINAL.format("3 and 3.")).chat(messages=messages)
    assert chat.to_openai() == messages
    assert chat.pending_calls == ()
    assert chat.send().text == "3 and 3."


def test_content_may_be_parts_and_reasoning_has_several_names() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    for name in ("reasoning", "reasoning_content", "thinking"):
        said = {"role": "assistant", "content": parts, name: "Hm.", "refusal": None, "annotations": [], "id": "1"}
        read = openai.read([{"role": "developer", "content": parts}, {"role": "user", "content": parts}, said])
        assert read.instructions == "Hello"
        assert [message.text for message in read.messages] == ["Hello", "Hm.", "Hello"]


def test_messages_of_both_kinds_may_be_mixed() -> None:
    read = openai.read([Message.user("one"), {"role": "assistant", "content": "two"}])
    assert [message.text for message in read.messages] == ["one", "two"]


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (3, r"messages\[1\] is 3; a Message is needed, or a dict"),
        ({}, r"messages\[1\]\.role is None; one of system, developer"),
        ({"role": []}, r"messages\[1\]\.role is \[\]; one of"),
        ({"role": "system", "content": "x"}, r"messages\[1\]\.role is 'system'; only the first"),
        ({"role": "user"}, r"messages\[1\]\.content is None; text or a list of parts"),
        ({"role": "user", "content": [3]}, r"messages\[1\]\.content\[0\] is 3; "),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            r"messages\[1\]\.content\[0\]\.type is 'image_url'; 'text' is needed",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, r"messages\[1\]\.content\[0\]\.text is None; text"),
        ({"role": "user", "content": "\ud800"}, r"messages\[1\]: .*half a surrogate pair"),
        ({"role": "user", "content": "x", "name": 3}, r"messages\[1\]: name"),
        ({"role": "user", "content": "x", "audio": {"id": 1}}, r"messages\[1\] has 'audio', .*leave it out"),
        ({"role": "assistant", "content": None}, r"messages\[1\]\.content is empty"),
        ({"role": "assistant", "function_call": {"name": "f"}}, r"messages\[1\] has 'function_call'"),
        ({"role": "assistant", "tool_calls": {}}, r"messages\[1\]\.tool_calls is {}; a list"),
        ({"role": "assistant", "tool_calls": [3]}, r"messages\[1\]\.tool_calls\[0\] is 3; "),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]},
            r"messages\[1\]\.tool_calls\[0\]\.function\.arguments is {}; JSON text, as of json\.dumps",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "a b", "arguments": ""}}]},
            r"messages\[1\]\.tool_calls\[0\]\.function\.name is 'a b'",
        ),
        ({"role": "assistant", "tool_calls": [{**CALL, "id": 3}]}, r"tool_calls\[0\]\.id is 3; text"),
        ({"role": "assistant", "tool_calls": [CALL, CALL]}, r"tool_calls\[1\]\.id is 'call_0', as of a call"),
        (
            {"role": "tool", "content": "3"},
            r"messages\[1\]\.tool_call_id is None; a call before it .* there are \[\]",
        ),
        ({"role": "assistant", "content": "x", "reasoning": 3}, r"messages\[1\]\.reasoning is 3; text"),
    ],
)
def test_a_refusal_names_the_path(message: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ScriptedModel().chat(messages=[USER, message])


def test_instructions_are_given_once() -> None:
    with pytest.raises(InvalidRequest, match="both give instructions"):
        ScriptedModel().chat(messages=MESSAGES, instructions="Be long.")


def test_only_a_question_or_a_result_can_be_answered() -> None:
    for messages, said in (
        ([], "does not end in a question"),
        (MESSAGES[:5], "does not end in a question"),
        (MESSAGES[:3], "calls wait for their results"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            ScriptedModel().chat(messages=messages).send()
