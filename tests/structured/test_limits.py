"""Limits of schemas: what would take the engine long or overflow its stack is refused before it is compiled."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss_mlx.errors import SchemaError
from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.structured.limits import MAX_HEIGHT, MAX_NAME_PATTERNS, MAX_OPTIONAL, MAX_PATTERNS, check_size
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO
from tests.structured.test_dialect import generates, object_of


def _chain(levels: int, part: str) -> dict[str, Any]:
    parts: dict[str, Any] = {f"d{levels}": {"type": "integer"}}
    for level in range(levels):
        reference = {"$ref": f"#/$defs/d{level + 1}"}
        value: Any = {"properties": {"a": reference}, "anyOf": [reference], "allOf": [reference]}.get(
            part, reference
        )
        parts[f"d{level}"] = reference if part == "$ref" else {part: value}
    return {"$defs": parts, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("part", ["properties", "items", "anyOf", "allOf", "$ref"])
def test_chains_of_references_do_not_overflow_the_engine(part: str) -> None:
    Constraint.from_schema(_chain(MAX_HEIGHT // 2 - 2, part))
    for levels in (MAX_HEIGHT + 1, 3000):
        with pytest.raises(SchemaError, match=r"schemas inside schemas.*make it flatter|nested too deeply"):
            Constraint.from_schema(_chain(levels, part))


def test_chains_of_anchors_do_not_overflow_the_engine() -> None:
    parts = {f"d{level}": {"$anchor": f"d{level}", "items": {"$ref": f"#d{level + 1}"}} for level in range(3000)}
    with pytest.raises(SchemaError, match=r"make it flatter"):
        Constraint.from_schema({"$defs": {**parts, "d3000": {"$anchor": "d3000"}}, "$ref": "#d0"})


@pytest.mark.parametrize("joined", ["allOf", "references"])
def test_many_patterns_are_refused_before_they_are_compiled(joined: str) -> None:
    def schema(count: int) -> dict[str, Any]:
        patterns: list[Any] = [{"pattern": f"[a-z]*{number}[a-z]*"} for number in range(count)]
        if joined == "allOf":
            return {"type": "string", "allOf": patterns}
        parts = {f"d{n}": {**part, "$ref": f"#/$defs/d{n + 1}"} for n, part in enumerate(patterns)}
        return {"$defs": {**parts, f"d{count}": {"type": "string"}}, "$ref": "#/$defs/d0"}

    Constraint.from_schema(schema(4))
    with pytest.raises(SchemaError, match=f"more than {MAX_PATTERNS} patterns for one string; combine them"):
        Constraint.from_schema(schema(60))


def test_many_patterns_of_names_are_refused_before_they_are_compared() -> None:
    def schema(count: int) -> dict[str, Any]:
        return {"patternProperties": {f"^a{number}$": {} for number in range(count)}}

    Constraint.from_schema(schema(10))
    with pytest.raises(SchemaError, match=f"more than {MAX_NAME_PATTERNS} patternProperties; combine them"):
        Constraint.from_schema(schema(400))


def _strings(count: int) -> dict[str, Any]:
    return {f"p{number}": {"type": "string"} for number in range(count)}


def _numbered(count: int, **fields: Any) -> list[Any]:
    return [object_of(["k"], k=dict.fromkeys(fields, number), **_strings(2)) for number in range(count)]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (object_of([f"p{number}" for number in range(5000)], **_strings(5000)), None),
        (object_of([], **_strings(5000)), "properties that are not required; require them"),
        (
            object_of(["x"], **_strings(400), x={"type": "integer", "minimum": 5, "maximum": 3}),
            r"at \$.*; correct it",
        ),
        ({"anyOf": _numbered(2000, const=...)}, None),
        ({"oneOf": _numbered(2000, const=...)}, None),
        ({"oneOf": _numbered(2000, maximum=...)}, "may both match"),
        ({"enum": [f"v{number}" for number in range(50_000)]}, None),
    ],
    ids=["required", "optional", "refused by the engine", "anyOf", "tagged oneOf", "oneOf", "enum"],
)
def test_a_large_schema_ends_either_way(schema: Any, says: str | None) -> None:
    # Searching part by part or pair by pair, these took minutes.
    if says is None:
        Constraint.from_schema(schema).matcher(Tokenizer.from_directory(DEMO)).mask()
    else:
        with pytest.raises(SchemaError, match=says):
            Constraint.from_schema(schema)


def _texts(count: int) -> list[str]:
    """Texts of 24 characters that share no beginning."""
    return [f"{number * 0x9E3779B97F4A7C15F39CC060 % 2**96:024x}" for number in range(count)]


def test_many_choices_end_either_way() -> None:
    # As a rule of alternatives, 50,000 took three seconds and 100,000 fifteen.
    choices = _texts(50_000)
    matcher = Constraint.from_choices(choices).matcher(Tokenizer.from_directory(DEMO))
    for token in Tokenizer.from_directory(DEMO).encode(choices[7]):
        matcher.advance(token)
    assert matcher.can_end
    with pytest.raises(SchemaError, match=r"choices cannot be used: .* too big .*; use fewer or shorter ones"):
        Constraint.from_choices(_texts(200_000))


def test_many_optional_properties_are_generated_or_refused_before_generation() -> None:
    allowed = object_of([], **_strings(MAX_OPTIONAL // 3))
    assert generates(allowed, '{"p7":"a","p900":"b","z":3}')
    with pytest.raises(
        SchemaError, match=f"more than {MAX_OPTIONAL} properties that are not required; require them"
    ):
        check_size(object_of([], **_strings(MAX_OPTIONAL + 1)))
