"""Follows the references in a JSON schema, and measures what they can grow to.

A reference stands for every part that it can mean, whatever its base URI: the measures are upper bounds.
"""

from __future__ import annotations

from typing import Any, Final

from ..harmony.typescript import resolve

__all__ = ["References"]

_IDENTIFIERS: Final = ("$id", "id", "$anchor", "$dynamicAnchor")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class References:
    """The parts of a schema, and the parts that its references mean."""

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

    def applications(self, limit: int) -> int:
        """The most schemas that apply to one value, each as often as references lead to it; counted to the limit.

        Raises:
            RecursionError: a chain of references is too long.
        """
        counts: dict[int, int] = {}

        def count(part: Any) -> int:
            if not isinstance(part, dict):
                return 1
            if id(part) not in counts:
                counts[id(part)] = 1  # A reference within itself counts once.
                total = 1 + sum(map(count, in_place(part))) + max(map(count, self.targets(part)), default=0)
                counts[id(part)] = min(total, limit)
            return counts[id(part)]

        return max(map(count, self.parts))

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
