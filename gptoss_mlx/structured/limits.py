"""Limits of JSON schemas: what would take the validator or the engine too long, or overflow its stack, is refused.

The measures are upper bounds, through every reference. Knows nothing of the values of keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isqrt
from typing import Any, Final, TypeAlias

from ..errors import SchemaError
from .references import References, children, in_place, members, reachable

__all__ = [
    "MAX_APPLICATIONS",
    "MAX_HEIGHT",
    "MAX_NAME_PATTERNS",
    "MAX_OPTIONAL",
    "MAX_PATTERNS",
    "applications",
    "check_size",
    "depth_first",
]

MAX_APPLICATIONS: Final = 10_000
"""The most schemas that may apply to one value: references to references can make them exponentially many."""
MAX_HEIGHT: Final = 200
"""Schemas inside schemas, references included; the engine's stack overflows at some 1,000."""
MAX_OPTIONAL: Final = 3000
"""Properties of an object that are not required; the time to compile them is quadratic in their number."""
MAX_NAME_PATTERNS: Final = 128
"""Patterns in one ``patternProperties``, which the engine compares with one another."""
MAX_PATTERNS: Final = 12
"""Patterns that one string must match together; the time to compile them is exponential in their number."""


def applications(schema: dict[str, Any]) -> int:
    """The most schemas that apply to one value, each as often as references lead to it; counted a little beyond
    :data:`MAX_APPLICATIONS`.

    Raises:
        RecursionError: a chain of references is too long.
    """
    references = References(schema)

    def count(part: dict[str, Any], inner: Measure) -> int:
        joint = sum(map(inner, in_place(part)))
        return min(1 + joint + _most(inner, references.targets(part)), MAX_APPLICATIONS + 1)

    return max(map(depth_first(count, within_itself=1), references.parts))


def check_size(schema: dict[str, Any]) -> None:
    """Checks a schema before the engine compiles it.

    Raises:
        SchemaError: it exceeds a limit; the message names the place.
        RecursionError: a chain of references is too long.
    """
    references = References(schema)

    def levels(part: dict[str, Any], inner: Measure) -> int:
        parts = [entry for _, entry in children(part)] + references.targets(part)
        return 1 + _most(inner, parts)

    def joint_patterns(part: dict[str, Any], inner: Measure) -> int:
        either = [entry for key in ("anyOf", "oneOf") for entry in members(part.get(key))]
        joint = ("pattern" in part) + sum(map(inner, members(part.get("allOf"))))
        return joint + _most(inner, either) + _most(inner, references.targets(part))

    height, patterns = depth_first(levels), depth_first(joint_patterns)
    quadratic = 0
    for place, part in reachable(schema):
        quadratic += len(_keys(part, "properties") - _keys(part, "required")) ** 2
        for found, limit, what in (
            (height(part), MAX_HEIGHT, "schemas inside schemas, references included; make it flatter"),
            (patterns(part), MAX_PATTERNS, "patterns for one string; combine them"),
            (len(_keys(part, "patternProperties")), MAX_NAME_PATTERNS, "patternProperties; combine them"),
            (isqrt(quadratic), MAX_OPTIONAL, "properties that are not required; require them"),
        ):
            if found > limit:
                raise SchemaError(f"schema: at {place}: more than {limit} {what}")


Measure: TypeAlias = Callable[[Any], int]


def depth_first(of: Callable[[dict[str, Any], Measure], int], within_itself: int = 0) -> Measure:
    """A measure of a part that is computed once.

    Args:
        of: computes it, from the measures of other parts.
        within_itself: the measure of a part inside itself, where references form a circle, and of a non-object.
    """
    found: dict[int, int] = {}

    def measure(part: Any) -> int:
        if not isinstance(part, dict):
            return within_itself
        if id(part) not in found:
            found[id(part)] = within_itself
            found[id(part)] = of(part, measure)
        return found[id(part)]

    return measure


def _most(measure: Measure, parts: Iterable[Any]) -> int:
    return max(map(measure, parts), default=0)


def _keys(part: dict[str, Any], key: str) -> set[Any]:
    value = part.get(key)
    return set(value) if isinstance(value, dict | list) else set()
