"""Keywords beyond the engine that are enforced all the same, because others say the same."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO

OBJECTS = [dict.fromkeys(names, 1) for count in range(4) for names in itertools.combinations("abc", count)]
VALUES: list[Any] = [*OBJECTS, {"a": None}, {"d": 1}, None, 1, "a", [], [None], [None, 1], [1, None]]

ABC: Any = {"type": "object", "properties": {name: {"type": ["integer", "null"]} for name in "abc"}}
CLOSED = {**ABC, "additionalProperties": False}
ONE = {"properties": {"a": {"const": 1}}, "required": ["a"]}
OTHER = {"properties": {"a": {"const": None}}, "required": ["a"]}

SCHEMAS: dict[str, Any] = {
    "unevaluated properties": {**ABC, "unevaluatedProperties": False},
    "unevaluated items": {"type": "array", "prefixItems": [{"type": "null"}], "unevaluatedItems": False},
    "names": {
        "type": "object",
        "propertyNames": {"enum": ["a", "c"]},
        "additionalProperties": {"type": "integer"},
    },
    "names by reference": {
        "propertyNames": {"$ref": "#/$defs/n"},
        "$defs": {"n": {"const": "b"}},
        "type": "object",
    },
    "not required": {**CLOSED, "not": {"required": ["a"]}},
    "not required together": {**CLOSED, "not": {"required": ["a", "b"]}},
    "none of them": {
        "not": {"anyOf": [{"required": ["a"]}, {"required": ["b", "c"]}]},
        "properties": ABC["properties"],
    },
    "dependent names": {**CLOSED, "dependentRequired": {"a": ["b"]}},
    "dependent schemas": {
        **ABC,
        "dependentSchemas": {"a": {"required": ["b", "c"]}, "b": {"properties": {"c": False}}},
    },
    "dependencies": {**ABC, "$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["c"]}},
    "one is required": {**CLOSED, "oneOf": [{"required": ["a"]}, {"required": ["b"]}, {"required": ["c"]}]},
    "one or two": {**CLOSED, "oneOf": [{"required": ["a"]}, {"required": ["b", "c"]}]},
    "one in another": {**CLOSED, "oneOf": [{"required": ["a"]}, {"required": ["a", "b"]}]},
    "objects without a type": {"oneOf": [ONE, OTHER]},
}


@pytest.fixture(scope="module")
def vocabulary() -> Tokenizer:
    return Tokenizer.from_directory(DEMO)


@pytest.mark.parametrize("name", SCHEMAS)
def test_exactly_the_valid_values_are_generated(name: str, vocabulary: Tokenizer) -> None:
    schema = SCHEMAS[name]
    valid = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema).is_valid
    constraint = Constraint.from_schema(schema)
    outcomes = set()
    for value in VALUES:
        matcher = constraint.matcher(vocabulary)
        generated = True
        for token in vocabulary.encode(json.dumps(value, separators=(",", ":"))):
            generated = generated and matcher.allows(token)
            if generated:
                matcher.advance(token)
        assert (generated and matcher.can_end) == valid(value), value
        outcomes.add(valid(value))
    assert outcomes == {True, False}
