"""Values of the command line that need no conversion.

Typer converts every value with pydantic, whose import takes longer than all of ours: too long before a prompt that
is to be up at once. What was not given, and what is text anyway, is taken as it is here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand

__all__ = ["PromptCommand", "unconverted"]

_TEXTS = frozenset({"session", "model", "effort", "system", "think"})
"""Names of the parameters that are text."""


class PromptCommand(TyperCommand):
    """A command that ends in a prompt."""

    def get_params(self, ctx: Any) -> list[Any]:
        return unconverted(super().get_params(ctx))


def unconverted(parameters: list[Any]) -> list[Any]:
    """``parameters``, each of which takes one value, made to convert only what needs it."""
    for parameter in parameters:
        if "process_value" not in vars(parameter):
            parameter.process_value = functools.partial(_processed, parameter.name, parameter.process_value)
    return parameters


def _processed(name: str, process: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    return value if value is None or name in _TEXTS else process(context, value)
