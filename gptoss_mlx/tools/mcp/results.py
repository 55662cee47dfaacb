"""The result of a call as the text that the model reads."""

from __future__ import annotations

import json
from typing import Any

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

__all__ = ["result_text"]


def result_text(result: CallToolResult) -> str:
    """The text of a result. Images and sounds are named, not shown; structured content is added where the text
    does not repeat it.

    Example:
        >>> result_text(CallToolResult(content=[TextContent(type="text", text="4 C")]))
        '4 C'
    """
    parts = [_block_text(block) for block in result.content]
    structured = result.structured_content
    if structured is not None and not _repeats(parts, structured):
        parts.append(json.dumps(structured, ensure_ascii=False))
    return "\n\n".join(parts)


def _block_text(block: object) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            kind = "image" if isinstance(block, ImageContent) else "sound"
            return f"[{kind}: {block.mime_type}, {_size(block.data):,} bytes, not shown]"
        case ResourceLink():
            described = [block.name, block.description or "", block.mime_type or ""]
            return f"[resource {block.uri}: {', '.join(filter(None, described))}]"
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return f"[resource {resource.uri}]\n{resource.text}"
        case EmbeddedResource(resource=BlobResourceContents() as resource):
            kind = resource.mime_type or "data"
            return f"[resource {resource.uri}: {kind}, {_size(resource.blob):,} bytes, not shown]"
    return f"[{type(block).__name__}, not shown]"


def _size(base64: str) -> int:
    """Bytes that base64 stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")


def _repeats(parts: list[str], structured: Any) -> bool:
    """Whether the text says what the structured content says, which servers are asked to do. A value that is not
    an object is wrapped as ``{"result": VALUE}``, and a list may come as one block for each item."""
    wrapped = isinstance(structured, dict) and list(structured) == ["result"]
    values = [structured, structured["result"]] if wrapped else [structured]
    texts = [*parts, *map(_parsed, parts), parts, list(map(_parsed, parts))]
    return any(value == text for value in values for text in texts)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
