"""Conversations as data: checked when made, read from and written to openai-harmony's JSON."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest

from gptoss_mlx.errors import RenderError
from gptoss_mlx.harmony import (
    Author,
    Channel,
    ChannelConfig,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
)
from gptoss_mlx.harmony.content import MAX_SCHEMA_DEPTH, Schema
from tests.harmony.fixtures import CONTROL_STRINGS, OracleConversation, random_conversation

BAD_WORDS = ["", " ", "a b", "a\tb", "a\nb", "a\u00a0b", "a\u2028b", "\u202ea", "a\x00", "x" * 300]
BAD_WORDS += [f"f{text}" for text in CONTROL_STRINGS]
BAD_NAMES = [*BAD_WORDS, "x" * 65, "a/b", "ä", "a:b", "to=x y"]


def message(**fields: Any) -> Message:
    defaults: dict[str, Any] = {"author": Author(role=Role.ASSISTANT), "content": (TextContent(text="x"),)}
    return Message(**(defaults | fields))


@pytest.mark.parametrize("word", BAD_WORDS)
@pytest.mark.parametrize("field", ["recipient", "content_type"])
def test_header_words_reject_spaces_and_control_tokens(field: str, word: str) -> None:
    with pytest.raises(RenderError, match=rf"{field}: .* allowed: one printable word"):
        message(**{field: word})


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("role", list(Role))
def test_author_names_reject_what_could_forge_a_header(role: Role, name: str) -> None:
    with pytest.raises(RenderError, match="name: "):
        Author(role=role, name=name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_of_tools_namespaces_and_formats_reject_it_too(name: str) -> None:
    with pytest.raises(RenderError, match="allowed: 1 to 64 of"):
        ToolDescription(name=name)
    with pytest.raises(RenderError, match="allowed: 1 to 64 of"):
        ToolNamespace(name=name)
    with pytest.raises(RenderError, match="allowed: 1 to 64 of"):
        ResponseFormat(name=name, schema={})


@pytest.mark.parametrize("channel", ["Final", "final ", "analysis<|message|>", "", "other", 3])
def test_a_channel_is_one_of_three(channel: Any) -> None:
    with pytest.raises(RenderError, match=r"channel: .* is not one of analysis, commentary, final"):
        message(channel=channel)
    with pytest.raises(RenderError, match="valid_channels: "):
        ChannelConfig(valid_channels=(channel,))


@pytest.mark.parametrize("role", ["robot", "assistant ", "", None])
def test_a_role_is_one_of_five(role: Any) -> None:
    with pytest.raises(RenderError, match=r"role: .* is not one of system, developer, user, assistant, tool"):
        Author(role=role)


@pytest.mark.parametrize("name", [*Role, "Developer", "SYSTEM", "useruser"])
def test_no_tool_has_the_name_of_a_role(name: str) -> None:
    with pytest.raises(RenderError, match="is reserved"):
        Author(role=Role.TOOL, name=name)
    with pytest.raises(RenderError, match="is reserved"):
        ToolNamespace(name=name)


@pytest.mark.parametrize("name", [None, ""])
def test_a_tool_message_needs_a_name(name: str | None) -> None:
    with pytest.raises(RenderError, match="needs its tool's name"):
        Author(role=Role.TOOL, name=name)


@pytest.mark.parametrize("name", ["python", "functions.get_weather", "functions.a.b-c", f"a.{'b' * 64}"])
def test_a_tool_may_be_called(name: str) -> None:
    assert Message.tool(name, "done").author.name == name


def test_a_system_message_under_the_wrong_role_names_both() -> None:
    with pytest.raises(RenderError, match="SystemContent under the role user; allowed: system"):
        message(author=Author(role=Role.USER), content=(SystemContent(),))
    with pytest.raises(RenderError, match="DeveloperContent under the role system; allowed: developer"):
        Message.system(DeveloperContent())  # type: ignore[arg-type]


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def test_a_schema_may_be_deep_but_not_deeper_than_the_limit() -> None:
    assert ToolDescription(name="f", parameters=nested(MAX_SCHEMA_DEPTH)).parameters is not None
    with pytest.raises(RenderError, match="tool f: parameters: nested deeper than the 128 levels allowed"):
        ToolDescription(name="f", parameters=nested(MAX_SCHEMA_DEPTH + 1))
    with pytest.raises(RenderError, match="nested deeper"):
        ToolDescription(name="f", parameters=nested(100_000))


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {3}}, float("nan"), [float("inf")], "\ud800", b""])
def test_a_schema_is_json(value: Any) -> None:
    with pytest.raises(RenderError, match="tool f: parameters"):
        ToolDescription(name="f", parameters={"default": value})


@pytest.mark.parametrize("value", [3, "text", [], True])
def test_a_schema_is_an_object(value: Any) -> None:
    with pytest.raises(RenderError, match="tool f: parameters: a JSON object is needed"):
        ToolDescription(name="f", parameters=value)


def test_a_schema_cannot_be_changed_from_outside() -> None:
    given: dict[str, Any] = {"properties": {"a": {}}}
    tool = ToolDescription(name="f", parameters=given)
    given["properties"]["b"] = {}
    assert tool.parameters is not None
    tool.parameters["properties"]["c"] = {}
    assert tool.parameters == Schema({"properties": {"a": {}}})


def test_schemas_in_another_order_are_another_schema() -> None:
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert Schema(one) != Schema(other)
    assert hash(Schema(one)) == hash(Schema(dict(one)))


@pytest.mark.parametrize("text", ["\ud800", "ok\udfff", 7, None, b"bytes"])
def test_text_is_what_utf8_can_hold(text: Any) -> None:
    with pytest.raises(RenderError, match="text: "):
        Message.user(text)


@pytest.mark.parametrize("date", ["today", "2025-6-28", "20250628", "2025-13-01", 20250628, "2025-06-28T10:00"])
def test_a_date_is_a_date(date: Any) -> None:
    with pytest.raises(RenderError, match=r"conversation_start_date: .* YYYY-MM-DD"):
        SystemContent(conversation_start_date=date)


@pytest.mark.parametrize("effort", ["low", "Low", "LOW", ReasoningEffort.LOW])
def test_effort_in_either_spelling(effort: Any) -> None:
    assert SystemContent(reasoning_effort=effort).reasoning_effort is ReasoningEffort.LOW


def test_an_unknown_effort_names_the_three() -> None:
    with pytest.raises(RenderError, match="reasoning_effort: 'max' is not one of low, medium, high"):
        SystemContent(reasoning_effort="max")


def test_the_same_name_twice_is_an_error() -> None:
    tool = ToolDescription(name="f")
    with pytest.raises(RenderError, match="'f' is there twice"):
        ToolNamespace.functions(tool, tool)
    with pytest.raises(RenderError, match="'functions' is there twice"):
        DeveloperContent(tools=(ToolNamespace.functions(), ToolNamespace.functions()))


def test_everything_is_frozen_and_hashable() -> None:
    conversation = random_conversation(random.Random(5))
    assert hash(conversation) == hash(Conversation.from_dict(conversation.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        conversation.messages = ()  # type: ignore[misc]


BAD_FILES: list[tuple[dict[str, Any], str]] = [
    ({"role": "robot", "content": "x"}, r"role: 'robot' is not one of system, developer, user, assistant, tool"),
    ({"role": "tool", "content": "x"}, r"name: a tool message needs its tool's name"),
    ({"role": "tool", "name": "developer", "content": "x"}, r"name: 'developer' is reserved"),
    ({"role": "user", "content": 3}, r"content: a list is needed"),
    ({"content": "x"}, r"role: missing"),
    ({"role": "user"}, r"content: a list is needed"),
    ({"role": "user", "content": [{"type": "image"}]}, r"content: type 'image' is not one of text"),
    ({"role": "user", "content": [{"type": "text"}]}, r"content: text is missing"),
    ({"role": "user", "content": [{"type": "system_content"}]}, r"content: SystemContent under the role user"),
    ({"role": "user", "content": "x", "channel": "loud"}, r"channel: 'loud' is not one of"),
    ({"role": "user", "content": "x", "recipient": "a b"}, r"recipient: 'a b' is not allowed"),
]


@pytest.mark.parametrize(("data", "problem"), BAD_FILES)
def test_an_error_names_the_position_the_field_and_what_is_allowed(data: Any, problem: str) -> None:
    good = {"role": "user", "content": "hello"}
    with pytest.raises(RenderError, match=rf"^messages\[2\]\.{problem}"):
        Conversation.from_dict({"messages": [good, good, data]})


@pytest.mark.parametrize("data", [{}, {"messages": None}, {"messages": "x"}, {"messages": [3]}, 3, None])
def test_what_is_no_conversation_is_an_error(data: Any) -> None:
    with pytest.raises(RenderError):
        Conversation.from_dict(data)


def test_a_namespace_must_stand_under_its_own_name() -> None:
    tools = {"functions": {"name": "other", "tools": []}}
    content = [{"type": "developer_content", "tools": tools}]
    with pytest.raises(RenderError, match=r"messages\[0\].*key and name must agree"):
        Conversation.from_dict({"messages": [{"role": "developer", "content": content}]})


@pytest.mark.parametrize("seed", range(60))
def test_our_json_loads_in_openai_harmony_and_theirs_in_ours(seed: int) -> None:
    conversation = random_conversation(random.Random(seed))
    text = json.dumps(conversation.to_dict())
    theirs = OracleConversation.from_json(text)
    assert Conversation.from_dict(json.loads(text)) == conversation
    without_nulls = json.loads(theirs.to_json())
    assert theirs == OracleConversation.from_json(json.dumps(without_nulls)) or "null" in text
    if "null" not in text:
        assert Conversation.from_dict(without_nulls) == conversation


def test_fields_with_a_default_are_written_when_left_out() -> None:
    system = SystemContent(model_identity=None, knowledge_cutoff=None, channel_config=None, reasoning_effort=None)
    conversation = Conversation(messages=(Message.system(system),))
    data = conversation.to_dict()
    assert data["messages"][0]["content"][0]["model_identity"] is None
    assert Conversation.from_dict(data) == conversation
    assert OracleConversation.from_json(json.dumps(data)).messages[0].content[0].model_identity is None


def test_an_unknown_tool_is_answered_under_a_name_that_can_be_rendered() -> None:
    call = Message.assistant("{}", channel="commentary", recipient="functions.nö$pe")
    answer = call.answer("no such tool")
    assert (answer.author.name, answer.channel) == ("unknown.functions.n_pe", "commentary")
    assert Message.assistant("{}", recipient="developer").answer("").author.name == "unknown.developer"
    assert Message.assistant("{}", recipient="functions.f").answer("").author.name == "functions.f"


def test_a_function_call_on_analysis_is_stored_on_commentary() -> None:
    call = Message.assistant("{}", channel="analysis", recipient="functions.f")
    built_in = Message.assistant("{}", channel="analysis", recipient="browser.search")
    assert call.stored().channel == "commentary"
    assert built_in.stored() is built_in


@pytest.mark.parametrize("recipient", ["functions.f", "python"])
def test_no_call_is_stored_on_final_and_no_answer_to_one_is(recipient: str) -> None:
    """A message on final ends the turn, and a tool message must not be there."""
    call = Message.assistant("{}", channel="final", recipient=recipient)
    assert call.stored() == Message.assistant("{}", channel="commentary", recipient=recipient)
    for asked in (call, call.stored()):
        assert asked.answer("3") == call.stored().answer("3")
    answer = Message.assistant("Yes.", channel="final")
    assert answer.stored() is answer


@pytest.mark.parametrize("recipient", ["all", *Role, "assistantcommentary", "user?"])
@pytest.mark.parametrize("channel", list(Channel))
def test_a_message_to_a_role_or_to_all_calls_nobody(recipient: str, channel: Channel) -> None:
    said = Message.assistant("Yes.", channel=channel, recipient=recipient)
    assert said.callee is None
    assert said.stored() == Message.assistant("Yes.", channel=channel)
    assert Message.assistant("{}", channel=channel, recipient=f"functions.{recipient}").callee is not None
    result = Message.tool("functions.f", "4")
    assert (result.callee, result.stored()) == (None, result)
