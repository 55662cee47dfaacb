"""What a message can hold: text, the system message's settings, the developer message's instructions and tools."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ..errors import RenderError
from .fields import Channel, ReasoningEffort, as_choice, check_name, check_namespace, check_text

__all__ = [
    "MAX_SCHEMA_DEPTH",
    "ChannelConfig",
    "Content",
    "DeveloperContent",
    "ResponseFormat",
    "Schema",
    "SystemContent",
    "TextContent",
    "ToolDescription",
    "ToolNamespace",
]

# As deep as openai-harmony's own JSON reader goes.
MAX_SCHEMA_DEPTH: Final = 128

_IDENTITY: Final = "You are ChatGPT, a large language model trained by OpenAI."


class Schema(Mapping[str, Any]):
    """A JSON schema that cannot change, equal to another only if its properties stand in the same order too.

    The order of properties is what the model reads, so two schemas that differ in it must not share
    cached tokens.
    """

    __slots__ = ("_text",)

    def __init__(self, schema: Mapping[str, Any], field: str = "schema") -> None:
        if not isinstance(schema, Mapping):
            raise RenderError(f"{field}: a JSON object is needed, not {type(schema).__name__}")
        plain = schema.to_dict() if isinstance(schema, Schema) else schema
        _check_json(plain, field)
        try:
            self._text: str = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise RenderError(f"{field}: no JSON ({error})") from None  # a whole number of thousands of digits

    def to_dict(self) -> dict[str, Any]:
        """A fresh copy."""
        copy: dict[str, Any] = json.loads(self._text)
        return copy

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Schema) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"Schema({self.to_dict()!r})"


def _check_json(value: Any, field: str) -> None:
    """Plain JSON, not too deep. A loop and not a recursion: depth is what it guards against."""
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            check_text(item, field)
        elif isinstance(item, dict | list | tuple):
            if depth > MAX_SCHEMA_DEPTH:
                raise RenderError(f"{field}: nested deeper than the {MAX_SCHEMA_DEPTH} levels allowed")
            if isinstance(item, dict):
                for key in item:
                    check_text(key, f"{field}: property name")
            children = item.values() if isinstance(item, dict) else item
            pending.extend((child, depth + 1) for child in children)
        elif isinstance(item, float) and item - item != 0:
            raise RenderError(f"{field}: {item} is no JSON number")
        elif item is not None and not isinstance(item, bool | int | float):
            kind = type(item).__name__
            raise RenderError(f"{field}: {kind} is no JSON; use dict, list, str, number, bool or None")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextContent:
    """Ordinary text. The name of a control token in it stays ordinary text."""

    text: str

    def __post_init__(self) -> None:
        check_text(self.text, "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolDescription:
    """One function, as the model is told about it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    """JSON schema of the one object argument; None for a function without arguments."""

    def __post_init__(self) -> None:
        check_name(self.name, "tool name")
        check_text(self.description, f"tool {self.name}: description")
        if self.parameters is not None:
            schema = Schema(self.parameters, f"tool {self.name}: parameters")
            object.__setattr__(self, "parameters", schema)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolNamespace:
    """Tools under one name: ``functions`` for the caller's own, ``browser`` and ``python`` for the built-in."""

    name: str
    description: str | None = None
    tools: tuple[ToolDescription, ...] = ()

    def __post_init__(self) -> None:
        check_namespace(self.name, "namespace name")
        if self.description is not None:
            check_text(self.description, f"namespace {self.name}: description")
        object.__setattr__(self, "tools", _as_tuple(self.tools, ToolDescription, f"namespace {self.name}: tools"))
        _check_distinct([tool.name for tool in self.tools], f"namespace {self.name}: tools")

    @classmethod
    def functions(cls, *tools: ToolDescription) -> ToolNamespace:
        """The caller's own functions."""
        return cls(name="functions", tools=tools)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelConfig:
    """The line of the system message that lists the channels."""

    valid_channels: tuple[Channel, ...] = tuple(Channel)
    channel_required: bool = True

    def __post_init__(self) -> None:
        given = _as_tuple(self.valid_channels, str, "valid_channels")
        channels = tuple(as_choice(Channel, channel, "valid_channels") for channel in given)
        object.__setattr__(self, "valid_channels", channels)
        _check_bool(self.channel_required, "channel_required")


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemContent:
    """The system message: who the model is, the dates, how long it thinks, built-in tools, channels.

    None leaves the line out.
    """

    model_identity: str | None = _IDENTITY
    reasoning_effort: ReasoningEffort | str | None = ReasoningEffort.MEDIUM
    """A string is taken as a `ReasoningEffort`."""
    conversation_start_date: str | None = None
    """YYYY-MM-DD. Never filled in by itself: the same conversation renders the same tomorrow."""
    knowledge_cutoff: str | None = "2024-06"
    channel_config: ChannelConfig | None = field(default_factory=ChannelConfig)
    tools: tuple[ToolNamespace, ...] = ()

    def __post_init__(self) -> None:
        for name in ("model_identity", "knowledge_cutoff"):
            if getattr(self, name) is not None:
                check_text(getattr(self, name), name)
        if self.reasoning_effort is not None:
            effort = as_choice(ReasoningEffort, self.reasoning_effort, "reasoning_effort")
            object.__setattr__(self, "reasoning_effort", effort)
        if self.conversation_start_date is not None:
            _check_date(self.conversation_start_date, "conversation_start_date")
        if self.channel_config is not None and not isinstance(self.channel_config, ChannelConfig):
            raise RenderError("channel_config: a ChannelConfig or None is needed")
        object.__setattr__(self, "tools", _as_namespaces(self.tools))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseFormat:
    """A JSON schema the answer should follow, in the developer message's ``# Response Formats``."""

    name: str
    schema: Mapping[str, Any]
    description: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "response format name")
        if self.description is not None:
            check_text(self.description, f"response format {self.name}: description")
        object.__setattr__(self, "schema", Schema(self.schema, f"response format {self.name}: schema"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DeveloperContent:
    """The developer message: instructions (what other formats call the system prompt), functions, formats."""

    instructions: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    def __post_init__(self) -> None:
        if self.instructions is not None:
            check_text(self.instructions, "instructions")
        object.__setattr__(self, "tools", _as_namespaces(self.tools))
        formats = _as_tuple(self.response_formats, ResponseFormat, "response_formats")
        object.__setattr__(self, "response_formats", formats)
        _check_distinct([format.name for format in formats], "response_formats")


Content: TypeAlias = TextContent | SystemContent | DeveloperContent


def is_sequence(value: Any) -> bool:
    """A list or a tuple, say; a string is not meant as a sequence of its letters."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _as_tuple(value: Any, kind: type[Any], field: str) -> tuple[Any, ...]:
    if not is_sequence(value) or not all(isinstance(item, kind) for item in value):
        raise RenderError(f"{field}: a sequence of {kind.__name__} is needed")
    return tuple(value)


def _as_namespaces(value: Any) -> tuple[ToolNamespace, ...]:
    """Namespaces in the order they are rendered in: by name."""
    namespaces = _as_tuple(value, ToolNamespace, "tools")
    _check_distinct([namespace.name for namespace in namespaces], "tools")
    return tuple(sorted(namespaces, key=lambda namespace: str(namespace.name)))


def _check_distinct(names: list[str], field: str) -> None:
    twice = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if twice is not None:
        raise RenderError(f"{field}: {twice!r} is there twice; names must differ")


def _check_bool(value: Any, field: str) -> None:
    if not isinstance(value, bool):
        raise RenderError(f"{field}: {value!r} is not one of True, False")


def _check_date(value: Any, field: str) -> None:
    try:
        if datetime.date.fromisoformat(value).isoformat() != value:
            raise ValueError
    except (TypeError, ValueError):
        raise RenderError(f"{field}: {value!r} is no date of the form YYYY-MM-DD") from None
