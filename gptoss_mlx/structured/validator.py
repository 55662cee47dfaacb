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
from .effort import Effort
from .keywords import ENGINE_FORMATS
from .limits import MAX_APPLICATIONS, applications

__all__ = ["Validator"]

_MAX_BACKTRACKS: Final = 10_000
_MAX_MESSAGE: Final = 300
# The schemas that apply to a value: up to the first number all violations are found, and above the second the
# value is not checked. Each takes about a second.
_MAX_EXPLAINED: Final = 10_000
_MAX_EFFORT: Final = 20_000_000
# Up to this product of characters and schemas the effort need not be counted.
_NO_EFFORT: Final = 1_000_000_000
_DRAFTS: Final = {
    "draft-04": jsonschema_rs.Draft4Validator,
    "draft-06": jsonschema_rs.Draft6Validator,
    "draft-07": jsonschema_rs.Draft7Validator,
    "draft/2019-09": jsonschema_rs.Draft201909Validator,
}
_DRAFT: Final = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/2019-09)/schema#?")


class Validator:
    """A JSON schema, and the check of values against it.

    Args:
        schema: of the draft that its ``$schema`` names; by default of draft 2020-12.
        name: the schema's name in messages.
        formats: whether strings must have the formats that the draft defines, except for those that the engine
            enforces when it generates. A format that no draft defines restricts nothing.

    Raises:
        SchemaError: the schema is invalid, is nested too deeply, refers to something outside itself, or has
            references that apply too many schemas to one value.

    Example:
        >>> Validator({"type": "integer", "minimum": 1}).problems(0, 1)
        ['0 is less than the minimum of 1']
    """

    def __init__(self, schema: Mapping[str, Any], name: str = "schema", *, formats: bool = False) -> None:
        try:
            self.schema: dict[str, Any] = Schema(schema, name).to_dict()
        except RenderError as error:
            raise SchemaError(str(error)) from None
        draft = _DRAFT.fullmatch(str(self.schema.get("$schema")))
        kind = _DRAFTS[draft[1]] if draft else jsonschema_rs.Draft202012Validator
        patterns = jsonschema_rs.FancyRegexOptions(backtrack_limit=_MAX_BACKTRACKS)
        try:
            self._effort = Effort(self.schema)
            self._along = self._effort.along()
            if applications(self.schema) > MAX_APPLICATIONS:
                raise SchemaError(f"{name}: its references apply too many schemas to one value; use fewer of them")
            self._validator = kind(
                self.schema,
                validate_formats=formats,
                formats=dict.fromkeys(ENGINE_FORMATS, _is_enforced),
                offline=True,
                pattern_options=patterns,
            )
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
            length: of its text. Where many schemas apply to a value, only the first violation is reported, or none
                is located, because finding them takes time and memory in proportion.

        Raises:
            ValueError: JSON cannot represent the value.
        """
        if self._along * length > _NO_EFFORT and self._effort.of(value, _MAX_EFFORT) > _MAX_EFFORT:
            return ["the value is too deeply nested to be checked; make it flatter"]
        if self._validator.is_valid(value):
            return []
        if self._effort.of(value, _MAX_EXPLAINED) <= _MAX_EXPLAINED:
            return [_located(error) for error in islice(self._validator.iter_errors(value), 5)]
        if self._effort.branches:
            return ["the value does not match the schema, and is too large to say where; make it smaller"]
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return [_located(error)]
        return []


def _is_enforced(text: str) -> bool:
    return True


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
