"""The contents of messages: text, the system message's settings, the developer message's instructions and tools.

Each class checks its fields when made, and reads and writes its own part of openai-harmony's JSON.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ..errors import RenderError
from .fields import (
    Channel,
    ReasoningEffort,
    as_choice,
    check_name,
    check_namespace,
    check_object,
    check_text,
    is_sequence,
    required,
    required_list,
)

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
    "content_from_dict",
]

# openai-harmony's own JSON reader stops at this depth.
MAX_SCHEMA_DEPTH: Final = 128

_IDENTITY: Final = "You are ChatGPT, a large language model trained by OpenAI."


class Schema(Mapping[str, Any]):
    """An immutable JSON schema. Two are equal only if their properties are in the same order too.

    The model reads the properties in order, so two schemas that differ in it must not share cached tokens.
    """

    __slots__ = ("_text",)

    def __init__(self, schema: Mapping[str, Any], field: str = "schema") -> None:
        check_object(schema, field)
        plain = schema.to_dict() if isinstance(schema, Schema) else schema
        _check_json(plain, field)
        try:
            self._text: str = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise RenderError(f"{field}: not JSON ({error})") from None  # an integer with thousands of digits

    def to_dict(self) -> dict[str, Any]:
        """A new dict at every call."""
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
    """Refuses values that JSON does not have, and deep nesting; a loop, so depth cannot overflow the stack."""
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
            raise RenderError(f"{field}: {item} is not a JSON number")
        elif item is not None and not isinstance(item, bool | int | float):
            kind = type(item).__name__
            raise RenderError(f"{field}: {kind} is not JSON; use dict, list, str, number, bool or None")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextContent:
    """Ordinary text. The name of a control token in it stays ordinary text."""

    text: str

    def __post_init__(self) -> None:
        check_text(self.text, "text")

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        return {"type": "text", "text": self.text}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TextContent:
        """From openai-harmony's JSON."""
        return cls(text=required(data, "text", "content"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolDescription:
    """One function as it is described to the model."""

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

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        data: dict[str, Any] = {"name": self.name, "description": self.description}
        if self.parameters is not None:
            data["parameters"] = Schema(self.parameters).to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolDescription:
        """From openai-harmony's JSON."""
        check_object(data, "tool")
        return cls(
            name=required(data, "name", "tool"),
            description=required(data, "description", "tool"),
            parameters=data.get("parameters"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolNamespace:
    """Tools under one name: ``functions`` for the caller's, ``browser`` and ``python`` for the built-in ones."""

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

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        data: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            data["description"] = self.description
        return data | {"tools": [tool.to_dict() for tool in self.tools]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolNamespace:
        """From openai-harmony's JSON."""
        check_object(data, "tools")
        return cls(
            name=required(data, "name", "tools"),
            description=data.get("description"),
            tools=tuple(ToolDescription.from_dict(tool) for tool in required_list(data, "tools")),
        )


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

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        channels = [channel.value for channel in self.valid_channels]
        return {"valid_channels": channels, "channel_required": self.channel_required}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChannelConfig:
        """From openai-harmony's JSON."""
        check_object(data, "channel_config")
        return cls(
            valid_channels=required_list(data, "valid_channels"),
            channel_required=required(data, "channel_required", "channel_config"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemContent:
    """The system message: the model's identity, dates, reasoning effort, built-in tools and channels.

    A field that is None is left out.
    """

    model_identity: str | None = _IDENTITY
    reasoning_effort: ReasoningEffort | str | None = ReasoningEffort.MEDIUM
    """A string is converted to a `ReasoningEffort`."""
    conversation_start_date: str | None = None
    """YYYY-MM-DD. There is no default, so that a conversation renders the same on any day."""
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

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        effort, config = self.reasoning_effort, self.channel_config
        # These four have a default, so None is written explicitly: a missing field would load as its default.
        data: dict[str, Any] = {
            "type": "system_content",
            "model_identity": self.model_identity,
            "reasoning_effort": None if effort is None else effort.capitalize(),
            "knowledge_cutoff": self.knowledge_cutoff,
            "channel_config": None if config is None else config.to_dict(),
        }
        if self.conversation_start_date is not None:
            data["conversation_start_date"] = self.conversation_start_date
        return data | _tools_to_dict(self.tools)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SystemContent:
        """From openai-harmony's JSON."""
        fields = ("model_identity", "reasoning_effort", "conversation_start_date", "knowledge_cutoff")
        # As in openai-harmony: a missing field has its default, an explicit null leaves the line out.
        given: dict[str, Any] = {field: data[field] for field in fields if field in data}
        if "channel_config" in data:
            config = data["channel_config"]
            given["channel_config"] = None if config is None else ChannelConfig.from_dict(config)
        return cls(**given, tools=_tools_from_dict(data.get("tools")))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseFormat:
    """A JSON schema that the answer should follow, in the developer message's ``# Response Formats``."""

    name: str
    schema: Mapping[str, Any]
    description: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "response format name")
        if self.description is not None:
            check_text(self.description, f"response format {self.name}: description")
        object.__setattr__(self, "schema", Schema(self.schema, f"response format {self.name}: schema"))

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        data: dict[str, Any] = {"name": self.name, "schema": Schema(self.schema).to_dict()}
        if self.description is not None:
            data["description"] = self.description
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ResponseFormat:
        """From openai-harmony's JSON."""
        check_object(data, "response format")
        return cls(
            name=required(data, "name", "response format"),
            schema=required(data, "schema", "response format"),
            description=data.get("description"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeveloperContent:
    """The developer message: instructions (elsewhere called the system prompt), functions, response formats."""

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

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        data: dict[str, Any] = {"type": "developer_content"}
        if self.instructions is not None:
            data["instructions"] = self.instructions
        data |= _tools_to_dict(self.tools)
        if self.response_formats:
            data["response_formats"] = [entry.to_dict() for entry in self.response_formats]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeveloperContent:
        """From openai-harmony's JSON."""
        formats = required_list(data, "response_formats") if data.get("response_formats") else ()
        return cls(
            instructions=data.get("instructions"),
            tools=_tools_from_dict(data.get("tools")),
            response_formats=tuple(ResponseFormat.from_dict(entry) for entry in formats),
        )


Content: TypeAlias = TextContent | SystemContent | DeveloperContent


def content_from_dict(data: Mapping[str, Any]) -> Content:
    """A content of any kind, from openai-harmony's JSON."""
    check_object(data, "content")
    kinds: dict[Any, type[Content]] = {
        "text": TextContent,
        "system_content": SystemContent,
        "developer_content": DeveloperContent,
    }
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        raise RenderError(f"content: type {kind!r} is not one of {', '.join(kinds)}")
    return kinds[kind].from_dict(data)


def _tools_to_dict(namespaces: tuple[ToolNamespace, ...]) -> dict[str, Any]:
    return {"tools": {namespace.name: namespace.to_dict() for namespace in namespaces}} if namespaces else {}


def _tools_from_dict(data: Any) -> tuple[ToolNamespace, ...]:
    """The namespaces of a message, each under its own name as key."""
    if data is None:
        return ()
    check_object(data, "tools")
    for key, entry in data.items():
        check_object(entry, f"tools[{key!r}]")
        if entry.get("name") != key:
            raise RenderError(f"tools[{key!r}]: its name is {entry.get('name')!r}; key and name must agree")
    return tuple(ToolNamespace.from_dict(entry) for entry in data.values())


def _as_tuple(value: Any, kind: type[Any], field: str) -> tuple[Any, ...]:
    if not is_sequence(value) or not all(isinstance(item, kind) for item in value):
        raise RenderError(f"{field}: a sequence of {kind.__name__} is needed")
    return tuple(value)


def _as_namespaces(value: Any) -> tuple[ToolNamespace, ...]:
    """Namespaces in the order in which they are rendered: by name."""
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
        raise RenderError(f"{field}: {value!r} is not a date of the form YYYY-MM-DD") from None
