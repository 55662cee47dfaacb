"""The JSON form of a conversation: openai-harmony's own, so that either library loads the other's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RenderError
from .content import (
    ChannelConfig,
    Content,
    DeveloperContent,
    ResponseFormat,
    Schema,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
    is_sequence,
)
from .messages import Author, Conversation, Message

__all__ = ["conversation_from_dict", "message_from_dict", "message_to_dict"]


def conversation_from_dict(data: Mapping[str, Any]) -> Conversation:
    """Reads ``{"messages": [...]}``; an error names the message's position."""
    messages = []
    for position, entry in enumerate(_sequence(data, "messages")):
        try:
            messages.append(message_from_dict(entry))
        except RenderError as error:
            raise RenderError(f"messages[{position}].{error}") from None
    return Conversation(messages=tuple(messages))


def message_from_dict(data: Mapping[str, Any]) -> Message:
    """Reads one message; a plain string as content is one text."""
    _mapping(data, "message")
    if "role" not in data:
        raise RenderError("role: missing")
    content = data.get("content")
    contents = [{"type": "text", "text": content}] if isinstance(content, str) else _sequence(data, "content")
    return Message(
        author=Author(role=data["role"], name=data.get("name")),
        content=tuple(_content_from_dict(entry) for entry in contents),
        channel=data.get("channel"),
        recipient=data.get("recipient"),
        content_type=data.get("content_type"),
    )


def message_to_dict(message: Message) -> dict[str, Any]:
    """Writes one message; fields without a value are left out."""
    data: dict[str, Any] = {"role": message.author.role.value}
    if message.author.name is not None:
        data["name"] = message.author.name
    data["content"] = [_content_to_dict(content) for content in message.content]
    for field in ("channel", "recipient", "content_type"):
        value = getattr(message, field)
        if value is not None:
            data[field] = str(value)
    return data


def _content_from_dict(data: Any) -> Content:
    _mapping(data, "content")
    kind = data.get("type")
    if kind == "text":
        return TextContent(text=_required(data, "text", "content"))
    if kind == "system_content":
        return _system_from_dict(data)
    if kind == "developer_content":
        formats = _sequence(data, "response_formats") if data.get("response_formats") else ()
        return DeveloperContent(
            instructions=data.get("instructions"),
            tools=_namespaces_from_dict(data.get("tools")),
            response_formats=tuple(_format_from_dict(entry) for entry in formats),
        )
    raise RenderError(f"content: type {kind!r} is not one of text, system_content, developer_content")


def _system_from_dict(data: Mapping[str, Any]) -> SystemContent:
    fields = ("model_identity", "reasoning_effort", "conversation_start_date", "knowledge_cutoff")
    # A missing field has its default, an explicit null leaves the line out: as in openai-harmony.
    given: dict[str, Any] = {field: data[field] for field in fields if field in data}
    if "channel_config" in data:
        config = data["channel_config"]
        given["channel_config"] = None if config is None else _channels_from_dict(config)
    return SystemContent(**given, tools=_namespaces_from_dict(data.get("tools")))


def _channels_from_dict(data: Any) -> ChannelConfig:
    _mapping(data, "channel_config")
    return ChannelConfig(
        valid_channels=tuple(_sequence(data, "valid_channels")),
        channel_required=_required(data, "channel_required", "channel_config"),
    )


def _namespaces_from_dict(data: Any) -> tuple[ToolNamespace, ...]:
    if data is None:
        return ()
    _mapping(data, "tools")
    namespaces = []
    for key, entry in data.items():
        _mapping(entry, f"tools[{key!r}]")
        if entry.get("name") != key:
            raise RenderError(f"tools[{key!r}]: its name is {entry.get('name')!r}; key and name must agree")
        tools = tuple(_tool_from_dict(tool) for tool in _sequence(entry, "tools"))
        namespaces.append(ToolNamespace(name=key, description=entry.get("description"), tools=tools))
    return tuple(namespaces)


def _tool_from_dict(data: Any) -> ToolDescription:
    _mapping(data, "tool")
    return ToolDescription(
        name=_required(data, "name", "tool"),
        description=_required(data, "description", "tool"),
        parameters=data.get("parameters"),
    )


def _format_from_dict(data: Any) -> ResponseFormat:
    _mapping(data, "response format")
    return ResponseFormat(
        name=_required(data, "name", "response format"),
        schema=_required(data, "schema", "response format"),
        description=data.get("description"),
    )


def _content_to_dict(content: Content) -> dict[str, Any]:
    if isinstance(content, TextContent):
        return {"type": "text", "text": content.text}
    if isinstance(content, SystemContent):
        return _system_to_dict(content)
    data: dict[str, Any] = {"type": "developer_content"}
    if content.instructions is not None:
        data["instructions"] = content.instructions
    if content.tools:
        data["tools"] = _namespaces_to_dict(content.tools)
    if content.response_formats:
        data["response_formats"] = [_format_to_dict(entry) for entry in content.response_formats]
    return data


def _system_to_dict(content: SystemContent) -> dict[str, Any]:
    config = content.channel_config
    effort = content.reasoning_effort
    # These four have a default, so None is written down: left out, it would load as the default.
    data: dict[str, Any] = {
        "type": "system_content",
        "model_identity": content.model_identity,
        "reasoning_effort": None if effort is None else effort.capitalize(),
        "knowledge_cutoff": content.knowledge_cutoff,
        "channel_config": None
        if config is None
        else {
            "valid_channels": [channel.value for channel in config.valid_channels],
            "channel_required": config.channel_required,
        },
    }
    if content.conversation_start_date is not None:
        data["conversation_start_date"] = content.conversation_start_date
    if content.tools:
        data["tools"] = _namespaces_to_dict(content.tools)
    return data


def _namespaces_to_dict(namespaces: Sequence[ToolNamespace]) -> dict[str, Any]:
    return {
        namespace.name: {
            "name": namespace.name,
            **({} if namespace.description is None else {"description": namespace.description}),
            "tools": [_tool_to_dict(tool) for tool in namespace.tools],
        }
        for namespace in namespaces
    }


def _tool_to_dict(tool: ToolDescription) -> dict[str, Any]:
    data: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.parameters is not None:
        data["parameters"] = Schema(tool.parameters).to_dict()
    return data


def _format_to_dict(entry: ResponseFormat) -> dict[str, Any]:
    data: dict[str, Any] = {"name": entry.name, "schema": Schema(entry.schema).to_dict()}
    if entry.description is not None:
        data["description"] = entry.description
    return data


def _mapping(value: Any, field: str) -> None:
    if not isinstance(value, Mapping):
        raise RenderError(f"{field}: a JSON object is needed, not {type(value).__name__}")


def _sequence(data: Any, field: str) -> Sequence[Any]:
    _mapping(data, field)
    value = data.get(field)
    if not is_sequence(value):
        raise RenderError(f"{field}: a list is needed, not {type(value).__name__}")
    return tuple(value)


def _required(data: Mapping[str, Any], key: str, field: str) -> Any:
    if key not in data:
        raise RenderError(f"{field}: {key} is missing")
    return data[key]
