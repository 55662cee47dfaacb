"""Translation for the engine: only what it cannot enforce is refused, and before anything is generated."""

from __future__ import annotations

import json
import re
from typing import Any

import llguidance
import pytest

from gptoss_mlx.errors import OutputError, SchemaError
from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.structured.keywords import ENGINE_FORMATS
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
        {"type": "string", "format": "phone"},
        {"type": "string", "format": "uri-reference"},
        {"type": ["string", "null"], "pattern": "^/a", "format": "json-pointer"},
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


def object_of(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


TAGGED = {"a": object_of(["kind"], kind={"const": "a"}), "b": object_of(["kind"], kind={"enum": ["b", "c"]})}


@pytest.mark.parametrize(
    ("variants", "inside", "outside"),
    [
        ([{"type": "integer"}, {"type": "string"}], "3", "null"),
        ([{"const": 1}, {"enum": [2, "x"]}], '"x"', "3"),
        ([{"type": "integer", "enum": [1, 2]}, {"type": "string"}], "2", "3"),
        (list(TAGGED.values()), '{"kind":"c"}', '{"kind":"d"}'),
        ([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], '{"kind":"a"}', '{"kind":"d"}'),
        ([{"allOf": [TAGGED["a"]]}, {"anyOf": [TAGGED["b"], {"type": "null"}]}], "null", "3"),
        ([object_of(["a"], a={}), {**object_of([], b={}), "additionalProperties": False}], '{"b":1}', "3"),
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
        [object_of([], kind={"const": "a"}), object_of([], kind={"const": "b"})],
        [object_of(["a"], a={}), object_of(["b"], b={})],
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
    for name in (*ENGINE_FORMATS, *others):
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps({"type": "string", "format": name}), overrides={"lenient": False}
        )
        refused, _ = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
        assert refused == (name not in ENGINE_FORMATS), name


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("uri-reference", "../a?b#c", "a b"),
        ("uri-template", "/{a}", "/{a"),
        ("iri", "https://ü.org/", "//"),
        ("idn-email", "ü@example.org", "ü"),
        ("idn-hostname", "bücher.example", "-a"),
        ("regex", "^(a|b)*$", "("),
        ("json-pointer", "/a~1b/0", "a"),
        ("relative-json-pointer", "1/a", "/a"),
    ],
)
def test_a_format_that_json_schema_defines_is_checked_in_the_answer(name: str, right: str, wrong: str) -> None:
    constraint = Constraint.from_schema({"type": "string", "format": name})
    assert constraint.parse(json.dumps(right)) == right
    with pytest.raises(OutputError, match=f'is not a "{name}"'):
        constraint.parse(json.dumps(wrong))


def test_a_format_that_nobody_defines_restricts_nothing() -> None:
    schema = {"properties": {"a": {"type": "string", "format": "datetime", "minLength": 2}}, "required": ["a"]}
    assert generates(schema, '{"a":"any"}')
    assert not generates(schema, '{"a":"x"}')
    assert Constraint.from_schema(schema).parse('{"a":"any"}') == {"a": "any"}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("json-pointer", ["", "/a~1b/0"], ["a", "/~2"]), ("relative-json-pointer", ["1#", "0/a"], ["01", "#"])],
)
def test_pointers_are_enforced(name: str, right: list[str], wrong: list[str]) -> None:
    schema = {"type": "string", "format": name}
    assert all(generates(schema, json.dumps(text)) for text in right)
    assert not any(generates(schema, json.dumps(text)) for text in wrong)


def test_references_to_any_part_are_translated() -> None:
    one_of = {"oneOf": [{"type": "null"}, {"type": "integer"}], "maxItems": 2.0}
    schema = {"$ref": "#/components/a", "components": {"a": {"items": {"$ref": "#/components/b"}}, "b": one_of}}
    assert generates(schema, "[1,null]")
    with pytest.raises(SchemaError, match=r"the keyword not at \$\.components\.b"):
        Constraint.from_schema({"$ref": "#/components/b", "components": {"b": {"not": {}}}})


@pytest.mark.parametrize(
    "pattern",
    [
        r'^[^"]+$',
        r"^[^\\]+$",
        r'^[^"\\\n]*$',
        r"^[^]]+$",
        r"^\[[^\\]$",
        r"^[^\s\"]+$",
        r"^a[^a-z]b$",
        r"^[\w^]+$",
        r"^[^a][^\\]$",
    ],
)
def test_negated_classes_exclude_escaped_characters(pattern: str) -> None:
    for text in ("ab", 'a"b', "a\\b", "a\nb", "a\tb", "]", "[a", "[\\", '"', "\\", "é", "a^b", "b\\", "bé"):
        expected = re.search(pattern, text, re.ASCII) is not None
        assert generates({"type": "string", "pattern": pattern}, json.dumps(text, ensure_ascii=False)) == expected
        named = {"type": "object", "patternProperties": {pattern: {}}, "additionalProperties": False}
        assert generates(named, json.dumps({text: 1}, ensure_ascii=False, separators=(",", ":"))) == expected
