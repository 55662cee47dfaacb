"""Whether schemas exclude each other: a yes is never wrong."""

from __future__ import annotations

import itertools
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from gptoss_mlx.structured.disjoint import overlap

SCALARS: list[Any] = [None, True, 0, 1, 1.5, "a", "b", [], [1]]
OBJECTS: list[Any] = [dict(zip("kx", pair, strict=True)) for pair in itertools.product(["a", "b", 1], repeat=2)]
VALUES = [*SCALARS, {}, *OBJECTS, *({"k": value} for value in SCALARS), {"x": 1}, {"k": "a", "x": 1, "y": 2}]

_K: Any = {"properties": {"k": {"const": "a"}}, "required": ["k"]}
DEFINITIONS: dict[str, Any] = {
    "a": {"type": "object", **_K},
    "open": {"properties": {"x": {}}},
    "closed": {"type": "object", "properties": {"x": {}}, "additionalProperties": False},
    "integer": {"type": "integer"},
}
PARTS: list[Any] = [
    *({"$ref": f"#/$defs/{name}"} for name in DEFINITIONS),
    *DEFINITIONS.values(),
    {"$ref": "#/$defs/open", "type": "object", "properties": {"k": {}}, "additionalProperties": False},
    {"$ref": "#/$defs/closed", "required": ["x"]},
    {"$ref": "#/$defs/integer", "type": "string"},
    {"type": "object", "properties": {"k": {"enum": ["b", 1]}}},
    {"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k", "x"]},
    {"type": "object", "required": ["k"], "additionalProperties": False, "patternProperties": {"k": {}}},
    {"type": ["object", "null"], **_K},
    {"allOf": [{"type": "object"}, _K]},
    {"anyOf": [{"const": 1}, {"const": "a"}]},
    {"const": 1.0},
    {"enum": [0, "a", None]},
    {"enum": [1, "x"], "type": "string"},
    {"type": ["number", "boolean"]},
    {"not": {}},
    {},
    True,
    False,
]


@pytest.mark.parametrize(
    "draft", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_no_value_matches_two_schemas_that_exclude_each_other(draft: str) -> None:
    root = {"$schema": draft, "$defs": DEFINITIONS}
    kind = jsonschema.validators.validator_for(root)
    decided = 0
    for one, other in itertools.combinations(PARTS, 2):
        if overlap(root, [one, other]) is None:
            decided += 1
            both = kind({**root, "allOf": [one, other]})
            assert not [value for value in VALUES if both.is_valid(value)], (one, other)
    assert decided > 100


def test_the_first_pair_that_may_overlap_is_named() -> None:
    variants = [{"type": "null"}, {"type": "string"}, {"type": "integer"}, {"const": "a"}]
    assert overlap({}, variants) == (1, 3)
    assert overlap({}, variants[:3]) is None


def test_references_in_a_circle_are_undecided() -> None:
    circle = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    assert overlap(circle, [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]) == (0, 1)
    tree = {"$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}, "required": ["t"]}}}
    assert overlap(tree, [{"$ref": "#/$defs/t"}, {"$ref": "#/$defs/t"}]) == (0, 1)
