"""JSON schema to TypeScript: openai-harmony's notation to the byte, except for comments of several lines."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gptoss_mlx.harmony import (
    Conversation,
    DeveloperContent,
    Message,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    builtin,
    render,
)
from gptoss_mlx.harmony.content import MAX_SCHEMA_DEPTH
from gptoss_mlx.harmony.typescript import compact_json, schema_to_typescript, tools_section
from tests.harmony.fixtures import oracle_render, random_schema, tokenizer


def conversation(*tools: ToolDescription, **fields: Any) -> Conversation:
    developer = DeveloperContent(tools=(ToolNamespace.functions(*tools),), **fields)
    return Conversation(messages=(Message.developer(developer),))


def same_as_oracle(schema: Any) -> bool:
    tool = conversation(ToolDescription(name="f", parameters={"type": "object", "properties": {"p": schema}}))
    return oracle_render(tool) == render(tool, tokenizer())


CASES: list[tuple[Any, str]] = [
    ({}, "any"),
    (True, "any"),
    ({"type": "integer"}, "number"),
    ({"type": "null"}, "any"),
    ({"type": ["integer", "null"]}, "number | null"),
    ({"type": []}, "any"),
    ({"type": "string", "enum": ["a", 1, "b", None]}, '"a" | "b"'),
    ({"type": "string", "enum": [1]}, "string"),
    ({"type": "number", "enum": [1, 2]}, "number"),
    ({"type": "array"}, "Array<any>"),
    ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "string[][]"),
    ({"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}, '"a" | "b"[]'),
    ({"anyOf": [{"type": "string"}]}, "any"),
    ({"$ref": "#/x"}, "any"),
    ({"type": "object"}, "{\n}"),
    ({"oneOf": [{"type": "string"}, {"type": "number", "nullable": True}]}, "\n | string\n | number | null"),
    (
        {"oneOf": [{"type": "string", "enum": ["a"], "default": "a", "description": "one"}]},
        '\n | "a" // one default: "a"',
    ),
    (
        {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}},
        "{\na?: {\n    b?: string,\n    },\n}",
    ),
    (
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "default": "x"}}},
        '{\na: string, // default: "x"\n}',
    ),
    (
        {"type": "object", "properties": {"a": {"default": {"b": [1, 1.5, None]}}}},
        '{\na?: any, // default: {"b":[1,1.5,null]}\n}',
    ),
]


@pytest.mark.parametrize(("schema", "typescript"), CASES)
def test_the_notation(schema: Any, typescript: str) -> None:
    assert schema_to_typescript(schema) == typescript
    assert same_as_oracle(schema)


@pytest.mark.parametrize(
    "number",
    [
        *[0.0, -0.0, 1.0, 1e-05, -1.25e-05, 9.99e-05, 1e-06, 1e15, 1e16, 1.5e16, 1e21, 12345678.125, 2.5e-300],
        *[2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**22],
    ],
)
def test_numbers_are_written_as_in_rust(number: float) -> None:
    assert same_as_oracle({"default": number})


def test_strings_in_json_are_escaped_as_in_rust() -> None:
    text = "".join(map(chr, range(1, 160))) + "\u2027\U0001f642"
    assert same_as_oracle({"default": [text], "type": "object"})
    assert compact_json('"\\\x1f\x7fä') == '"\\"\\\\\\u001f\x7fä"'


@pytest.mark.parametrize("seed", range(400))
def test_random_schemas_equal_the_oracle(seed: int) -> None:
    assert same_as_oracle(random_schema(random.Random(seed), depth=4))


def test_as_deep_as_the_oracle_reads() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(50):
        schema = {"type": "object", "properties": {"a": schema}}
    assert same_as_oracle(schema)


def test_the_deepest_schema_allowed_is_rendered() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_SCHEMA_DEPTH // 2 - 1):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = ToolDescription(name="f", parameters=schema)
    assert render(conversation(tool), tokenizer())


def test_functions_without_parameters_take_none() -> None:
    assert "type f = () => any;" in tools_section([ToolNamespace.functions(ToolDescription(name="f"))])
    tool = ToolDescription(name="f", parameters={})
    assert "type f = (_: any) => any;" in tools_section([ToolNamespace.functions(tool)])


def test_built_in_tools_say_what_the_oracle_says() -> None:
    for tools in [(builtin.browser(),), (builtin.python(),), (builtin.python(), builtin.browser())]:
        one = Conversation(messages=(Message.system(SystemContent(tools=tools)),))
        assert oracle_render(one) == render(one, tokenizer())


def test_response_formats_follow_the_specification() -> None:
    schema = {"properties": {"items": {"type": "array", "items": {"type": "string"}}}, "type": "object"}
    entry = ResponseFormat(name="shopping_list", description="What to buy\nand where", schema=schema)
    content = DeveloperContent(instructions="You help.", response_formats=(entry,))
    text = tokenizer().decode(render(Conversation(messages=(Message.developer(content),)), tokenizer(), None))
    assert text == (
        "<|start|>developer<|message|># Instructions\n\nYou help.\n\n# Response Formats\n\n## shopping_list\n\n"
        "// What to buy\n// and where\n"
        '{"properties":{"items":{"type":"array","items":{"type":"string"}}},"type":"object"}<|end|>'
    )


def test_a_response_format_without_a_description_has_no_comment() -> None:
    content = DeveloperContent(response_formats=(ResponseFormat(name="x", schema={"type": "object"}),))
    text = tokenizer().decode(render(Conversation(messages=(Message.developer(content),)), tokenizer(), None))
    assert text == ('<|start|>developer<|message|># Response Formats\n\n## x\n\n{"type":"object"}<|end|>')


def test_response_formats_survive_json_and_openai_harmony_ignores_them() -> None:
    entry = ResponseFormat(name="x", schema={"type": "object"})
    one = Conversation(messages=(Message.developer(DeveloperContent(response_formats=(entry,))),))
    assert Conversation.from_dict(one.to_dict()) == one
    assert tokenizer().decode(oracle_render(one, None)) == "<|start|>developer<|message|><|end|>"
