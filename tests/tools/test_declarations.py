"""What programs declare as tools: functions, types, and the dicts of other libraries.

``declarations.json`` holds one function as langchain-core, openai-agents, pydantic-ai, openai and mcp declare it,
with their versions.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest
import tree_sitter
import tree_sitter_typescript

from gptoss_mlx.errors import InvalidRequest, ToolError
from gptoss_mlx.harmony.typescript import tools_section
from gptoss_mlx.structured.guide import GuidePlan
from gptoss_mlx.tools.toolbox import Tool, ToolBox, as_tool

DECLARATIONS: dict[str, Any] = json.loads(Path(__file__).with_name("declarations.json").read_text())
TYPESCRIPT = tree_sitter.Parser(tree_sitter.Language(tree_sitter_typescript.language_typescript()))


class Unit(enum.StrEnum):
    C = "C"
    F = "F"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Place(pydantic.BaseModel):
    """A place."""

    city: str = pydantic.Field(description="In English")
    country: str | None = None


class Stop(pydantic.BaseModel):
    place: Place
    nights: int = pydantic.Field(1, ge=1, le=30)
    tags: list[Literal["food", "sea"]] = []


def plan_trip(
    destination: Place,
    unit: Unit = Unit.C,
    level: Level | None = None,
    stops: list[Stop] = [],  # noqa: B006 - as in the other libraries
    start: datetime.date | None = None,
    budget: int | float | None = None,
    notes: str | list[str] = "",
    limits: dict[str, int] = {},  # noqa: B006
    mode: Literal["car", "train"] = "train",
    children: Annotated[int | None, pydantic.Field(ge=0, description="How many children travel.")] = None,
) -> str:
    """Plans a trip.

    Args:
        destination: Where it ends.
        unit: Of temperatures.
        level: Of comfort.
        stops: On the way.
        start: The first day.
        budget: In euros.
        notes: Wishes.
        limits: By category.
        mode: Of transport.
    """
    return f"{destination.city} {unit.value}"


def text_of(*tools: Any) -> str:
    return tools_section(ToolBox(tools).namespaces())


TYPES = {
    "unit": '"C" | "F"',
    "level": "1 | 2 | null",
    "country": "string | null",
    "nights": "number",
    "start": "string | null",
    "budget": "number | null",
    "notes": "string | string[]",
    "mode": '"car" | "train"',
    "children": "number | null",
}


@pytest.mark.parametrize("library", [*DECLARATIONS, "this one"])
def test_a_function_reads_the_same_whoever_declares_it(library: str) -> None:
    text = text_of(plan_trip if library == "this one" else DECLARATIONS[library]["tool"])
    assert re.findall(r"\bany\b.*", text) == ["any;"]
    for name, kind in TYPES.items():
        assert re.search(rf"\b{name}\??: {re.escape(kind)},", text), name
    assert re.search(r"start\??: .* format: date\n", text)
    assert re.search(r"children\??: .* minimum: 0\n", text)
    declaration = text[text.index("type plan_trip") :].rpartition("}")[0]
    assert not TYPESCRIPT.parse(declaration.encode()).root_node.has_error


def test_arguments_are_checked_the_same_whoever_declares_the_function() -> None:
    valid = {"destination": {"city": "Oslo"}, "unit": "F", "stops": [{"place": {"city": "Bonn"}, "nights": 2}]}
    wrong: list[dict[str, Any]] = [{}, {**valid, "unit": "K"}, {**valid, "children": -1}, {**valid, "stops": [{}]}]
    boxes = [ToolBox([plan_trip])]
    boxes += [ToolBox([entry["tool"]]) for name, entry in DECLARATIONS.items() if name != "openai"]
    for box in boxes:
        box._checked("functions.plan_trip", json.dumps(valid))
        for arguments in wrong:
            with pytest.raises(ToolError):
                box._checked("functions.plan_trip", json.dumps(arguments))


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    "declared",
    [
        {"type": "function", "function": {"name": "f", "description": "F.", "parameters": SCHEMA, "strict": True}},
        {"function": {"name": "f", "description": "F.", "parameters": SCHEMA}},
        {"type": "function", "name": "f", "description": "F.", "parameters": SCHEMA, "strict": False},
        {"name": "f", "description": "F.", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
        {"name": "f", "description": "F.", "inputSchema": SCHEMA, "annotations": None, "_meta": {}, "new": 1},
        Tool(name="f", description="F.", parameters=SCHEMA),
    ],
    ids=["OpenAI nested", "without type", "OpenAI flat", "Anthropic", "MCP", "Tool"],
)
def test_every_notation_declares_the_same(declared: Any) -> None:
    tool = as_tool(declared)
    assert (tool.name, tool.description, tool.parameters) == ("f", "F.", SCHEMA)
    assert ToolBox([tool]).leaves("functions.f", '{"n": 1}')
    assert not ToolBox([tool]).leaves("functions.f", '{"n": "x"}')


def test_the_objects_of_mcp_are_tools() -> None:
    class McpTool(pydantic.BaseModel):
        name: str
        description: str | None = None
        inputSchema: dict[str, Any]  # noqa: N815 - MCP's name
        annotations: dict[str, Any] | None = None

    assert as_tool(McpTool(name="f", inputSchema=SCHEMA)).parameters == SCHEMA


class Movie(TypedDict):
    """A movie.

    Attributes:
        title: in English.
    """

    title: str
    seen: datetime.date | None


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Tree(pydantic.BaseModel):
    """A tree."""

    children: list[Tree] = []


@pytest.mark.parametrize(
    ("kind", "description", "expected", "arguments"),
    [
        (Place, "A place.", "// In English\ncity: string,\ncountry?: string | null", '{"city": "Oslo"}'),
        (Movie, "A movie.", "// in English.\ntitle: string,\nseen: string | null", '{"title": "M", "seen": null}'),
        (Point, "", "x: number,\ny?: number, // default: 0.0", '{"x": 1.5}'),
        (Tree, "A tree.", "children?: any[], // default: []", '{"children": [{"children": []}]}'),
    ],
)
def test_types_declare_tools_whose_calls_the_caller_answers(
    kind: type, description: str, expected: str, arguments: str
) -> None:
    tool = as_tool(kind)
    assert (tool.name, tool.description, tool.function) == (kind.__name__, description, None)
    assert expected in text_of(kind)
    box = ToolBox([kind])
    assert box.leaves(f"functions.{kind.__name__}", arguments)
    assert not box.leaves(f"functions.{kind.__name__}", '{"children": 3, "x": "y"}')


def test_typed_dicts_are_parameters() -> None:
    def watch(movies: list[Movie], first: Annotated[Movie | None, "of them"] = None) -> str:
        return movies[0]["title"]

    assert ToolBox([watch]).call("functions.watch", '{"movies": [{"title": "M", "seen": null}]}').output == "M"
    assert ToolBox([watch]).call("functions.watch", '{"movies": [{"title": 3}]}').error


def test_partials_take_the_arguments_that_are_left() -> None:
    def add(a: int, b: int, c: int = 0) -> int:
        """Adds.

        Args:
            c: more
        """
        return a + b + c

    tool = as_tool(functools.partial(functools.partial(add, 1), b=2))
    assert (tool.name, tool.description) == ("add", "Adds.")
    assert "// more\nc?: number, // default: 0\n})" in text_of(tool)
    box = ToolBox([tool])
    assert box.call("functions.add", '{"c": 3}').output == "6"
    assert box.call("functions.add", '{"b": 3}').error


NAMES = {
    "files/read me": "files_read_me",
    "files read/me": "files_read_me_2",
    "files_read_me_2": "files_read_me_2",
    "天気": "_",
    "x" * 70: "x" * 64,
    "x" * 71: "x" * 62 + "_2",
    "a.b-c_d": "a.b-c_d",
}


def test_names_that_harmony_does_not_allow_are_changed_and_found_again() -> None:
    box = ToolBox([{"name": name, "inputSchema": SCHEMA} for name in NAMES])
    made = [name.removeprefix("functions.") for name in box.schemas]
    assert len(made) == len(NAMES)
    assert made == [NAMES[name] if name != "files read/me" else "files_read_me_3" for name in NAMES]
    for declared, name in zip(NAMES, made, strict=True):
        assert box.leaves(f"functions.{name}", '{"n": 1}')
        tool = box.declared(f"functions.{name}")
        assert tool is not None
        assert tool.declared_name == declared


def test_a_namespace_declares_its_tools_under_its_name() -> None:
    search = {"type": "function", "name": "search", "parameters": {"type": "object"}}
    pages = {"type": "namespace", "name": "pages", "description": "Finds pages.", "tools": [search]}
    box = ToolBox([search, pages])
    assert box.names == {"functions.search", "pages.search"}
    assert box.leaves("pages.search", "{}")
    first, second = box.namespaces()
    assert (first.name, second.name, second.description) == ("functions", "pages", "Finds pages.")
    with pytest.raises(ToolError, match="a namespace has a name and a list of tools"):
        ToolBox([{"type": "namespace", "name": "pages"}])


def test_an_odd_tool_of_a_server_does_not_fail_the_others(caplog: pytest.LogCaptureFixture) -> None:
    odd: list[Any] = [
        {"type": "object", "properties": {"a": {"type": "strin"}}},
        {"$ref": "https://example.org/schema.json"},
        {"type": "object", "properties": {"a": {"pattern": "("}}},
        {"type": "array"},
        "object",
    ]
    with caplog.at_level(logging.WARNING, "gptoss_mlx"):
        tools: list[Any] = [{"name": f"odd{n}", "inputSchema": schema} for n, schema in enumerate(odd)]
        tools += [
            {"name": f"text{n}", "description": text, "inputSchema": SCHEMA}
            for n, text in enumerate([3, "\ud800"])
        ]
        box = ToolBox([*tools, plan_trip])
    assert len(caplog.records) == len(tools)
    assert "tool odd0: parameters: at $.properties.a.type" in caplog.text
    assert box.leaves("functions.odd0", '{"a": 1}')
    assert "type odd3 = (_: {\n}) => any;" in text_of(*box._tools.values())


def test_schemas_without_properties_of_their_own_reach_the_model() -> None:
    for schema, expected in [
        ({"$ref": "#/$defs/a", "$defs": {"a": SCHEMA}}, "(_: {\nn: number,\n}) => any"),
        (
            {"anyOf": [SCHEMA, {"type": "object", "additionalProperties": False}]},
            "(_: {\nn: number,\n} | {\n}) =>",
        ),
        ({"type": "object"}, "f = () => any"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, "f = () => any"),
        (None, "f = () => any"),
    ]:
        assert expected in text_of({"name": "f", "parameters": schema})


@pytest.mark.parametrize("choice", ["f", "functions.f"])
def test_tool_choice_takes_the_name_of_a_call(choice: str) -> None:
    tools = ToolBox([{"name": "f", "parameters": SCHEMA}]).schemas
    plan = GuidePlan(tool_choice=choice, tools=tools)
    assert plan.called == ("functions.f",)
    for wrong in ("functions.g", "functions.", "function.f", "functions.functions.f"):
        with pytest.raises(InvalidRequest, match=r"it may be auto, none, required, functions\.f"):
            GuidePlan(tool_choice=wrong, tools=tools)


def test_schemas_given_as_text_are_refused() -> None:
    with pytest.raises(ToolError, match='a JSON schema with "type": "object" is needed'):
        as_tool({"name": "f", "parameters": "__import__('os').abort()"})
