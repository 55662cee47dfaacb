"""Walks a JSON schema: the schemas inside it, and those that its references mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..harmony.typescript import resolve

__all__ = ["References", "children", "in_place", "members", "reachable", "subschemas"]

_IDENTIFIERS: Final = ("$id", "id", "$anchor", "$dynamicAnchor")
_IN_MAPPING: Final = ("properties", "patternProperties", "$defs", "definitions")
_IN_LIST: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE: Final = ("items", "additionalProperties", "additionalItems")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


def subschemas(schema: Any, place: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a schema and every schema inside it, each with its place as a JSON path."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for step, part in children(schema):
        yield from subschemas(part, f"{place}.{step}")


def children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
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


def reachable(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
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


class References:
    """The parts of a schema, and the parts that its references mean.

    A reference stands for every part that it can mean, whatever its base URI.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self.parts: list[dict[str, Any]] = []
        """Every object in the schema, itself first."""
        self._resources: list[dict[str, Any]] = [root]
        self._anchors: dict[str, list[dict[str, Any]]] = {}
        self._index(root)

    def targets(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        """The parts that the references of a part can mean."""
        found: list[Any] = []
        for key in _REFERENCES:
            if isinstance(part.get(key), str):
                fragment = part[key].partition("#")[2]
                if fragment and not fragment.startswith("/"):
                    found += self._anchors.get(fragment, [])
                else:
                    found += [resolve(resource, fragment) for resource in self._resources]
        return [target for target in found if isinstance(target, dict)]

    def _index(self, part: Any) -> None:
        if isinstance(part, dict):
            self.parts.append(part)
            identifiers = [part[key] for key in _IDENTIFIERS if isinstance(part.get(key), str)]
            if identifiers:
                self._resources.append(part)
            for name in identifiers:
                self._anchors.setdefault(name.removeprefix("#"), []).append(part)
        for entry in members(part):
            self._index(entry)


def in_place(schema: dict[str, Any]) -> list[Any]:
    """The schemas inside a schema that apply to the same value."""
    parts: list[Any] = []
    for key in ("allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies"):
        parts += members(schema.get(key))
    return parts + [schema[key] for key in ("not", "if", "then", "else") if key in schema]


def members(part: Any) -> list[Any]:
    """The values in an object or a list."""
    if isinstance(part, dict):
        return list(part.values())
    return part if isinstance(part, list) else []
