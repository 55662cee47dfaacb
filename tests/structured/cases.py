"""A hundred satisfiable and supported schemas of the kinds in JSON-Schema-Test-Suite."""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMAS"]


def _object(**properties: Any) -> dict[str, Any]:
    """An object with these properties, all required, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_SHORT = {"type": "string", "maxLength": 12}

_NUMBERS: list[Any] = [
    {"type": "integer", "minimum": 0, "maximum": 9},
    {"type": "integer", "minimum": -20, "maximum": -5},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "minimum": -128, "maximum": 127},
    {"type": "integer", "minimum": 99, "maximum": 1001},
    {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 999},
    {"type": "integer", "multipleOf": 10, "minimum": 0, "maximum": 10_000},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "minimum": -1.5, "maximum": 2.25},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    {"type": "number", "minimum": 1.1, "exclusiveMaximum": 1.3},
    {"type": "number", "minimum": -90, "maximum": 90},
    {"enum": [1, 2.5, -3]},
    {"const": 42},
    {"type": ["integer", "null"], "minimum": 1, "maximum": 12},
]

_STRINGS: list[Any] = [
    {"type": "string", "maxLength": 3},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "minLength": 4, "maxLength": 4},
    {"type": "string", "maxLength": 0},
    {"type": "string", "pattern": "^[a-z]{1,8}$"},
    {"type": "string", "pattern": "^(red|green|blue)$"},
    {"type": "string", "pattern": "^[0-9]{3}-[0-9]{4}$"},
    {"type": "string", "pattern": "^\\S{1,6}$"},
    {"type": "string", "pattern": "^[A-Z][a-z]+( [A-Z][a-z]+){0,2}$", "maxLength": 30},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"enum": ["a", "b", "c"]},
    {"enum": ["naïve", "漢字", "👋🏾", 'a "quoted" word', "back\\slash", "line\nbreak"]},
    {"const": "<|end|>"},
    {"enum": ["", " ", "  "]},
    {"type": "string", "enum": ["one", "one more"]},
    {"type": ["string", "null"], "maxLength": 6},
]

_PLAIN: list[Any] = [
    {"type": "null"},
    {"type": "boolean"},
    {"const": None},
    {"const": False},
    {"enum": [True, None, "x", 3]},
    {"const": {"a": [1, {"b": None}]}},
    {"enum": [[], {}, [1, 2], {"a": 1}]},
    {"type": ["boolean", "null"]},
]

_ARRAYS: list[Any] = [
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 4},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 5},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 3, "maxItems": 6},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [{"type": "integer", "minimum": 0, "maximum": 5}, _SHORT], "items": False},
    {
        "type": "array",
        "prefixItems": [{"const": "head"}, {"type": "boolean"}],
        "items": {"type": "null"},
        "minItems": 2,
        "maxItems": 4,
    },
    {"type": "array", "items": {"type": "array", "items": {"type": "null"}, "maxItems": 2}, "maxItems": 3},
    {"type": "array", "items": _object(a={"type": "boolean"}), "minItems": 1, "maxItems": 3},
    {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}, "maxItems": 4},
    {"type": "array", "items": _SHORT, "minItems": 1, "maxItems": 2, "uniqueItems": False},
    {"type": ["array", "null"], "items": {"const": 1}, "maxItems": 3},
]

_OBJECTS: list[Any] = [
    _object(a={"type": "boolean"}),
    _object(name=_SHORT, age={"type": "integer", "minimum": 0, "maximum": 150}),
    _object(),
    _object(a=_object(b=_object(c=_object(d={"type": "null"})))),
    {**_object(a={"type": "boolean"}, b={"type": "null"}), "required": []},
    {**_object(a={"type": "boolean"}, b={"type": "null"}, c={"const": 1}), "required": ["b"]},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 0},
    {"type": "object", "additionalProperties": False},
    {
        "type": "object",
        "patternProperties": {"^x[0-9]$": {"type": "null"}},
        "additionalProperties": False,
        "maxProperties": 1,
    },
    _object(**{"a b": {"type": "null"}, "ä": {"type": "boolean"}, "": {"const": 0}, '"': {"const": 1}}),
    _object(**{"$ref": {"type": "null"}, "type": {"const": "object"}, "properties": {"type": "boolean"}}),
    _object(
        list={
            "type": "array",
            "items": _object(id={"type": "integer", "minimum": 1, "maximum": 99}),
            "maxItems": 2,
        }
    ),
    _object(unit={"enum": ["C", "F"]}, degrees={"type": "number", "minimum": -90, "maximum": 60}),
    _object(when={"type": "string", "format": "date"}, at={"type": "string", "format": "time"}),
    _object(
        sure={"type": "boolean", "description": "whether", "default": True, "title": "Sure", "examples": [True]}
    ),
    _object(unknown={"type": "boolean", "x-note": "an annotation", "deprecated": True}),
]

_COMBINED: list[Any] = [
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    {"anyOf": [_object(a={"const": 1}), _object(b={"const": 2})]},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    {
        "oneOf": [
            _object(kind={"const": "a"}, x={"type": "null"}),
            _object(kind={"const": "b"}, y={"type": "boolean"}),
        ]
    },
    {"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]},
    {"allOf": [{"type": "string", "maxLength": 4}, {"type": "string", "minLength": 2}]},
    {"type": "string", "maxLength": 6, "allOf": [{"pattern": "^[ab]+$"}]},
    {"allOf": [_object(a={"type": "boolean"})]},
    {"$ref": "#/$defs/leaf", "$defs": {"leaf": {"type": "boolean"}}},
    {"$defs": {"leaf": {"enum": ["l"]}}, **_object(a={"$ref": "#/$defs/leaf"}, b={"$ref": "#/$defs/leaf"})},
    {
        "definitions": {"n": {"type": "integer", "minimum": 0, "maximum": 3}},
        **_object(n={"$ref": "#/definitions/n"}),
    },
    {
        "$defs": {"tree": _object(left={"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]})},
        "$ref": "#/$defs/tree",
    },
    {
        "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "maxItems": 2}, "b": {"type": "null"}},
        **_object(both={"$ref": "#/$defs/a"}),
    },
    _object(self={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
]

_NESTED: list[Any] = [_object(value=schema) for schema in (_NUMBERS + _STRINGS)[::2]]

SCHEMAS: list[Any] = [*_NUMBERS, *_STRINGS, *_PLAIN, *_ARRAYS, *_OBJECTS, *_COMBINED, *_NESTED]
