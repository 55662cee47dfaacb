"""Declares tools from what programs have: functions, types, and the dicts of OpenAI, Anthropic and MCP.

Knows nothing of calls.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, is_typeddict

import pydantic

from ..errors import RenderError, ToolError
from ..files.read import short_repr
from ..harmony import ToolDescription, ToolNamespace
from .signature import ArgumentCheck, check_by_schema, declare_function, declare_type

__all__ = ["FUNCTIONS", "MAX_NAME", "Tool", "as_tool"]

_log = logging.getLogger("gptoss_mlx")

_KEYS: Final = ("name", "description", "parameters", "function")
_MCP_SCHEMAS: Final = ("inputSchema", "input_schema")
# Beside a function's own keys in the notations of OpenAI and Anthropic.
_IGNORED_KEYS: Final = ("type", "strict", "cache_control")
MAX_NAME: Final = 64
FUNCTIONS: Final = "functions"
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_NO_ARGUMENTS: Final = frozenset({"type", "properties", "required", "additionalProperties", "title", "$schema"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. :func:`as_tool` makes one from a plain function.

    Raises:
        ToolError: harmony does not allow the name, the parameters are not the JSON schema of an object, or a
            parameter of the function cannot be passed by name.

    Example:
        >>> lamp = Tool(name="lamp", description="The lamp.", function=lambda: "on")
        >>> lamp.check("{}")
        {}
    """

    name: str
    """1 to 64 of A-Z a-z 0-9 _ . -."""
    description: str = ""
    """What it does, for the model."""
    parameters: Mapping[str, Any] | None = None
    """JSON schema of the arguments, an object; None derives it from the function's signature."""
    function: Callable[..., Any] | None = None
    """The function to run, plain or async. With None the caller answers the calls: a valid one ends the turn, and
    ``chat.send_results`` continues it."""
    check: ArgumentCheck | None = field(default=None, repr=False, compare=False)
    """Turns JSON text into keyword arguments; by default derived from ``parameters`` or the signature."""
    declared_name: str = ""
    """The name as it was declared, if harmony does not allow it; by default ``name``."""
    namespace: str = FUNCTIONS
    """The harmony namespace in which the tool is declared; the model calls it as ``NAMESPACE.NAME``."""
    builtin: ToolNamespace | None = None
    """The declaration of a tool that the model was trained with, for the system message. The model calls it by its
    name alone, with text that the function takes, and its calls stay on the channel that the model chose."""

    def __post_init__(self) -> None:
        for part, value in (("function", self.function), ("check", self.check)):
            if value is not None and not callable(value):
                raise ToolError(
                    f"tool {self.name!r}: {part} is {short_repr(value)}, which cannot be called; give a function"
                )
        if self.check is None and self.builtin is not None:
            object.__setattr__(self, "check", lambda text: {"code": text})
        if self.check is None:
            if self.parameters is None and self.function is not None:
                declared = declare_function(self.function, str(self.name))
                object.__setattr__(self, "parameters", declared.parameters)
                object.__setattr__(self, "check", declared.check)
            else:
                object.__setattr__(self, "check", check_by_schema(self.parameters, str(self.name)))
        object.__setattr__(self, "declared_name", self.declared_name or self.name)
        self.description_for_harmony()

    @property
    def recipient(self) -> str:
        """The name by which the model calls it: ``functions.get_weather``.

        Example:
            >>> Tool(name="lamp").recipient
            'functions.lamp'
        """
        return self.name if self.builtin is not None else f"{self.namespace}.{self.name}"

    def description_for_harmony(self) -> ToolDescription:
        """The declaration that the model reads.

        Raises:
            ToolError: harmony cannot render it.

        Example:
            >>> Tool(name="lamp", description="Whether it is on.").description_for_harmony().description
            'Whether it is on.'
        """
        parameters = self.parameters or {}
        takes_none = not parameters.get("properties") and parameters.keys() <= _NO_ARGUMENTS
        takes_none = takes_none and not parameters.get("additionalProperties")
        try:
            return ToolDescription(
                name=self.name, description=self.description, parameters=None if takes_none else parameters
            )
        except RenderError as error:
            raise ToolError(f"tool {self.name!r}: {error}") from None


def as_tool(source: Any) -> Tool:
    """Declares a tool.

    Args:
        source: one of

            - a plain or async function, a method or a ``functools.partial``: the name is its name, the schema
              comes from its type hints, the descriptions from its docstring in the style of Google, NumPy, Sphinx
              or Epytext;
            - a pydantic model, a dataclass or a TypedDict, whose calls the caller answers;
            - a mapping with ``name`` and optionally ``description``, ``parameters`` (a JSON schema) and
              ``function``, alone or in OpenAI's ``{"type": "function", "function": {...}}``;
            - a tool of MCP or Anthropic, with ``inputSchema`` or ``input_schema``;
            - a :class:`Tool`.

            A name in a mapping that harmony does not allow is changed to one that it does; ``declared_name``
            keeps it.

    Raises:
        ToolError: it is none of these, or a parameter cannot be passed by name.

    Example:
        >>> def add(a: int, b: int = 1) -> int:
        ...     "Adds two numbers."
        ...     return a + b
        >>> as_tool(add).parameters["required"]
        ['a']
        >>> as_tool({"name": "files/read", "inputSchema": {"type": "object"}}).name
        'files_read'
    """
    if isinstance(source, Tool):
        return source
    if isinstance(source, pydantic.BaseModel):
        # A tool of MCP's package, say.
        source = source.model_dump()
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if isinstance(source, type) and (hasattr(source, "__pydantic_fields__") or _has_fields(source)):
        declared = declare_type(source)
        return Tool(
            name=source.__name__,
            description=declared.description,
            parameters=declared.parameters,
            check=declared.check,
        )
    if isinstance(source, type) or not callable(source):
        raise ToolError(
            f"tool {short_repr(source)} is not a function; give a function, a pydantic model, a Tool, "
            "or a mapping with name, description, parameters and function"
        )
    return _from_function(source)


def _has_fields(kind: type) -> bool:
    return is_typeddict(kind) or hasattr(kind, "__dataclass_fields__")


def _from_function(function: Callable[..., Any]) -> Tool:
    named: Any = function
    while isinstance(named, functools.partial):
        named = named.func
    name = getattr(named, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ToolError(
            f"tool {short_repr(function)} has no name; give Tool(name=..., function=...) or define it with def"
        )
    declared = declare_function(function, name)
    return Tool(
        name=name,
        description=declared.description,
        parameters=declared.parameters,
        function=function,
        check=declared.check,
    )


def _from_mapping(source: Mapping[str, Any]) -> Tool:
    if isinstance(source.get("function"), Mapping):
        source = source["function"]
    schemas = [key for key in _MCP_SCHEMAS if source.get(key) is not None]
    unknown = [key for key in source if key not in (*_KEYS, *_MCP_SCHEMAS, *_IGNORED_KEYS)]
    # Servers of MCP add keys of their own.
    if unknown and not schemas:
        raise ToolError(
            f"tool {short_repr(dict(source))}: unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}"
        )
    name = source.get("name")
    if not isinstance(name, str) or not name:
        raise ToolError(f"tool {short_repr(dict(source))}: name is {name!r}; a string is needed")
    fields: dict[str, Any] = {key: source.get(key) for key in ("description", "parameters", "function")}
    if schemas and fields["parameters"] is None:
        fields["parameters"] = source[schemas[0]]
    if fields["description"] is None:
        described = fields["parameters"] is None and callable(fields["function"])
        fields["description"] = declare_function(fields["function"], name).description if described else ""
    names: dict[str, Any] = {"name": _ILLEGAL.sub("_", name)[:MAX_NAME], "declared_name": name}
    try:
        return Tool(**names, **fields)
    except ToolError as error:
        if not schemas:
            raise
        # The server checks arguments itself, and one odd tool must not fail the others.
        _log.warning("%s; the model may call it with any arguments", error)
        anything = {"type": "object", "additionalProperties": True}
        return Tool(**names, parameters=anything, function=fields["function"])
