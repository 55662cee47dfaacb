"""Translates JSON schemas for the engine: refuses what it cannot enforce, removes what forbids nothing.

Knows nothing of tokens, and of the engine only which keywords it can enforce.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Any, Final

from ..errors import SchemaError
from ..files.read import short_repr
from ..harmony.typescript import resolve
from .disjoint import overlap
from .references import References, members

__all__ = [
    "FORMATS",
    "MAX_HEIGHT",
    "MAX_NAME_PATTERNS",
    "MAX_OPTIONAL",
    "MAX_PATTERNS",
    "engine_schema",
    "subschemas",
]

# Keywords that cannot be enforced token by token, and the type of values that they restrict.
_UNSUPPORTED: Final = {
    **dict.fromkeys(("not", "if", "then", "else", "$dynamicRef", "$recursiveRef")),
    **dict.fromkeys(("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"), "array"),
    **dict.fromkeys(("dependentSchemas", "dependentRequired", "dependencies"), "object"),
    **dict.fromkeys(("propertyNames", "unevaluatedProperties"), "object"),
}
# Where none of these is, "unevaluated" means the same as "additional".
_COMPOSING: Final = ("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas")
FORMATS: Final = (
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown"),
)
"""The formats that the engine enforces."""
MAX_HEIGHT: Final = 200
"""Schemas inside schemas, references included; the engine's stack overflows at some 1,000."""
MAX_OPTIONAL: Final = 3000
"""Properties of an object that are not required; the time to compile them is quadratic in their number."""
MAX_NAME_PATTERNS: Final = 128
"""Patterns in one ``patternProperties``, which the engine compares with one another."""
MAX_PATTERNS: Final = 12
"""Patterns that one string must match together; the time to compile them is exponential in their number."""

_COUNTS: Final = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minContains", "maxContains"),
)
# No answer is as long.
_UNREACHABLE: Final = 2**24
_IN_MAPPING: Final = ("properties", "patternProperties", "$defs", "definitions")
_IN_LIST: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE: Final = ("items", "additionalProperties", "additionalItems")

_LOOK_AROUND: Final = re.compile(r"\(\?<?[=!]")
# Characters that the engine would write as \u escapes, which answers do not contain.
_CONTROL: Final = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")

# The engine's patterns allow 30 February and leap seconds, which Python cannot read.
_YEAR: Final = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP: Final = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE: Final = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_ZONE: Final = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_PATTERNS: Final = {
    "date": f"^{_DATE}$",
    "time": f"^{_CLOCK}{_ZONE}$",
    "date-time": f"^{_DATE}T{_CLOCK}{_ZONE}$",
}


def subschemas(schema: Any, place: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a schema and every schema inside it, each with its place as a JSON path."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for step, part in _children(schema):
        yield from subschemas(part, f"{place}.{step}")


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside a schema, each with its place."""
    for key in (*_IN_MAPPING, *_IN_LIST, *_ALONE):
        value = schema.get(key)
        if key in _IN_MAPPING and isinstance(value, dict):
            yield from ((f"{key}.{name}", part) for name, part in value.items())
        elif key not in _IN_MAPPING and isinstance(value, list):
            # Before draft 2020-12, "items" may be a list.
            yield from ((f"{key}[{position}]", part) for position, part in enumerate(value))
        elif key in _ALONE:
            yield key, value


def engine_schema(schema: Mapping[str, Any], *, checked_later: bool = False) -> dict[str, Any]:
    """The schema for the engine.

    Args:
        schema: a valid JSON schema.
        checked_later: leave out the keywords that pydantic makes and the engine cannot enforce, because pydantic
            checks the answer; otherwise they are refused.

    Raises:
        SchemaError: a keyword cannot be enforced; the message names its place and what to write instead.
    """
    copy: dict[str, Any] = json.loads(json.dumps(schema))
    _check_size(copy)
    if "json-schema.org" not in str(copy.get("$schema")):
        copy.pop("$schema", None)
    for place, part in _reachable(copy):
        _enumerate_names(part, copy)
        _close(part)
        for key in [key for key in part if _forbids_nothing(key, part)]:
            del part[key]
        if checked_later:
            _leave_to_pydantic(part)
        _check(place, part)
        _exclude(place, part, copy)
        _in_engine_words(part)
    return copy


def _reachable(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a schema and every schema inside it or behind its references, each with its place, once."""
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("$", schema)]
    while pending:
        root_place, root = pending.pop()
        for place, part in subschemas(root, root_place):
            if id(part) not in seen:
                seen.add(id(part))
                yield place, part
                reference = part.get("$ref")
                if isinstance(reference, str) and reference.startswith("#/"):
                    pending.append((f"${reference[1:].replace('/', '.')}", resolve(schema, reference[1:])))


def _check_size(schema: dict[str, Any]) -> None:
    """Refuses schemas that would overflow the engine's stack, or take it quadratic or exponential time.

    Raises:
        RecursionError: references are nested more deeply than Python's own stack.
    """
    references = References(schema)
    heights: dict[int, int] = {}
    patterns: dict[int, int] = {}

    def height(part: dict[str, Any]) -> int:
        if id(part) not in heights:
            heights[id(part)] = 0  # A reference within itself does not count.
            inner = [entry for _, entry in _children(part) if isinstance(entry, dict)]
            heights[id(part)] = 1 + max(map(height, inner + references.targets(part)), default=0)
        return heights[id(part)]

    def joint_patterns(part: Any) -> int:
        """The patterns that one string must match together."""
        if not isinstance(part, dict):
            return 0
        if id(part) not in patterns:
            patterns[id(part)] = 0
            either = [entry for key in ("anyOf", "oneOf") for entry in members(part.get(key))]
            patterns[id(part)] = (
                ("pattern" in part)
                + sum(map(joint_patterns, members(part.get("allOf"))))
                + max(map(joint_patterns, either), default=0)
                + max(map(joint_patterns, references.targets(part)), default=0)
            )
        return patterns[id(part)]

    quadratic = 0
    for place, part in _reachable(schema):
        required = part.get("required")
        optional = len(set(_mapping(part, "properties")) - set(required if isinstance(required, list) else ()))
        quadratic += optional**2
        for found, limit, what in (
            (height(part), MAX_HEIGHT, "schemas inside schemas, references included; make it flatter"),
            (joint_patterns(part), MAX_PATTERNS, "patterns for one string; combine them"),
            (len(_mapping(part, "patternProperties")), MAX_NAME_PATTERNS, "patternProperties; combine them"),
            (isqrt(quadratic), MAX_OPTIONAL, "properties that are not required; require them"),
        ):
            if found > limit:
                raise SchemaError(f"schema: at {place}: more than {limit} {what}")


def _mapping(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = part.get(key)
    return value if isinstance(value, dict) else {}


def _forbids_nothing(key: str, part: Mapping[str, Any]) -> bool:
    value = part[key]
    kinds = part.get("type")
    if _UNSUPPORTED.get(key) and kinds is not None and _UNSUPPORTED[key] not in _listed(kinds):
        return True
    match key:
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return isinstance(value, dict) and all(entry in (True, {}, []) for entry in value.values())
        case "propertyNames":
            return value is True or (
                isinstance(value, dict)
                and set(value) <= {"type"}
                and "string" in _listed(value.get("type", "string"))
            )
        case "unevaluatedProperties" | "unevaluatedItems":
            return value is True or value == {}
        case "contains":
            return part.get("minContains") == 0 and "maxContains" not in part
        case "minContains" | "maxContains":
            return "contains" not in part or (key == "minContains" and value == 0)
        case "uniqueItems":
            return value is False or part.get("maxItems", 2) <= 1
        case "not":
            return value is False
        case "format":
            return kinds is not None and "string" not in _listed(kinds)
        case "if":
            return all(part.get(branch, True) in (True, {}) for branch in ("then", "else"))
        case "then" | "else":
            return "if" not in part or value in (True, {})
        case "maxLength" | "maxItems" | "maxProperties":
            return isinstance(value, int | float) and value >= _UNREACHABLE
        case "$dynamicAnchor":
            return True
    return False


def _listed(kinds: Any) -> list[Any]:
    return kinds if isinstance(kinds, list) else [kinds]


def _enumerate_names(part: dict[str, Any], root: Mapping[str, Any]) -> None:
    """Turns a list of allowed property names into properties, which the engine can enforce."""
    names = part.get("propertyNames")
    if isinstance(names, dict) and str(names.get("$ref", "")).startswith("#"):
        names = resolve(root, names["$ref"][1:])
    if not isinstance(names, dict) or "patternProperties" in part:
        return
    allowed = [names["const"]] if "const" in names else names.get("enum")
    if not isinstance(allowed, list):
        return
    properties = part.get("properties", {})
    rest = part.get("additionalProperties", True)
    part["properties"] = {name: properties.get(name, rest) for name in allowed if isinstance(name, str)}
    part["additionalProperties"] = False
    del part["propertyNames"]


def _close(part: dict[str, Any]) -> None:
    """Replaces the keywords for what nothing else has evaluated, if that is seen in this schema alone."""
    if any(key in part for key in _COMPOSING):
        return
    for unevaluated, additional in (
        ("unevaluatedProperties", "additionalProperties"),
        ("unevaluatedItems", "items"),
    ):
        if unevaluated in part and not (unevaluated == "unevaluatedItems" and "contains" in part):
            part.setdefault(additional, part.pop(unevaluated))


def _leave_to_pydantic(part: dict[str, Any]) -> None:
    for key in ("uniqueItems", "propertyNames"):
        part.pop(key, None)
    if part.get("format") not in FORMATS:
        part.pop("format", None)
    if _LOOK_AROUND.search(str(part.get("pattern"))):
        del part["pattern"]


def _check(place: str, part: Mapping[str, Any]) -> None:
    for key in part:
        if key in _UNSUPPORTED:
            raise SchemaError(
                f"schema: the keyword {key} at {place} is not supported; leave it out and check the answer "
                "yourself"
            )
    if "format" in part and part["format"] not in FORMATS:
        raise SchemaError(
            f"schema: the format {short_repr(part['format'])} at {place} is not supported; leave it out, or use "
            f"one of {', '.join(FORMATS[:-1])}"
        )
    names = part.get("properties")
    for key, value in [(key, part.get(key)) for key in ("const", "enum", "required")] + [
        ("properties", list(names or ()))
    ]:
        control = next(_controls(value), None)
        if control is not None:
            raise SchemaError(
                f"schema: {key} at {place} has the control character {control!r}, which no answer can contain; "
                "leave it out"
            )


def _controls(value: Any) -> Iterator[str]:
    """The control characters in the strings and keys of a JSON value."""
    if isinstance(value, str):
        yield from _CONTROL.findall(value)
    elif isinstance(value, dict):
        for key in value:
            yield from _CONTROL.findall(key)
        for entry in value.values():
            yield from _controls(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _controls(entry)


def _exclude(place: str, part: dict[str, Any], root: Mapping[str, Any]) -> None:
    """Turns ``oneOf`` into ``anyOf`` if its variants exclude each other."""
    variants = part.get("oneOf")
    if not isinstance(variants, list):
        return
    shared = {"type": part["type"]} if "type" in part else {}
    pair = overlap(root, [{**shared, **entry} if isinstance(entry, dict) else entry for entry in variants])
    if pair is not None:
        raise SchemaError(
            f"schema: variants {pair[0]} and {pair[1]} of oneOf at {place} may both match; write anyOf, or make "
            "them exclude each other by a required property with a different const in each"
        )
    if "anyOf" in part:
        part["allOf"] = [*part.get("allOf", ()), {"anyOf": part.pop("oneOf")}]
    else:
        part["anyOf"] = part.pop("oneOf")


def _in_engine_words(part: dict[str, Any]) -> None:
    for key in _COUNTS:
        if isinstance(part.get(key), float) and part[key].is_integer():
            part[key] = int(part[key])
    pattern = _PATTERNS.get(str(part.get("format")))
    if pattern is not None and "pattern" not in part:
        del part["format"]
        part["pattern"] = pattern
