"""What one request may ask of its answer, beside the question. Knows nothing of models or messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from .errors import InvalidRequest
from .guide import GuidePlan, ToolChoice
from .structured import Constraint

__all__ = ["AnswerOptions", "guide_plan"]


class AnswerOptions(TypedDict, total=False):
    """The keywords of ``ask``, ``stream`` and ``chat.send`` that shape one answer. Of ``schema``, ``regex`` and
    ``choices`` at most one; the analysis stays free, the final answer alone has the form.
    """

    schema: Any
    """A pydantic model, a TypedDict, any other type that pydantic knows, or a JSON schema: ``reply.parsed`` is the
    object. The model is told the schema in the developer message."""
    regex: str
    """A regular expression that the whole answer matches."""
    choices: Iterable[str]
    """The answer is one of these."""
    max_thinking_tokens: int
    """After as many tokens of analysis it is closed, and the answer begins."""
    tool_choice: ToolChoice
    """``auto``, ``none``, ``required`` or the name of the function to call."""
    logprobs: bool
    """Whether the reply has ``logprobs``."""


def guide_plan(options: AnswerOptions, tools: Mapping[str, Mapping[str, Any] | None]) -> GuidePlan:
    """The options, checked.

    Raises:
        InvalidRequest: an unknown option, two forms at once, or a value that cannot be kept to.
    """
    unknown = sorted(set(options) - set(AnswerOptions.__annotations__))
    if unknown:
        known = ", ".join(AnswerOptions.__annotations__)
        raise InvalidRequest(f"there is no option {unknown[0]!r}; there are {known}")
    forms = [name for name in ("schema", "regex", "choices") if options.get(name) is not None]
    if len(forms) > 1:
        raise InvalidRequest(f"{' and '.join(forms)} are both given; an answer has one form")
    constraint = None
    if options.get("schema") is not None:
        constraint = Constraint.from_schema(options["schema"])
    elif options.get("regex") is not None:
        constraint = Constraint.from_regex(options["regex"])
    elif options.get("choices") is not None:
        constraint = Constraint.from_choices(options["choices"])
    return GuidePlan(
        constraint=constraint,
        max_thinking_tokens=options.get("max_thinking_tokens"),
        tool_choice=options.get("tool_choice", "auto"),
        tools=tools,
    )
