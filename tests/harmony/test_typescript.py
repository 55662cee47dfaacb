"""JSON schema to TypeScript: openai-harmony's notation to the byte, except for comments of several lines."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tree_sitter
import tree_sitter_typescript

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
from gptoss_mlx.harmony.typescript import _Beyond, compact_json, schema_to_typescript, tools_section
from tests.harmony.fixtures import oracle_render, random_schema, tokenizer

TYPESCRIPT = tree_sitter.Parser(tree_sitter.Language(tree_sitter_typescript.language_typescript()))


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
    ({"type": ["integer", "null"]}, "number | null"),
    ({"type": []}, "any"),
    ({"type": "string", "enum": ["a", 1, "b", None]}, '"a" | "b"'),
    ({"type": "string", "enum": [1]}, "string"),
    ({"type": "number", "enum": [1, 2]}, "number"),
    ({"type": "array"}, "Array<any>"),
    ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "string[][]"),
    ({"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}, '"a" | "b"[]'),
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
    assert same_as_oracle(random_schema(random.Random(seed), depth=4, complete=True))


@pytest.mark.parametrize("seed", range(400))
def test_only_what_the_oracle_calls_any_is_replaced(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Beyond, "render", lambda self, schema, indent: ("any", []))
    assert same_as_oracle(random_schema(random.Random(seed), depth=4))


def parses_as_typescript(schema: Any) -> bool:
    text = tools_section([ToolNamespace.functions(ToolDescription(name="f", parameters=schema))])
    declaration = text[text.index("type f") :].rpartition("}")[0]
    return not TYPESCRIPT.parse(declaration.encode()).root_node.has_error


@pytest.mark.parametrize("seed", range(400))
def test_what_replaces_any_is_typescript(seed: int) -> None:
    schema = random_schema(random.Random(seed), depth=4)
    assert parses_as_typescript(
        {"anyOf": [schema, {"type": "array", "items": schema}], "definitions": {"x": schema}}
    )


BEYOND: list[tuple[Any, str]] = [
    ({"type": "null"}, "null"),
    ({"const": 'a"b'}, '"a\\"b"'),
    ({"enum": [1, 2.5, None, True, "x"]}, '1 | 2.5 | null | true | "x"'),
    ({"const": {"a": [1]}}, '{"a":[1]}'),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "number"),
    ({"$ref": "#/$defs/absent"}, "any"),
    ({"$ref": "https://example.org/x"}, "any"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
    ({"anyOf": [{"type": "string"}, {"type": "string", "format": "date"}]}, "string"),
    ({"anyOf": [{"type": ["string", "null"]}, {"enum": [1]}]}, "string | null | 1"),
    ({"anyOf": [{"type": "string"}, {}]}, "any"),
    ({"anyOf": []}, "any"),
    ({"allOf": [{"type": "string"}]}, "string"),
    ({"allOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"type": "number"}, {}]}, "(1 | 2) & number"),
    ({"anyOf": [{"type": "string"}], "nullable": True}, "string | null"),
    ({"items": {"anyOf": [{"type": "string"}, {"type": "number"}]}}, "Array<string | number>"),
    ({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "number"}]}}, "Array<string | number>"),
    ({"type": "array", "items": {"const": "a"}}, 'Array<"a">'),
    ({"prefixItems": [{"type": "string"}, {"type": "number"}], "items": False}, "[string, number]"),
    ({"prefixItems": [{"type": "string"}]}, "[string, ...any[]]"),
    ({"additionalProperties": {"type": "integer", "minimum": 0}}, "{\n[key: string]: number, // minimum: 0\n}"),
    ({"patternProperties": {"^x": {"type": "null"}}}, '{\n[key: string]: null, // names: "^x"\n}'),
    ({"anyOf": [{"type": "object", "additionalProperties": True}]}, "{\n[key: string]: any,\n}"),
    (
        {"anyOf": [{"type": "string", "description": "one"}, {"type": "null"}]},
        "\n | string // one\n | null\n",
    ),
    (
        {"properties": {"a b": {"type": "string", "enum": ["x"], "default": "x", "description": "D"}}},
        '{\n// D\n"a b"?: "x", // default: "x"\n}',
    ),
    (
        {"$ref": "#/$defs/t", "$defs": {"t": {"properties": {"next": {"$ref": "#/$defs/t"}}}}},
        "{\nnext?: any,\n}",
    ),
]


@pytest.mark.parametrize(("schema", "typescript"), BEYOND)
def test_the_notation_beyond_the_oracles(schema: Any, typescript: str) -> None:
    assert schema_to_typescript(schema) == typescript
    assert parses_as_typescript(schema)


def test_bounds_and_formats_are_comments_behind_the_default() -> None:
    days = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None}
    dates = {"type": "array", "items": {"$ref": "#/$defs/date"}}
    schema = {
        "type": "object",
        "properties": {"days": days, "dates": {"anyOf": [dates]}},
        "$defs": {"date": {"type": "string", "format": "date"}},
    }
    assert schema_to_typescript(schema) == (
        "{\ndays?: number | null, // default: null, minimum: 1\ndates?: string[], // items format: date\n}"
    )


def test_references_that_double_are_cut_off() -> None:
    def references(level: int) -> dict[str, Any]:
        return {"properties": {name: {"$ref": f"#/$defs/d{level}"} for name in "ab"}}

    parts = {f"d{level}": references(level + 1) for level in range(40)}
    assert len(schema_to_typescript({**references(0), "$defs": {**parts, "d40": {"const": "x" * 1000}}})) < 2**20


def test_deep_references_are_cut_off() -> None:
    def nested(level: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"$ref": f"#/$defs/d{level}"}
        for _ in range(MAX_SCHEMA_DEPTH // 2 - 2):
            schema = {"properties": {"a": schema}}
        return schema

    parts = {f"d{level}": nested(level + 1) for level in range(40)}
    assert "a?: any," in schema_to_typescript({"$ref": "#/$defs/d0", "$defs": parts})
    chain = {f"d{level}": {"$ref": f"#/$defs/d{level + 1}"} for level in range(5000)}
    assert schema_to_typescript({"$ref": "#/$defs/d0", "$defs": chain}) == "any"


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
