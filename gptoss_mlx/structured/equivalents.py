"""Rewrites keywords that the engine cannot enforce as ones that it can, where both mean the same.

Knows nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..harmony.typescript import resolve
from .keywords import ANNOTATIONS
from .references import members

__all__ = ["rewrite"]

_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
# Where none of these is, "unevaluated" means the same as "additional".
_COMPOSING: Final = (*_REFERENCES, "allOf", "anyOf", "oneOf", "if", "dependentSchemas")
# Keywords that restrict only objects.
_OF_OBJECTS: Final = frozenset(
    {
        *("properties", "patternProperties", "additionalProperties", "required", "propertyNames"),
        *("minProperties", "maxProperties"),
    }
)
# Variants of oneOf that differ in what they require; each excludes all others.
_MAX_EXCLUSIVE: Final = 10


def rewrite(part: dict[str, Any], root: Mapping[str, Any]) -> None:
    """Rewrites one schema in place.

    Args:
        part: the schema; those inside it are left as they are.
        root: the schema that references refer to.
    """
    _enumerate_names(part, root)
    _close(part)
    if any(key in part for key in _REFERENCES):
        # Up to draft 7 a reference replaces what is beside it.
        return
    _forbid_names(part)
    _depend(part)
    _exclude(part)


def _enumerate_names(part: dict[str, Any], root: Mapping[str, Any]) -> None:
    """A list of allowed property names as properties."""
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
    """``unevaluatedProperties`` and ``unevaluatedItems`` where all that is evaluated is in this schema."""
    if any(key in part for key in _COMPOSING):
        return
    if "unevaluatedProperties" in part:
        part.setdefault("additionalProperties", part.pop("unevaluatedProperties"))
    if "unevaluatedItems" in part and "contains" not in part:
        part.setdefault("items", part.pop("unevaluatedItems"))


def _forbid_names(part: dict[str, Any]) -> None:
    """``not`` of ``required``, alone or in ``anyOf``: the properties may not all be present."""
    negated: Any = part.get("not")
    variants = members(negated["anyOf"]) if _has_only(negated, {"anyOf"}) else [negated]
    if not variants or not all(_has_only(variant, {"required"}) for variant in variants):
        return
    del part["not"]
    # What is not an object has all the properties that are required of objects.
    part.setdefault("allOf", []).append({"type": "object"})
    part["allOf"] += [_not_all(variant["required"]) for variant in variants]


def _depend(part: dict[str, Any]) -> None:
    """Dependencies: the property is absent, or what depends on it holds."""
    for key in ("dependentRequired", "dependentSchemas", "dependencies"):
        needs = part.get(key)
        for name, need in needs.items() if isinstance(needs, dict) else ():
            then = {"required": need} if isinstance(need, list) else need
            part.setdefault("allOf", []).append({"anyOf": [_not_all([name]), then]})
        part.pop(key, None)


def _exclude(part: dict[str, Any]) -> None:
    """``oneOf`` whose variants restrict only objects, or only require properties."""
    variants = part.get("oneOf")
    if not isinstance(variants, list):
        return
    of_objects = [variant for variant in variants if _has_only(variant, _OF_OBJECTS)]
    if len(of_objects) > 1:
        # What is not an object matches all of these, which is more than one.
        for variant in of_objects:
            variant["type"] = "object"
    if len(variants) > _MAX_EXCLUSIVE or not all(_has_only(entry, {"type", "required"}) for entry in variants):
        return
    if all(entry.get("type", part.get("type")) == "object" and entry.get("required") for entry in variants):
        needed = [set(entry["required"]) for entry in variants]
        del part["oneOf"]
        alone = [
            {**entry, "allOf": [_not_all(others["required"]) for others in variants if others is not entry]}
            for entry, names in zip(variants, needed, strict=True)
            # A variant that requires all that another one requires never matches alone.
            if not any(names >= others for others in needed if others is not names)
        ]
        part.setdefault("allOf", []).append({"anyOf": alone} if alone else False)


def _has_only(schema: Any, keys: Any) -> bool:
    """Whether a schema has some of the keywords and no others that restrict anything."""
    return isinstance(schema, dict) and bool(schema.keys() & keys) and schema.keys() <= keys | ANNOTATIONS


def _not_all(names: list[str]) -> dict[str, Any]:
    """A schema of objects without at least one of the properties, and of everything else."""
    absent: list[dict[str, Any]] = [{"properties": {name: False}} for name in names]
    return absent[0] if len(absent) == 1 else {"anyOf": absent}
