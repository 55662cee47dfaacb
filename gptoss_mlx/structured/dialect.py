"""Translates JSON schemas for the engine: refuses what it cannot enforce, removes what forbids nothing.

Knows nothing of tokens, and of the engine only which keywords it can enforce.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..errors import SchemaError
from .disjoint import overlap
from .equivalents import rewrite
from .keywords import ENGINE_FORMATS
from .limits import check_size
from .references import reachable

__all__ = ["engine_schema"]

_log: Final = logging.getLogger("gptoss_mlx")

# Keywords that cannot be enforced token by token, and the type of values that they restrict.
_UNSUPPORTED: Final = {
    **dict.fromkeys(("not", "if", "then", "else", "$dynamicRef", "$recursiveRef")),
    **dict.fromkeys(("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"), "array"),
    **dict.fromkeys(("dependentSchemas", "dependentRequired", "dependencies"), "object"),
    **dict.fromkeys(("propertyNames", "unevaluatedProperties"), "object"),
}
_COUNTS: Final = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minContains", "maxContains"),
)
# No answer is as long.
_UNREACHABLE: Final = 2**24
_LOOK_AROUND: Final = re.compile(r"\(\?<?[=!]")
# Characters that the engine would write as \u escapes, which answers do not contain.
_CONTROL: Final = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")

_CONTROLS: Final = r"\x00-\x07\x0b\x0e-\x1f"
# The start of a negated class, in which a first "]" is literal; or an escape, to skip it.
_NEGATED_CLASS: Final = re.compile(r"\\.|\[\^\]?", re.DOTALL)

# The engine's patterns allow 30 February and leap seconds, which Python cannot read.
_YEAR: Final = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP: Final = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE: Final = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_ZONE: Final = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_POINTER: Final = r"(/([^/~]|~[01])*)*"
_PATTERNS: Final = {
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(0|[1-9][0-9]*)(#|{_POINTER})$",
    "date": f"^{_DATE}$",
    "time": f"^{_CLOCK}{_ZONE}$",
    "date-time": f"^{_DATE}T{_CLOCK}{_ZONE}$",
}


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
    check_size(copy)
    if "json-schema.org" not in str(copy.get("$schema")):
        copy.pop("$schema", None)
    for place, part in reachable(copy):
        rewrite(part, copy)
        for key in [key for key in part if _forbids_nothing(key, part)]:
            value = part.pop(key)
            if key == "format":
                _log.debug("schema: the format %s at %s does not restrict what is generated", value, place)
        if checked_later:
            _leave_to_pydantic(part)
        _check(place, part)
        _exclude(place, part, copy)
        _in_engine_words(part)
    return copy


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
            return value not in (ENGINE_FORMATS | _PATTERNS.keys()) or (
                kinds is not None and "string" not in _listed(kinds)
            )
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


def _leave_to_pydantic(part: dict[str, Any]) -> None:
    for key in ("uniqueItems", "propertyNames"):
        part.pop(key, None)
    if _LOOK_AROUND.search(str(part.get("pattern"))):
        del part["pattern"]


def _check(place: str, part: Mapping[str, Any]) -> None:
    for key in part:
        if key in _UNSUPPORTED:
            raise SchemaError(
                f"schema: the keyword {key} at {place} is not supported; leave it out and check the answer "
                "yourself"
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
    elif part.get("format") not in ENGINE_FORMATS:
        part.pop("format", None)
    if isinstance(part.get("pattern"), str):
        part["pattern"] = _without_controls(part["pattern"])
    names = part.get("patternProperties")
    if isinstance(names, dict):
        part["patternProperties"] = {_without_controls(name): value for name, value in names.items()}


def _without_controls(pattern: str) -> str:
    """The pattern with control characters excluded from its negated classes, which changes no answer: in a class
    with all of them, the engine would allow an escaped quote or backslash that the class excludes."""
    return _NEGATED_CLASS.sub(lambda found: found[0] if found[0][0] == "\\" else found[0] + _CONTROLS, pattern)
