"""The effort of checking a value: how many schemas apply to it, which can be exponentially many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pydantic_core

from .limits import depth_first
from .references import References, in_place, members

__all__ = ["Effort", "limited"]

# The steps of counting itself, and the schemas that pydantic applies: each takes about a second.
_MAX_STEPS: Final = 500_000
_MAX_BY_PYDANTIC: Final = 300_000


class Effort:
    """Counts the schemas that apply to a value and to all values in it, each as often as the schema leads there.

    Args:
        schema: a valid JSON schema.
        tagged: whether a ``discriminator`` chooses one variant, as in pydantic; otherwise all are tried.

    Example:
        >>> node = {"anyOf": [{"type": "null"}, {"properties": {"next": {"$ref": "#"}}}]}
        >>> Effort(node).of({"next": {"next": None}}, limit=1000)
        11
    """

    def __init__(self, schema: dict[str, Any], *, tagged: bool = False) -> None:
        self._root = schema
        self._references = References(schema)
        self._tagged = tagged
        self._targets: dict[int, list[dict[str, Any]]] = {}
        self.branches = any(key in part for part in self._references.parts for key in ("anyOf", "oneOf"))
        """Whether a value may match one of several schemas."""

    def along(self) -> int:
        """The most schemas that apply to one value and to those on one way into it, where a reference to a schema
        around itself counts as one; ``sys.maxsize`` if chains of references are too long to tell."""
        try:
            return depth_first(self._along)(self._root)
        except RecursionError:
            return sys.maxsize

    def of(self, value: Any, limit: int) -> int:
        """The schemas that apply to a value; counted a little beyond ``limit``."""
        total, steps = 1, 0
        pending: list[tuple[Any, list[tuple[dict[str, Any], int]]]] = [(value, [(self._root, 1)])]
        while pending:
            outer, applied = pending.pop()
            inside: dict[Any, dict[int, tuple[dict[str, Any], int]]] = {}
            joint: list[tuple[dict[str, Any], int, tuple[int, ...]]]
            joint = [(part, count, (id(part),)) for part, count in applied]
            while joint:
                part, count, above = joint.pop()
                for entry in self._joint(part, outer):
                    if id(entry) not in above:
                        joint.append((entry, count, (*above, id(entry))))
                        total, steps = total + count, steps + 1
                for key, entry in _inside(part, outer):
                    parts = inside.setdefault(key, {})
                    parts[id(entry)] = (entry, count + parts.get(id(entry), (entry, 0))[1])
                    total, steps = total + count, steps + 1
                    if total > limit or steps > _MAX_STEPS:
                        return limit + 1
                if total > limit or steps > _MAX_STEPS:
                    return limit + 1
            pending += [(outer[key], list(parts.values())) for key, parts in inside.items()]
        return total

    def _joint(self, part: dict[str, Any], value: Any) -> Iterator[dict[str, Any]]:
        """The schemas that apply to the same value."""
        if self._tagged and isinstance(part.get("discriminator"), dict):
            yield from self._chosen(part["discriminator"], value)
            return
        yield from (entry for entry in in_place(part) if isinstance(entry, dict))
        yield from self._targets_of(part)

    def _chosen(self, discriminator: dict[str, Any], value: Any) -> list[dict[str, Any]]:
        tag = value.get(discriminator.get("propertyName")) if isinstance(value, dict) else None
        reference = discriminator.get("mapping", {}).get(str(tag))
        return [] if reference is None else self._references.targets({"$ref": reference})

    def _targets_of(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        if id(part) not in self._targets:
            self._targets[id(part)] = self._references.targets(part)
        return self._targets[id(part)]

    def _along(self, part: dict[str, Any], inner: Callable[[Any], int]) -> int:
        most = max(map(inner, self._targets_of(part)), default=0)
        most += max(map(inner, members(part.get("properties"))), default=0)
        for key in ("patternProperties", "prefixItems"):
            most += sum(map(inner, members(part.get(key))))
        for key in (*_OTHER_NAMES, *_ITEMS):
            most += sum(map(inner, part[key])) if isinstance(part.get(key), list) else inner(part.get(key))
        return 1 + most + sum(map(inner, in_place(part)))


def limited(check: Callable[[str], Any], schema: dict[str, Any]) -> Callable[[str], Any]:
    """A check of JSON text by pydantic, which tries all variants: raises ValueError where they would be too many.

    Args:
        check: validates the text.
        schema: of the same type.
    """
    effort = Effort(schema, tagged=True)

    def checked(text: str) -> Any:
        try:
            value = pydantic_core.from_json(text)
        except ValueError:
            return check(text)  # which says why
        if effort.of(value, _MAX_BY_PYDANTIC) > _MAX_BY_PYDANTIC:
            raise ValueError("too deeply nested to be checked; make it flatter")
        return check(text)

    return checked if effort.branches else check


_OTHER_NAMES: Final = ("additionalProperties", "unevaluatedProperties")
_ITEMS: Final = ("items", "additionalItems", "contains", "unevaluatedItems")


def _inside(part: dict[str, Any], value: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The keys of the values inside a value, and the schemas that apply to them."""
    if isinstance(value, dict):
        properties = part.get("properties")
        names = properties if isinstance(properties, dict) else {}
        pairs = [(name, names.get(name)) for name in value]
        pairs += [(name, entry) for entry in members(part.get("patternProperties")) for name in value]
        others = [part[key] for key in _OTHER_NAMES if isinstance(part.get(key), dict)]
        pairs += [(name, entry) for entry in others for name in value if name not in names]
    elif isinstance(value, list):
        first = [key for key in ("prefixItems", "items") if isinstance(part.get(key), list)]
        pairs = [pair for key in first for pair in zip(range(len(value)), part[key], strict=False)]
        others = [part[key] for key in _ITEMS if isinstance(part.get(key), dict)]
        pairs += [(position, entry) for entry in others for position in range(len(value))]
    else:
        return
    yield from ((key, entry) for key, entry in pairs if isinstance(entry, dict))
