"""What is accepted as a schema: JSON schemas as data or text, OpenAI's wrappers, Python types."""

from __future__ import annotations

import enum
import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest

from gptoss_mlx.errors import SchemaError
from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.structured.schema import read_schema

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    "text", ["__import__('os').system('touch FILE')", "[open('FILE', 'w')]", "int", "", "{", "[]", "3"]
)
def test_text_is_json_or_refused_and_never_code(text: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for schema in (text.replace("FILE", str(touched)), text.replace("FILE", str(touched)).encode()):
        with pytest.raises(
            SchemaError, match=r"^schema is the (text|JSON) .*(give a JSON schema|an object is needed)"
        ):
            Constraint.from_schema(schema)
    assert not os.path.exists(touched)


def test_json_text_is_a_schema() -> None:
    schema = '{"type": "object", "properties": {"b": {"type": "null"}, "a": {}}}'
    for text in (schema, schema.encode()):
        assert list(read_schema(text).schema["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    "wrapped",
    [
        {"name": "place", "strict": True, "schema": CITY},
        {"name": "place", "description": "Where.", "schema": CITY},
        {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": CITY}},
        {"type": "json_schema", "name": "place", "schema": CITY, "strict": True},
    ],
)
def test_openai_response_formats_are_unwrapped(wrapped: Any) -> None:
    form = read_schema(wrapped)
    assert form.schema == CITY
    assert form.name == "place"
    constraint = Constraint.from_schema(wrapped)
    assert constraint.response_format is not None
    assert constraint.response_format.name == "place"
    with pytest.raises(ValueError, match="is not of type"):
        form.parse("3")


def test_a_property_named_schema_is_no_wrapper() -> None:
    schema = {"type": "object", "properties": {"schema": {"type": "object"}}, "required": ["schema"]}
    assert read_schema(schema).schema == schema


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properies": {}}, "'properies' is not a keyword"),
        ({"city": "string"}, "'city' is not a keyword"),
        ({"name": "x", "schema": "y"}, "'name' is not a keyword"),
        ({"title": "Place", "fields": []}, "'fields' is not a keyword"),
        ({"type": "json_schema"}, '"type" is "json_schema" without a schema; write'),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, '"type" is "json_schema" without a schema; write'),
    ],
)
def test_what_would_allow_anything_by_mistake_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        Constraint.from_schema(schema)


@pytest.mark.parametrize(
    "schema", [{}, {"title": "Any"}, {"type": "object", "x-order": 1, "note": ""}, {"x-note": ""}]
)
def test_what_allows_anything_on_purpose_is_accepted(schema: Any) -> None:
    assert read_schema(schema).schema == schema


class Unit(enum.Enum):
    C = "C"
    F = "F"


class Inner(TypedDict):
    when: int


class Outer(TypedDict, total=False):
    inner: Annotated[Inner, "note"]
    many: list[Inner] | None


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Path, '"/tmp"', Path("/tmp")),
        (bytes, '"ab"', b"ab"),
        (set[int], "[1, 2, 1]", {1, 2}),
        (frozenset[str], '["a"]', frozenset({"a"})),
        (dict[Unit, int], '{"C": 1}', {Unit.C: 1}),
        (dict[Literal["a", "b"], bool], '{"b": true}', {"b": True}),
        (Decimal, '"1.5"', Decimal("1.5")),
        (Outer, '{"inner": {"when": 1}, "many": [{"when": 2}]}', {"inner": {"when": 1}, "many": [{"when": 2}]}),
        (tuple[Inner, int], '[{"when": 1}, 2]', ({"when": 1}, 2)),
    ],
)
def test_types_beyond_the_engine_are_constrained_as_far_as_it_can(kind: Any, text: str, value: Any) -> None:
    constraint = Constraint.from_schema(kind)
    assert constraint.parse(text) == value


def test_secrets_stay_secret() -> None:
    secret = Constraint.from_schema(pydantic.SecretStr).parse('"abc"')
    assert secret.get_secret_value() == "abc"
    assert "abc" not in repr(secret)
