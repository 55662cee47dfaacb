"""Translation for the engine: only what it cannot enforce is refused, and before anything is generated."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from gptoss_mlx.errors import SchemaError
from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.structured.dialect import (
    FORMATS,
    MAX_HEIGHT,
    MAX_NAME_PATTERNS,
    MAX_OPTIONAL,
    MAX_PATTERNS,
    engine_schema,
)
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO


def generates(schema: Any, text: str) -> bool:
    tokenizer = Tokenizer.from_directory(DEMO)
    matcher = Constraint.from_schema(schema).matcher(tokenizer)
    for token in tokenizer.encode(text):
        if not matcher.allows(token):
            return False
        matcher.advance(token)
    return matcher.can_end


@pytest.mark.parametrize(
    "schema",
    [
        {"dependentRequired": {}},
        {"dependentRequired": {"a": []}},
        {"dependentSchemas": {"a": True}},
        {"propertyNames": {}},
        {"propertyNames": {"type": "string"}},
        {"type": "array", "maxItems": 2.0},
        {"type": "string", "minLength": 1.0, "maxLength": 1e300},
        {"type": "string", "pattern": r"^\p{L}+$"},
        {"type": "string", "uniqueItems": True},
        {"type": "integer", "format": "int32"},
        {"type": "array", "maxItems": 1, "uniqueItems": True},
        {"contains": {"type": "null"}, "minContains": 0},
        {"minContains": 3},
        {"not": False},
        {"if": {"type": "null"}},
        {"then": {"type": "null"}, "else": False},
        {"unevaluatedProperties": True},
        {"properties": {"a": {"$dynamicAnchor": "x"}}},
    ],
)
def test_keywords_that_forbid_nothing_pass(schema: Any) -> None:
    Constraint.from_schema(schema)


def test_equivalent_keywords_are_enforced() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "null"}}, "unevaluatedProperties": False}
    assert generates(closed, '{"a":null}')
    assert not generates(closed, '{"b":null}')
    names = {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}}
    assert generates(names, '{"b":null}')
    assert not generates(names, '{"c":null}')
    assert not generates(names, '{"b":1}')
    pair = {"type": "array", "prefixItems": [{"type": "null"}], "unevaluatedItems": False}
    assert generates(pair, "[null]")
    assert not generates(pair, "[null,1]")


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


TAGGED = {"a": _object(["kind"], kind={"const": "a"}), "b": _object(["kind"], kind={"enum": ["b", "c"]})}


@pytest.mark.parametrize(
    ("variants", "inside", "outside"),
    [
        ([{"type": "integer"}, {"type": "string"}], "3", "null"),
        ([{"const": 1}, {"enum": [2, "x"]}], '"x"', "3"),
        ([{"type": "integer", "enum": [1, 2]}, {"type": "string"}], "2", "3"),
        (list(TAGGED.values()), '{"kind":"c"}', '{"kind":"d"}'),
        ([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], '{"kind":"a"}', '{"kind":"d"}'),
        ([{"allOf": [TAGGED["a"]]}, {"anyOf": [TAGGED["b"], {"type": "null"}]}], "null", "3"),
        ([_object(["a"], a={}), {**_object([], b={}), "additionalProperties": False}], '{"b":1}', "3"),
        ([{"type": "null"}], "null", "3"),
    ],
)
def test_variants_of_one_of_that_exclude_each_other_are_enforced(variants: Any, inside: str, outside: str) -> None:
    schema = {"$defs": TAGGED, "oneOf": variants}
    assert generates(schema, inside)
    assert not generates(schema, outside)


@pytest.mark.parametrize(
    "variants",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"const": 1}, {"const": 1.0}],
        [{"const": "a"}, {"type": "string"}],
        [_object([], kind={"const": "a"}), _object([], kind={"const": "b"})],
        [_object(["a"], a={}), _object(["b"], b={})],
        [{"$ref": "#"}, {"$ref": "#"}],
        [{}, {"type": "null"}],
    ],
)
def test_variants_of_one_of_that_may_overlap_are_refused_with_a_remedy(variants: Any) -> None:
    with pytest.raises(SchemaError) as caught:
        Constraint.from_schema({"properties": {"a": {"oneOf": variants}}})
    assert "variants 0 and 1 of oneOf at $.properties.a may both match; write anyOf, or" in str(caught.value)
    Constraint.from_schema({"properties": {"a": {"anyOf": variants[:1]}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "a\x01"},
        {"enum": ["a", "b\x1f"]},
        {"enum": ["\x7f"]},
        {"const": {"\x00": [1]}},
        {"enum": [["\x0b"]]},
        {"properties": {"\x02": {}}},
        {"required": ["\x03"]},
    ],
)
def test_control_characters_are_refused_before_generation(schema: Any) -> None:
    with pytest.raises(SchemaError, match=r"at \$ has the control character .*; leave it out"):
        Constraint.from_schema(schema)


def test_characters_with_short_escapes_are_generated() -> None:
    assert generates({"const": "\b\f\n\r\t\x80\u2028"}, json.dumps("\b\f\n\r\t\x80\u2028", ensure_ascii=False))


def test_the_engine_enforces_exactly_these_formats() -> None:
    others = ("idn-email", "iri", "uri-reference", "json-pointer", "regex", "binary", "byte", "password", "path")
    for name in (*FORMATS, *others):
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps({"type": "string", "format": name}), overrides={"lenient": False}
        )
        refused, _ = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
        assert refused == (name not in FORMATS), name


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


def test_references_to_any_part_are_translated() -> None:
    one_of = {"oneOf": [{"type": "null"}, {"type": "integer"}], "maxItems": 2.0}
    schema = {"$ref": "#/components/a", "components": {"a": {"items": {"$ref": "#/components/b"}}, "b": one_of}}
    assert generates(schema, "[1,null]")
    with pytest.raises(SchemaError, match=r"the keyword not at \$\.components\.b"):
        Constraint.from_schema({"$ref": "#/components/b", "components": {"b": {"not": {}}}})


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
    return [_object(["k"], k=dict.fromkeys(fields, number), **_strings(2)) for number in range(count)]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (_object([f"p{number}" for number in range(5000)], **_strings(5000)), None),
        (_object([], **_strings(5000)), "properties that are not required; require them"),
        (
            _object(["x"], **_strings(400), x={"type": "integer", "minimum": 5, "maximum": 3}),
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


def test_many_optional_properties_are_generated_or_refused_before_generation() -> None:
    allowed = _object([], **_strings(MAX_OPTIONAL // 3))
    assert generates(allowed, '{"p7":"a","p900":"b","z":3}')
    with pytest.raises(
        SchemaError, match=f"more than {MAX_OPTIONAL} properties that are not required; require them"
    ):
        engine_schema(_object([], **_strings(MAX_OPTIONAL + 1)))
