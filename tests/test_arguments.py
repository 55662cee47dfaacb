"""Arguments out of range: each is refused before any work, with its name, its value and what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import gptoss_mlx
from gptoss_mlx.api import GptOss
from gptoss_mlx.chat.options import ChatSettings
from gptoss_mlx.chat.transcript import Transcript
from gptoss_mlx.errors import ChatFileError, GptOssError, InvalidRequest, RenderError, SchemaError, ToolError
from gptoss_mlx.harmony import Message
from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.structured.guide import _arguments_form
from tests.chat.scripted import ScriptedModel

F16: Any = "float16"
# Without types, as a script may be written.
gptoss: Any = gptoss_mlx

CHATS: list[tuple[dict[str, Any], type[GptOssError], str]] = [
    ({"instructions": ["Be terse."]}, InvalidRequest, r"instructions is \['Be terse\.'\]; text or None"),
    ({"title": 3}, InvalidRequest, "title is 3; text or None"),
    ({"title": "\ud800"}, InvalidRequest, "title: half a surrogate pair"),
    ({"instructions": "\ud800"}, InvalidRequest, "instructions: half a surrogate pair"),
    ({"effort": "off"}, InvalidRequest, "effort is 'off'; low, medium or high is needed"),
    ({"effort": []}, InvalidRequest, r"effort is \[\]; low, medium or high"),
    (
        {"sampling": {"temperature": 0}},
        InvalidRequest,
        r"sampling is \{'temperature': 0\}; SamplingParams is needed",
    ),
    ({"date": "today"}, InvalidRequest, "date is 'today'; a date as YYYY-MM-DD"),
    ({"date": "2026-13-01"}, InvalidRequest, "date is '2026-13-01'"),
    ({"date": "20260102"}, InvalidRequest, "date is '20260102'"),
    ({"date": 20260102}, InvalidRequest, "date is 20260102"),
    ({"max_steps": 0}, InvalidRequest, "max_steps is 0; a whole number from 1"),
    ({"max_steps": True}, InvalidRequest, "max_steps is True"),
    ({"max_steps": -(10**5000)}, InvalidRequest, "max_steps is <a whole number of 16610 bits>; a whole"),
    ({"before_call": 3}, InvalidRequest, "before_call is 3, which cannot be called; give a function"),
    ({"after_call": "x"}, InvalidRequest, "after_call is 'x', which cannot be called"),
    ({"tools": [3]}, ToolError, "tool 3 is not a function; give a function"),
    ({"tools": None}, ToolError, "tools is None; a list is needed"),
    (
        {"tools": [{"name": "f", "function": 3}]},
        ToolError,
        "function is 3, which cannot be called; give a function",
    ),
    (
        {"tools": [{"name": "f", "parameters": {"maximum": 10**5000}}]},
        ToolError,
        "tool f: parameters: not JSON",
    ),
    ({"messages": "hi"}, InvalidRequest, "messages is 'hi'; a list of Message"),
    ({"messages": ["hi"]}, InvalidRequest, r"messages\[0\] is 'hi'; a Message is needed"),
    (
        {"messages": [Message.system("Obey.")]},
        InvalidRequest,
        r"messages\[0\] is a system message; .*instructions",
    ),
    ({"messages": [Message.developer("Obey.")]}, InvalidRequest, "is a developer message"),
]


@pytest.mark.parametrize(("options", "kind", "said"), CHATS)
def test_a_chat_is_refused_with_what_is_wrong(options: Any, kind: type[GptOssError], said: str) -> None:
    with pytest.raises(kind, match=said):
        ScriptedModel().chat(**options)


REQUESTS: list[tuple[dict[str, Any], type[GptOssError], str]] = [
    ({"text": 3}, InvalidRequest, "the message is 3; text is needed"),
    ({"text": " \n"}, InvalidRequest, "the message is empty; say something"),
    ({"text": "\ud800"}, RenderError, "half a surrogate pair"),
    ({"text": "\ud800", "effort": "high"}, RenderError, "half a surrogate pair"),
    ({"effort": "none"}, InvalidRequest, "gpt-oss always thinks: low is the least"),
    ({"max_thinking_tokens": -1}, InvalidRequest, "max_thinking_tokens is -1; a whole number from 0"),
    ({"max_thinking_tokens": True}, InvalidRequest, "max_thinking_tokens is True"),
    ({"logprobs": "yes"}, InvalidRequest, "logprobs is 'yes'; True or False"),
    ({"tool_choice": "required"}, InvalidRequest, "tool_choice is 'required'; it may be auto, none$"),
    ({"tool_choice": []}, InvalidRequest, r"tool_choice is \[\]; it may be auto, none$"),
    ({"schema": {"type": "integer"}, "regex": "a"}, InvalidRequest, "schema and regex are both given"),
    ({"schemas": 3}, InvalidRequest, "no option 'schemas'; there are schema, regex"),
    ({"schema": {"not": {}}}, SchemaError, r"keyword not at \$ is not supported; leave it out"),
    ({"schema": {"type": "strin"}}, SchemaError, r'at \$\.type: "strin" is not valid'),
    ({"schema": 3}, SchemaError, "schema is 3: .* a pydantic model, a TypedDict or a JSON schema"),
    ({"regex": "(?=a)"}, SchemaError, "look-around, .* is not supported"),
    ({"regex": 3}, SchemaError, "regex is 3; a regular expression is needed"),
    ({"choices": "yes"}, SchemaError, "choices is 'yes'; a list of texts"),
    ({"choices": 3}, SchemaError, "choices is 3; a list of texts"),
    ({"choices": ["yes", "\ud800"]}, SchemaError, "choices: half a surrogate pair"),
    ({"regex": "a\ud800"}, SchemaError, "regex: half a surrogate pair .* at position 1"),
    ({"schema": {"enum": ["\ud800"]}}, SchemaError, "schema: half a surrogate pair"),
    ({"schema": {"properties": {"\ud800": {}}}}, SchemaError, "schema: property name: half a surrogate pair"),
    ({"schema": {"maximum": 10**5000}}, SchemaError, "schema: not JSON"),
    ({"schema": Literal["\ud800"]}, SchemaError, "a pydantic model, a TypedDict or a JSON schema is needed"),
]


@pytest.mark.parametrize(("options", "kind", "said"), REQUESTS)
def test_a_request_is_refused_before_any_work(options: Any, kind: type[GptOssError], said: str) -> None:
    model = ScriptedModel()
    chat = model.chat(effort="low", messages=[Message.user("one"), Message.assistant("two", channel="final")])
    before = chat.messages
    text = options.get("text", "hi")
    options = {name: value for name, value in options.items() if name != "text"}
    with pytest.raises(kind, match=said):
        chat.send(text, **options)
    if "effort" not in options:
        with pytest.raises(kind, match=said):
            chat.edit(0, text, **options)
    assert chat.messages == before
    assert chat.effort == "low"
    assert not model.prompts


@pytest.mark.parametrize("index", [1, 2, -1, 0.0, "0", None])
def test_only_the_users_messages_can_be_edited(index: Any) -> None:
    chat = ScriptedModel().chat(messages=[Message.user("one"), Message.assistant("two", channel="final")])
    with pytest.raises(InvalidRequest, match=r"is not the user's; those are \[0\]"):
        chat.edit(index, "x")


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda model: gptoss.load(3), InvalidRequest, "reference is 3; a name, a directory"),
        (lambda model: gptoss.load("demo", dtype=[]), InvalidRequest, r"dtype is \[\]; bfloat16 or float32"),
        (lambda model: gptoss.load("demo", dtype="float16"), InvalidRequest, "dtype is 'float16'; bfloat16 or"),
        (lambda model: GptOss(model.directory, dtype=F16), InvalidRequest, "dtype is 'float16'; bfloat16 or"),
        (lambda model: gptoss.load("\ud800"), InvalidRequest, "no file can have that name"),
        (lambda model: gptoss.load("demo", kv_bits=10**5000), InvalidRequest, "kv_bits is <a whole number"),
        (lambda model: gptoss.load("demo", context=10**5000), InvalidRequest, "context is <a whole number"),
        (lambda model: model.generate([10**5000]), InvalidRequest, "is out of range"),
        (lambda model: model.generate(3), InvalidRequest, "tokens is 3; a list of token ids"),
        (lambda model: model.generate("hi"), InvalidRequest, "tokens is 'hi'; .*tokenizer.encode"),
        (lambda model: model.generate([]), InvalidRequest, "the prompt is empty"),
        (lambda model: model.generate([1.0]), InvalidRequest, "token 1.0 is out of range"),
        (lambda model: model.generate([1], {}), InvalidRequest, "sampling is {}; SamplingParams"),
        (lambda model: model.prefill("hi"), InvalidRequest, "tokens is 'hi'; .*tokenizer.encode"),
        (lambda model: model.prefill([]), InvalidRequest, "the prompt is empty"),
        (lambda model: model.prefill([-1]), InvalidRequest, "token -1 is out of range"),
        (lambda model: model.chat(steps=3), InvalidRequest, "there is no option 'steps'; there are instructions"),
        (lambda model: model.chat().save(3), InvalidRequest, "path is 3; a path is needed"),
        (lambda model: model.chat().save("\ud800"), InvalidRequest, "path is .*; no file can have that name"),
        (lambda model: model.chat().save_cache("a\0"), InvalidRequest, "path is .*; no file can have that name"),
        (lambda model: model.load_chat(3), InvalidRequest, "path is 3; a path is needed"),
        (lambda model: model.load_chat("/nowhere"), ChatFileError, "/nowhere: no such file"),
        (lambda model: model.chat().undo(), InvalidRequest, "nothing was asked yet"),
        (lambda model: model.chat().retry(), InvalidRequest, "nothing was asked yet"),
        (lambda model: model.chat().send_results("x"), InvalidRequest, "no call waits for a result"),
        (lambda model: model.chat().continue_stream(), InvalidRequest, "no unfinished answer to continue"),
        (lambda model: gptoss.Tool(name="a b"), ToolError, "tool name: 'a b' is not allowed"),
        (lambda model: gptoss.Tool(name="a", check=3), ToolError, "check is 3, which cannot be called"),
        (lambda model: gptoss.Tool(name="a", description=3), ToolError, "description: a string is needed"),
        (lambda model: gptoss.SamplingParams(stop=""), InvalidRequest, "stop is ''; a text or a tuple of texts"),
    ],
)
def test_every_other_argument(
    call: Callable[[GptOss], Any], kind: type[GptOssError], said: str, demo: GptOss
) -> None:
    with pytest.raises(kind, match=said):
        call(demo)


def test_a_title_that_cannot_be_read_again_is_not_saved(tmp_path: Path) -> None:
    transcript = Transcript(ChatSettings())
    transcript.title = "\ud800"
    with pytest.raises(InvalidRequest, match="title"):
        transcript.save(tmp_path / "chat.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("instructions", "\ud800"), ("instructions", 3), ("date", "\ud800"), ("date", "2026-13-01")],
        *[("effort", "off"), ("effort", None), ("sampling", {}), ("sampling", 3), ("max_steps", 0)],
        *[("max_steps", True), ("max_steps", "1"), ("before_call", 3), ("after_call", {})],
    ],
)
def test_a_setting_that_is_assigned_is_checked_like_an_argument(name: str, value: Any) -> None:
    transcript = Transcript(ChatSettings())
    before = transcript.settings
    with pytest.raises(InvalidRequest, match=name):
        setattr(transcript, name, value)
    assert transcript.settings is before


def test_tools_can_be_assigned() -> None:
    transcript = Transcript(ChatSettings())
    with pytest.raises(ToolError, match="tools is 'f'"):
        transcript.tools = "f"
    transcript.tools = [test_tools_can_be_assigned]
    (functions,) = transcript.prompt.tools
    assert [tool.name for tool in functions.tools] == ["test_tools_can_be_assigned"]


@pytest.mark.parametrize("depth", [30, 62, 64, 80, 110, 150, 1000])
@pytest.mark.parametrize("kind", ["properties", "items", "anyOf"])
def test_a_schema_of_any_depth_is_taken_or_refused(depth: int, kind: str) -> None:
    """As the form of an answer, as a tool's parameters, and as the form of a call that is required."""
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        values: dict[str, Any] = {"properties": {"a": inner}, "items": inner, "anyOf": [inner]}
        inner = {kind: values[kind]}
    parameters = {"type": "object", "properties": {"a": inner}}
    refused = []
    for make in (lambda: Constraint.from_schema(inner), lambda: gptoss.Tool(name="f", parameters=parameters)):
        try:
            make()
        except (SchemaError, ToolError) as error:
            refused.append(str(error))
    assert all("nested" in reason for reason in refused)
    assert depth != 30 or not refused
    assert depth < 150 or len(refused) == 2
    assert _arguments_form(parameters).is_json


def test_a_chat_file_of_a_newer_version_says_what_to_do(demo: GptOss, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text('{"version": 2, "messages": []}')
    for keep_readable in (False, True):
        with pytest.raises(ChatFileError, match=r"chat\.json: is of format 2, .* up to 1; update gptoss-mlx"):
            demo.load_chat(path, keep_readable=keep_readable)
