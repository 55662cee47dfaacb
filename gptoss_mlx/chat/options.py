"""The settings of a chat and the options of one answer: how they are written as keywords, and checked.

Knows nothing of models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypedDict, TypeVar, overload

from typing_extensions import TypeForm

from ..arguments import Effort, checked_date, checked_effort, checked_hook, checked_integer
from ..errors import InvalidRequest, RenderError
from ..events import Parsed
from ..files.read import short_repr
from ..harmony.fields import check_text
from ..sampling import SamplingParams, checked_sampling
from ..structured.constraint import Constraint
from ..structured.guide import GuidePlan, ToolChoice
from ..tools.toolbox import AfterCall, BeforeCall, ToolBox

if TYPE_CHECKING:
    from ..engine.generate import LogitsProcessor

__all__ = [
    "AnswerOptions",
    "ChatOptions",
    "ChatSettings",
    "RequestOptions",
    "SamplingOptions",
    "Setting",
    "ToolOptions",
    "TurnOptions",
    "checked_text",
    "guide_plan",
    "lists_options",
    "sampling_of",
]

MAX_STEPS: Final = 16
Value = TypeVar("Value")
Verb = TypeVar("Verb", bound=Callable[..., Any])


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen, by name: the fields of ``SamplingParams``. They replace those of ``sampling``, so one
    of them may be changed alone; None leaves a field as it is.

    Example:
        >>> greedy = model.ask("Who are you?", temperature=0, max_tokens=9)
        >>> base = gptoss.SamplingParams(temperature=1, max_tokens=9)
        >>> model.ask("Who are you?", sampling=base, temperature=0).text == greedy.text
        True
    """

    sampling: SamplingParams | None
    """How tokens are chosen, as one value."""
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    stop_loops: bool | None
    logit_bias: Mapping[int, float] | None


class ToolOptions(TypedDict, total=False):
    """The keywords of a chat that concern its tools.

    Example:
        >>> options: ToolOptions = {"tools": [{"name": "lamp", "function": lambda: "on"}], "max_steps": 4}
        >>> model.chat(effort="low", **options).max_steps
        4
    """

    tools: Sequence[Any]
    """Functions that the model may call."""
    before_call: BeforeCall | None
    """Is called with every call before it runs and may change or veto it."""
    after_call: AfterCall | None
    """Is called with every result and may change it."""
    max_steps: int
    """How often the model may generate in one turn; each time but the last it may call tools."""


class ChatOptions(ToolOptions, SamplingOptions, total=False):
    """The keywords of ``GptOss.chat``, which ``ask``, ``stream``, ``load_chat`` and ``Chat.fork`` take too."""

    instructions: str | None
    """The developer message. It ranks below the system message and above the user."""
    effort: Effort
    """How long the model thinks: ``low``, ``medium`` or ``high``."""
    date: str | None
    """The current date for the system message, YYYY-MM-DD; by default it has none."""


class AnswerOptions(TypedDict, Generic[Parsed], total=False):
    """The keywords of ``ask``, ``stream`` and ``chat.send`` that shape one answer. Of ``schema``, ``regex`` and
    ``choices`` at most one; only the final answer has the form, the analysis stays free.

    Example:
        >>> brief: AnswerOptions = {"regex": "[0-9]{2}", "max_thinking_tokens": 30}
        >>> len(model.ask("What is 12+30?", **brief).parsed)
        2
    """

    schema: TypeForm[Parsed] | UnionType | Mapping[str, Any] | str | bytes | None
    """A pydantic model, a TypedDict, any other type that pydantic knows, or a JSON schema: ``reply.parsed`` is the
    object, and has its type. The developer message shows the schema to the model."""
    regex: str
    """A regular expression that the whole answer matches."""
    choices: Iterable[str]
    """The answer is one of these."""
    max_thinking_tokens: int
    """After this many tokens of analysis it is closed, and the answer begins. They count over the whole answer:
    the steps in which tools are called count together."""
    tool_choice: ToolChoice
    """``auto``, ``none``, ``required`` or the name of the function to call. A required call is made once; then the
    model is free to answer."""
    logprobs: bool
    """Whether the reply has ``logprobs``."""
    top_logprobs: int
    """For how many of the most likely tokens each of them has ``top_logprobs``, 0 to 20."""
    logits_processor: LogitsProcessor | None
    """Changes the logits before each token is sampled, as in mlx-lm: is called with the tokens so far [N] and the
    logits [1, V], in the model's thread, and returns logits [1, V]."""


class TurnOptions(AnswerOptions[Parsed], SamplingOptions, total=False):
    """The keywords of ``chat.send`` and the other verbs that ask: all hold for this answer alone."""


class RequestOptions(ChatOptions, AnswerOptions[Parsed], total=False):
    """The keywords of ``ask`` and ``stream``: those of a chat and those of one answer."""


_ANSWER_DEFAULTS: Final = {"tool_choice": "auto", "logprobs": False, "top_logprobs": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """The settings of a chat, checked; the fields are those of :class:`ChatOptions`.

    Raises:
        InvalidRequest: a value out of its range.
        ToolError: a tool that cannot be declared.
    """

    instructions: str | None = None
    effort: Effort = "medium"
    tools: Sequence[Any] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    date: str | None = None
    before_call: BeforeCall | None = None
    after_call: AfterCall | None = None
    max_steps: int = MAX_STEPS

    def __post_init__(self) -> None:
        checked_text("instructions", self.instructions)
        checked_effort(self.effort)
        checked_date(self.date)
        checked_hook("before_call", self.before_call)
        checked_hook("after_call", self.after_call)
        checked_integer("max_steps", self.max_steps, 1)
        object.__setattr__(self, "sampling", checked_sampling(self.sampling))
        if not isinstance(self.tools, ToolBox):
            object.__setattr__(self, "tools", ToolBox(self.tools))

    @property
    def toolbox(self) -> ToolBox:
        """The tools, ready to be called."""
        assert isinstance(self.tools, ToolBox)
        return self.tools

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """The settings that a verb's keywords make.

        Raises:
            InvalidRequest: there is no such keyword, or as the class.
        """
        return cls().changed(options)

    def changed(self, options: Mapping[str, Any]) -> Self:
        """The same settings with other values for some; errors as in :meth:`of`."""
        _check_names(options, ChatOptions)
        others = {name: value for name, value in options.items() if name not in SamplingOptions.__annotations__}
        default = SamplingParams() if "sampling" in options else self.sampling
        return replace(self, sampling=sampling_of(options, default), **others)


class HasSettings(Protocol):
    """An object with settings that can be replaced."""

    settings: ChatSettings


class Setting(Generic[Value]):
    """A field of ``settings`` as an attribute. An assigned value is checked and holds from the next turn on."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, chat: None, owner: type) -> Self: ...
    @overload
    def __get__(self, chat: HasSettings, owner: type) -> Value: ...
    def __get__(self, chat: HasSettings | None, owner: type) -> Self | Value:
        if chat is None:
            return self
        value: Value = getattr(chat.settings, self._name)
        return value

    def __set__(self, chat: HasSettings, value: Value) -> None:
        chat.settings = chat.settings.changed({self._name: value})


def lists_options(*options: type) -> Callable[[Verb], Verb]:
    """Shows the keywords of TypedDicts in the signature of a verb that takes them as ``**options``, for ``help``
    and editors."""
    defaults = {part.name: part.default for part in fields(ChatSettings) if part.default is not MISSING}
    defaults |= _ANSWER_DEFAULTS

    def listed(verb: Verb) -> Verb:
        signature = inspect.signature(verb)
        given = [part for part in signature.parameters.values() if part.kind is not part.VAR_KEYWORD]
        taken = {part.name for part in given}
        shown = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name),
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in {name: hint for kind in options for name, hint in _listed(kind)}.items()
            if name not in taken
        ]
        verb.__signature__ = signature.replace(parameters=[*given, *shown])  # type: ignore[attr-defined]
        return verb

    return listed


def _listed(options: type) -> Iterator[tuple[str, Any]]:
    """The keywords of a TypedDict and their types: those of a chat, of tools, of an answer and of sampling."""
    inherited = ToolOptions.__annotations__, AnswerOptions.__annotations__, SamplingOptions.__annotations__

    def place(item: tuple[str, Any]) -> int:
        return next((number for number, names in enumerate(inherited, 1) if item[0] in names), 0)

    yield from sorted(options.__annotations__.items(), key=place)


def sampling_of(options: Mapping[str, Any], default: SamplingParams) -> SamplingParams:
    """How tokens are chosen: ``sampling`` of the options or the default, with the fields that are given by name.

    Raises:
        InvalidRequest: a value out of its range.
    """
    given = options.get("sampling")
    base = default if given is None else checked_sampling(given)
    named = {name: options[name] for name in _SAMPLING_FIELDS if options.get(name) is not None}
    return replace(base, **named) if named else base


def guide_plan(options: TurnOptions[Any], tools: Mapping[str, Mapping[str, Any] | None]) -> GuidePlan:
    """The options of an answer, checked.

    Args:
        options: as written.
        tools: the schema of each tool's arguments, by name.

    Raises:
        InvalidRequest: an unknown option, two forms at once, or a value out of its range.
        SchemaError: a form that cannot be compiled.
    """
    _check_names(options, TurnOptions)
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


_SAMPLING_FIELDS: Final = tuple(name for name in SamplingOptions.__annotations__ if name != "sampling")


def checked_text(name: str, text: object) -> str | None:
    """Text that harmony can render, or None."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} is {short_repr(text)}; text or None is needed")
    try:
        return check_text(text, name)
    except RenderError as error:
        raise InvalidRequest(str(error)) from None


def _check_names(options: Mapping[str, Any], kind: type) -> None:
    unknown = sorted(set(options) - set(kind.__annotations__))
    if unknown:
        raise InvalidRequest(
            f"there is no option {unknown[0]!r}; there are {', '.join(name for name, _ in _listed(kind))}"
        )
