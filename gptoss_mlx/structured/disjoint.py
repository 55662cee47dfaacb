"""Whether two JSON schemas exclude each other, so that ``oneOf`` allows the same values as ``anyOf``.

The answer is yes only if it is certain. Knows nothing of engines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from ..harmony.typescript import resolve
from .keywords import ANNOTATIONS

__all__ = ["overlap"]

# Comparisons for one oneOf; a schema with more is left undecided.
_MAX_COMPARISONS: Final = 20_000
_MAX_DEPTH: Final = 8
# Keywords whose meaning does not depend on others.
_ALONE: Final = frozenset({"type", "required", "enum", "const"})
_TYPES: Final = frozenset({"null", "boolean", "number", "string", "array", "object"})


def overlap(root: Mapping[str, Any], variants: Sequence[Any]) -> tuple[int, int] | None:
    """The positions of two variants that may both match one value; None if all exclude each other.

    Args:
        root: the schema that references refer to.
        variants: the schemas to compare.
    """
    comparison = _Comparison(root)
    if _distinct(variants) or comparison.tagged(variants):
        return None
    for left, right in combinations(range(len(variants)), 2):
        if not comparison.disjoint(variants[left], variants[right]):
            return left, right
    return None


def _distinct(schemas: Sequence[Any]) -> bool:
    """Whether all schemas are constants, none of which occurs in two of them."""
    found: list[str] = []
    for schema in schemas:
        values = _values(schema)
        if values is None:
            return False
        found += set(values)
    return len(found) == len(set(found))


class _Comparison:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MAX_COMPARISONS
        # Up to draft 7 a reference replaces what is beside it.
        self._siblings_apply = "json-schema.org/draft-0" not in str(root.get("$schema"))

    def tagged(self, variants: Sequence[Any]) -> bool:
        """Whether a property that all variants require has other constants in each: linear in their number."""
        resolved = [self._resolved(variant) for variant in variants]
        if not all(isinstance(variant, Mapping) and _types(variant) == {"object"} for variant in resolved):
            return False
        names = [set(variant.get("required", ())) & set(variant.get("properties", ())) for variant in resolved]
        return any(
            _distinct([self._resolved(variant["properties"][name]) for variant in resolved])
            for name in sorted(set.intersection(*names))
        )

    def disjoint(self, one: Any, other: Any, depth: int = 0) -> bool:
        """Whether no value matches both schemas."""
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            return False
        one, other = self._resolved(one), self._resolved(other)
        if one is False or other is False:
            return True
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        return (
            self._by_part(one, other, depth)
            or self._by_part(other, one, depth)
            or self._by_value(one, other)
            or self._by_property(one, other, depth)
            or self._by_property(other, one, depth)
        )

    def _resolved(self, schema: Any) -> Any:
        for _ in range(_MAX_DEPTH):
            reference = schema.get("$ref") if isinstance(schema, Mapping) else None
            if not isinstance(reference, str) or not reference.startswith("#") or reference[1:2] not in ("", "/"):
                break
            target = resolve(self._root, reference[1:])
            beside = {key: value for key, value in schema.items() if key != "$ref" and key not in ANNOTATIONS}
            if not isinstance(target, Mapping):
                return target if not beside else schema
            if self._siblings_apply and beside.keys() <= _ALONE:
                # Both apply; of a keyword in both, the one beside is left out, which decides less.
                schema = {**beside, **target}
            elif self._siblings_apply:
                return {"allOf": [target, beside]}
            else:
                schema = target
        return schema

    def _by_part(self, one: Mapping[str, Any], other: Mapping[str, Any], depth: int) -> bool:
        """All alternatives, or one of the schemas that apply together, exclude the other schema."""
        for key in ("anyOf", "oneOf"):
            variants = one.get(key)
            if isinstance(variants, list) and all(self.disjoint(part, other, depth + 1) for part in variants):
                return True
        parts = one.get("allOf")
        return isinstance(parts, list) and any(self.disjoint(part, other, depth + 1) for part in parts)

    def _by_value(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """The types or the constants differ."""
        if not _types(one) & _types(other):
            return True
        mine, theirs = _values(one), _values(other)
        if mine is None or theirs is None:
            return False
        return not set(mine) & set(theirs)

    def _by_property(self, one: Mapping[str, Any], other: Mapping[str, Any], depth: int) -> bool:
        """A property that one requires is forbidden by the other, or may not have the same values in both."""
        if _types(one) | _types(other) != {"object"}:
            return False
        mine, theirs = one.get("properties"), other.get("properties")
        closed = other.get("additionalProperties") is False and "patternProperties" not in other
        for name in one["required"] if isinstance(one.get("required"), list) else ():
            if isinstance(theirs, Mapping) and name in theirs:
                own = mine.get(name, True) if isinstance(mine, Mapping) else True
                if self.disjoint(own, theirs[name], depth + 1):
                    return True
            elif closed:
                return True
        return False


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    """The types of the values that may match; ``integer`` counts as ``number``."""
    values = schema["enum"] if isinstance(schema.get("enum"), list) else None
    if "const" in schema:
        values = [schema["const"]]
    names = schema.get("type", list(_TYPES))
    declared = frozenset(
        "number" if name == "integer" else name for name in ([names] if isinstance(names, str) else names)
    )
    return declared if values is None else declared & frozenset(map(_type_of, values))


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    kinds: list[tuple[Any, str]] = [(str, "string"), ((int, float), "number"), (list, "array")]
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _values(schema: Any) -> list[str] | None:
    """The only values that may match, as comparable text; None if there are others."""
    if not isinstance(schema, Mapping) or ("const" not in schema and not isinstance(schema.get("enum"), list)):
        return None
    values = [schema["const"]] if "const" in schema else schema["enum"]
    return [json.dumps(_comparable(value), sort_keys=True) for value in values]


def _comparable(value: Any) -> Any:
    """Numbers of one value have one form: 1 and 1.0 are equal in JSON schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _comparable(part) for key, part in value.items()}
    return [_comparable(part) for part in value] if isinstance(value, list) else value
