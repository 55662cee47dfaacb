"""What one request may ask of its answer, beside the question. Knows nothing of models or messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from ..errors import InvalidRequest
from ..sampling import Effort, SamplingParams
from ..structured.constraint import Constraint
from ..structured.guide import GuidePlan, ToolChoice
from ..tools.toolbox import AfterCall, BeforeCall

__all__ = ["AnswerOptions", "RequestOptions", "guide_plan"]


class AnswerOptions(TypedDict, total=False):
    """The keywords of ``ask``, ``stream`` and ``chat.send`` that shape one answer. Of ``schema``, ``regex`` and
    ``choices`` at most one; the analysis stays free, the final answer alone has the form.

    Example:
        >>> brief: AnswerOptions = {"regex": "[0-9]{2}", "max_thinking_tokens": 30}
        >>> len(model.ask("What is 12+30?", **brief).parsed)
        2
    """

    schema: Any
    """A pydantic model, a TypedDict, any other type that pydantic knows, or a JSON schema: ``reply.parsed`` is the
    object. The model is told the schema in the developer message."""
    regex: str
    """A regular expression that the whole answer matches."""
    choices: Iterable[str]
    """The answer is one of these."""
    max_thinking_tokens: int
    """After as many tokens of analysis it is closed, and the answer begins. They are those of the whole answer:
    the steps in which tools are called count together."""
    tool_choice: ToolChoice
    """``auto``, ``none``, ``required`` or the name of the function to call. A required call is made once; then the
    model is free to answer."""
    logprobs: bool
    """Whether the reply has ``logprobs``."""


class RequestOptions(AnswerOptions, total=False):
    """The keywords of ``ask``: those of ``GptOss.chat`` and of :class:`AnswerOptions`."""

    effort: Effort
    """How long the model thinks."""
    instructions: str | None
    """The developer message."""
    sampling: SamplingParams | None
    """How tokens are chosen."""
    tools: Sequence[Any]
    """Functions the model may call."""
    date: str | None
    """The current date, YYYY-MM-DD."""
    before_call: BeforeCall | None
    """Sees every call before it runs and may change or veto it."""
    after_call: AfterCall | None
    """Sees every result and may change it."""
    max_steps: int
    """How often the model may generate, each time but the last to call tools."""


def guide_plan(options: AnswerOptions, tools: Mapping[str, Mapping[str, Any] | None]) -> GuidePlan:
    """The options, checked.

    Raises:
        InvalidRequest: an unknown option, two forms at once, or a value out of its range.
        SchemaError: a form that cannot be compiled.
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
