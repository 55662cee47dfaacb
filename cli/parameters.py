"""Parameters of the command line: no type after a flag in help, and values that need no conversion.

Typer converts every value with pydantic, whose import alone takes longer than all of ours: too long before a
prompt that must be ready at once. Values that were not given, and those that are text, are not converted here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["CommandGroup", "PromptCommand"]

_TEXTS = frozenset(
    {
        *("words", "model", "effort", "system", "adapter", "think", "url", "hostfile", "split"),
        *("mcp", "tools", "python", "allow"),
    }
)
"""Names of the parameters that are text."""


class PromptCommand(TyperCommand):
    """A command that leads to a prompt."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _unconverted(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """A group of subcommands, the help of which shows no type after a flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(_unconverted(super().get_params(ctx)))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _without_flag_types(command.get_params(ctx))
        return command


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def _unconverted(parameters: list[Any]) -> list[Any]:
    """``parameters``, each of which takes one value, made to convert only what needs it."""
    for parameter in parameters:
        if "process_value" not in vars(parameter):
            parameter.process_value = functools.partial(_processed, parameter.name, parameter.process_value)
    return parameters


def _processed(name: str, process: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    return value if value is None or name in _TEXTS else process(context, value)
