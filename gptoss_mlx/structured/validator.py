"""Checks JSON schemas and values against them, in bounded time whatever either says.

The library is jsonschema-rs: patterns run in linear time, or with bounded backtracking if they look around, and no
reference is ever fetched. Knows nothing of tokens, tools or the keywords that the engine can enforce.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from ..errors import RenderError, SchemaError
from ..harmony.content import Schema
from ..harmony.typescript import resolve

__all__ = ["MAX_APPLICATIONS", "Validator"]

MAX_APPLICATIONS: Final = 10_000
"""The most schemas that may apply to one value: references to references can make them exponentially many."""

_MAX_BACKTRACKS: Final = 10_000
_MAX_MESSAGE: Final = 300
# The characters of a value times the schemas that apply to it, up to which all violations are found: 0.1 s.
_MAX_WORK: Final = 100_000
_DRAFTS: Final = {
    "draft-04": jsonschema_rs.Draft4Validator,
    "draft-06": jsonschema_rs.Draft6Validator,
    "draft-07": jsonschema_rs.Draft7Validator,
    "draft/2019-09": jsonschema_rs.Draft201909Validator,
}
_DRAFT: Final = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/2019-09)/schema#?")
_IDENTIFIERS: Final = ("$id", "id", "$anchor", "$dynamicAnchor")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class Validator:
    """A JSON schema, and the check of values against it.

    Args:
        schema: of the draft that its ``$schema`` names; by default of draft 2020-12.
        name: the schema's name in messages.

    Raises:
        SchemaError: the schema is invalid, is nested too deeply, refers to something outside itself, or has
            references that apply too many schemas to one value.

    Example:
        >>> Validator({"type": "integer", "minimum": 1}).problems(0, 1)
        ['0 is less than the minimum of 1']
    """

    def __init__(self, schema: Mapping[str, Any], name: str = "schema") -> None:
        try:
            self.schema: dict[str, Any] = Schema(schema, name).to_dict()
        except RenderError as error:
            raise SchemaError(str(error)) from None
        draft = _DRAFT.fullmatch(str(self.schema.get("$schema")))
        kind = _DRAFTS[draft[1]] if draft else jsonschema_rs.Draft202012Validator
        patterns = jsonschema_rs.FancyRegexOptions(backtrack_limit=_MAX_BACKTRACKS)
        try:
            self._applications = _Applications(self.schema).largest()
            if self._applications > MAX_APPLICATIONS:
                raise SchemaError(f"{name}: its references apply too many schemas to one value; use fewer of them")
            self._validator = kind(self.schema, validate_formats=False, offline=True, pattern_options=patterns)
        except jsonschema_rs.ValidationError as error:
            remedy = "correct the schema"
            if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Referencing):
                remedy = 'nothing is fetched: put the target into $defs and refer to "#/$defs/NAME"'
            place = _path(error.instance_path, "$")
            raise SchemaError(f"{name}: at {place}: {_short(error.message)}; {remedy}") from None
        except RecursionError:
            raise SchemaError(f"{name}: its references are nested too deeply; make it flatter") from None

    def problems(self, value: Any, length: int) -> list[str]:
        """The first violations, each with its place; empty if the value is valid.

        Args:
            value: JSON data.
            length: of its text. For a long one only the first violation is reported, because finding all takes
                time and memory in proportion.

        Raises:
            ValueError: JSON cannot represent the value.
        """
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            found = self._validator.iter_errors(value) if length * self._applications <= _MAX_WORK else [error]
            return [_located(error) for error in islice(found, 5)]
        return []


class _Applications:
    """Counts the schemas that apply to one value, each as often as references lead to it.

    A reference counts as the largest part that it can mean, whatever its base URI.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._parts: list[dict[str, Any]] = []
        self._resources: list[dict[str, Any]] = [root]
        self._anchors: dict[str, list[dict[str, Any]]] = {}
        self._counts: dict[int, int] = {}
        self._index(root)

    def largest(self) -> int:
        """The largest count of any part of the schema.

        Raises:
            RecursionError: a chain of references is too long.
        """
        return max(map(self._of, self._parts))

    def _index(self, part: Any) -> None:
        if isinstance(part, dict):
            self._parts.append(part)
            identifiers = [part[key] for key in _IDENTIFIERS if isinstance(part.get(key), str)]
            if identifiers:
                self._resources.append(part)
            for name in identifiers:
                self._anchors.setdefault(name.removeprefix("#"), []).append(part)
        for entry in _members(part):
            self._index(entry)

    def _of(self, schema: Any) -> int:
        if not isinstance(schema, dict):
            return 1
        if id(schema) not in self._counts:
            self._counts[id(schema)] = 1  # A reference within itself counts once.
            count = 1 + sum(map(self._of, _in_place(schema)))
            for key in _REFERENCES:
                if isinstance(schema.get(key), str):
                    count += max(map(self._of, self._targets(schema[key])), default=1)
            self._counts[id(schema)] = min(count, MAX_APPLICATIONS + 1)
        return self._counts[id(schema)]

    def _targets(self, reference: str) -> list[Any]:
        fragment = reference.partition("#")[2]
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment, [])
        return [resolve(resource, fragment) for resource in self._resources]


def _in_place(schema: dict[str, Any]) -> list[Any]:
    """The schemas inside a schema that apply to the same value."""
    parts: list[Any] = []
    for key in ("allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies"):
        parts += _members(schema.get(key))
    return parts + [schema[key] for key in ("not", "if", "then", "else") if key in schema]


def _members(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    return part if isinstance(part, list) else []


def _located(error: jsonschema_rs.ValidationError) -> str:
    place = _path(error.instance_path)
    return f"{place}: {_short(error.message)}" if place else _short(error.message)


def _path(steps: Sequence[str | int], root: str = "") -> str:
    """The place of a value, such as ``$.cities[0].name``."""
    text = root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def _short(message: str) -> str:
    """A message in one line without the values of any length that it quotes."""
    line = " ".join(message.partition("\n\n")[0].split())
    return line if len(line) <= _MAX_MESSAGE else f"{line[: _MAX_MESSAGE // 2]}…{line[-_MAX_MESSAGE // 2 :]}"
