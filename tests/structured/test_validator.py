"""Checks of values: every violation is found and located, and neither schemas nor values can make a check long."""

from __future__ import annotations

import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.errors import SchemaError
from gptoss_mlx.structured.effort import Effort
from gptoss_mlx.structured.validator import Validator
from tests.structured.cases import SCHEMAS

VALUES: list[Any] = [None, True, 0, -1, 1.5, "", "a", "2024-02-29", [], [1, 2], {}, {"a": 1}, {"id": 1, "b": None}]


def problems(schema: Any, value: Any) -> list[str]:
    return Validator(schema).problems(value, len(repr(value)))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_values_are_valid_exactly_where_the_reference_says_so(schema: Any) -> None:
    reference = jsonschema.Draft202012Validator(schema)
    validator = Validator(schema)
    for value in VALUES:
        assert (validator.problems(value, 10) == []) == reference.is_valid(value)


def test_violations_are_named_with_their_place() -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}, "b": {"maximum": 3}}, "required": ["c"]}
    assert sorted(problems(schema, {"a": [1, "x"], "b": 4})) == [
        '"c" is a required property',
        'a[1]: "x" is not of type "integer"',
        "b: 4 is greater than the maximum of 3",
    ]


def test_messages_are_short_whatever_the_value_is() -> None:
    (message,) = problems({"type": "integer"}, "long\n" * 10_000)
    assert len(message) < 350
    assert "\n" not in message


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=a)(?:a|a)*$", "^(?:a|aa)+(?!a)b$", r"^(a|b)*\1c$"])
def test_no_pattern_takes_exponential_time(pattern: str) -> None:
    # Backtracking without a bound, none of these would end.
    assert problems({"pattern": pattern}, "a" * 50_000 + "!")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"pattern": "("}, r'at \$\.pattern: "\(" is not a "regex"'),
        ({"pattern": "(?:a{5000}){5000}"}, r"at \$\.pattern"),
        ({"pattern": "(" * 5000 + ")" * 5000}, r"at \$\.pattern"),
        ({"$ref": "https://example.org/a.json"}, r"nothing is fetched: put the target into \$defs"),
        ({"$ref": "file:///etc/passwd"}, r"nothing is fetched: put the target into \$defs"),
    ],
)
def test_what_cannot_be_checked_is_refused_when_it_is_declared(schema: Any, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        Validator(schema)


def _doubling(levels: int, target: str = "#/$defs/d{}", **fields: Any) -> dict[str, Any]:
    def reference(level: int) -> dict[str, Any]:
        return {"$ref": target.format(level)}

    parts: dict[str, Any] = {f"d{levels}": {"type": "integer"}}
    for level in reversed(range(levels)):
        parts[f"d{level}"] = {"allOf": [reference(level + 1), reference(level + 1)]}
    for name, part in parts.items():
        part.update({key: value.format(name) for key, value in fields.items()})
    return {"$defs": parts, **reference(0)}


@pytest.mark.parametrize(
    "schema",
    [
        _doubling(40),
        _doubling(40, "#d{}", **{"$anchor": "{}"}),
        _doubling(40, "d{}", **{"$id": "{}"}),
        _doubling(40, "#/%24defs/d{}"),
        {"$id": "https://a.org/", "properties": {"a": {"$id": "b", **_doubling(40)}}},
    ],
    ids=["pointers", "anchors", "identifiers", "percent-encoded", "embedded"],
)
def test_references_that_double_are_refused(schema: Any) -> None:
    with pytest.raises(SchemaError, match="apply too many schemas to one value; use fewer"):
        Validator(schema)


def test_references_that_double_a_little_are_checked() -> None:
    assert problems(_doubling(10), 1) == []
    assert problems(_doubling(10), "x")


def test_a_long_value_is_reported_by_its_first_violation() -> None:
    assert len(problems({"items": {"type": "integer"}}, ["x"] * 10)) == 5
    assert len(problems({"items": {"type": "integer"}}, ["x"] * 100_000)) == 1


def test_references_in_a_circle_end() -> None:
    for schema in ({"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"items": {"$ref": "#"}}):
        assert problems(schema, [[]]) == []
    chain = {f"d{level}": {"$ref": f"#/$defs/d{level + 1}"} for level in range(1000)}
    with pytest.raises(SchemaError, match="nested too deeply"):
        Validator({"$defs": {**chain, "d1000": {}}, "$ref": "#/$defs/d0"})


NODE = {"$ref": "#/$defs/node"}


def _variants(inner: Any) -> list[Any]:
    """Two variants for the same values, which differ in nothing that a value shows before it ends."""
    return [
        {"type": "object", "properties": {"a": inner}},
        {"title": "b", "type": "object", "properties": {"a": inner}},
    ]


def _circle(key: str) -> dict[str, Any]:
    return {"$defs": {"node": {key: [{"type": "integer"}, *_variants(NODE)]}}, **NODE}


def _levels(count: int) -> dict[str, Any]:
    parts: dict[str, Any] = {
        f"d{level}": {"anyOf": _variants({"$ref": f"#/$defs/d{level + 1}"})} for level in range(count)
    }
    return {"$defs": {**parts, f"d{count}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def _nested(depth: int, leaf: Any) -> Any:
    return {"a": _nested(depth - 1, leaf)} if depth else leaf


@pytest.mark.parametrize(
    "schema", [_circle("anyOf"), _circle("oneOf"), _levels(150)], ids=["anyOf", "oneOf", "levels"]
)
@pytest.mark.parametrize("depth", [3, 20, 150])
def test_variants_inside_variants_take_no_exponential_time(schema: dict[str, Any], depth: int) -> None:
    (problem,) = problems(schema, _nested(depth, "x"))
    assert re.search("not valid under any|too large to say where|too deeply nested to be checked", problem)


def test_a_deep_value_is_valid_all_the_same() -> None:
    assert problems(_circle("anyOf"), _nested(150, 1)) == []


def test_the_first_violation_of_a_large_value_is_found_without_variants() -> None:
    assert problems({"items": {"type": "integer"}}, ["x"] * 100_000) == ['[0]: "x" is not of type "integer"']
    (problem,) = problems({"items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, ["x"] * 100_000)
    assert "too large to say where" in problem


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner))
)
def test_the_effort_counts_each_schema_as_often_as_it_is_reached(value: Any) -> None:
    def reached(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        # The union and its two variants, each with a reference for every value inside.
        return 3 + sum(2 * (1 + reached(entry)) for entry in inner)

    variant = {"additionalProperties": {"$ref": "#"}, "items": {"$ref": "#"}}
    effort = Effort({"anyOf": [variant, {**variant}]})
    assert effort.of(value, 10**9) == reached(value)


@pytest.mark.parametrize("draft", ["draft-04", "draft-06", "draft-07"])
def test_older_drafts_are_read_by_their_own_rules(draft: str) -> None:
    schema = {"$schema": f"http://json-schema.org/{draft}/schema#", "items": [{"type": "integer"}]}
    assert problems(schema, ["x", "y"])
    assert problems(schema, [1, "y"]) == []


def test_an_unknown_draft_is_read_as_the_current_one() -> None:
    assert problems({"$schema": "https://example.org/mine", "type": "integer"}, "x")
