"""The harmony format: conversations to tokens and back.

One turn on the wire. Control tokens are drawn in angle brackets; everything else is ordinary text.

    <|start|>user<|message|>How warm is Oslo?<|end|>
    <|start|>assistant<|channel|>analysis<|message|>I need the tool.<|end|>
    <|start|>assistant to=functions.temp<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
    <|start|>functions.temp to=assistant<|channel|>commentary<|message|>{"celsius":4}<|end|>
    <|start|>assistant<|channel|>final<|message|>Four degrees.<|return|>
    └──┬──┘└────────────┬───────────┘└───┬───┘└────┬─────┘└───┬───┘
     start            header          message   content   terminator
"""

from __future__ import annotations

from .content import (
    ChannelConfig,
    DeveloperContent,
    ResponseFormat,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
)
from .fields import Channel, ReasoningEffort, Role
from .messages import Author, Conversation, Message, Repair, RepairKind
from .parse import Change, ParserState, StreamParser, parse
from .render import Rendering, Segment, render, render_for_training, render_segments

__all__ = [
    "Author",
    "Change",
    "Channel",
    "ChannelConfig",
    "Conversation",
    "DeveloperContent",
    "Message",
    "ParserState",
    "ReasoningEffort",
    "Rendering",
    "Repair",
    "RepairKind",
    "ResponseFormat",
    "Role",
    "Segment",
    "StreamParser",
    "SystemContent",
    "TextContent",
    "ToolDescription",
    "ToolNamespace",
    "parse",
    "render",
    "render_for_training",
    "render_segments",
]
