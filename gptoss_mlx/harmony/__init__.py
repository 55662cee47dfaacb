"""The harmony format: conversations to tokens and back.

One turn on the wire. Names between ``<|`` and ``|>`` are control tokens, one token each; all the rest is
ordinary text. Line breaks are drawn here and not written.

    <|start|>user<|message|>How warm is Oslo?<|end|>
    <|start|>assistant<|channel|>analysis<|message|>I need the tool.<|end|>
    <|start|>assistant to=functions.temp<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
    <|start|>functions.temp to=assistant<|channel|>commentary<|message|>{"celsius":4}<|end|>
    <|start|>assistant<|channel|>final<|message|>Four degrees.<|return|>

The third message, taken apart:

    <|start|>assistant to=functions.temp<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
             └ role ─┘ └── recipient ──┘└───── channel ─────┘ └ content type ─┘           └── content ──┘└ stop ┘
             └──────────────────────────── header ────────────────────────────┘

* **Role**: system, developer, user, assistant. In a tool's message its name stands in the role's place.
* **Channel**: analysis is thinking; commentary has calls of functions and preambles; final is the answer.
* **Recipient**: whom a message calls, or answers. Models write it before the channel or after it.
* **Stop**: ``<|call|>`` after a call and ``<|return|>`` after the answer end the reply, ``<|end|>`` only the
  message. In the history ``<|return|>`` becomes ``<|end|>``.

A prompt is the conversation so far and the beginning of a header, ``<|start|>assistant``; the model goes on
from there, and so does the parser:

    tokens = render(conversation, tokenizer)
    parser = StreamParser(tokenizer)
    for token in generate(tokens):
        for change in parser.process(token):
            show(change.header.channel, change.delta)
    parser.close()
    conversation = conversation.adding(*(message.stored() for message in parser.messages))

Text is always encoded as ordinary text and header fields are checked, so no user, tool or schema can forge a
control token or a header. When the next user message comes, the analysis of a finished turn is left out.

    fields.py      roles, channels, efforts; what each header field may be
    content.py     what a message holds: text, system settings, instructions, tools
    messages.py    Author, Message, Conversation, frozen and checked when made
    wire.py        the same as openai-harmony's JSON
    typescript.py  JSON schema → the notation in which the model knows its tools
    builtin.py     the tools it was trained with: browser, python
    render.py      conversation → tokens
    header.py      the words of a header → its fields
    parse.py       tokens → messages
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
