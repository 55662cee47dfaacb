"""The harmony format: conversations to tokens and back.

It renders, parses and describes tools. It knows tokenizers only as a protocol, and no model, sampling or terminal.

One turn on the wire. A name between ``<|`` and ``|>`` is a control token, a single token; everything else is
ordinary text. The line breaks are for the reader and are not part of the format.

    <|start|>user<|message|>How warm is Oslo?<|end|>
    <|start|>assistant<|channel|>analysis<|message|>I need the tool.<|end|>
    <|start|>assistant to=functions.temp<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
    <|start|>functions.temp to=assistant<|channel|>commentary<|message|>{"celsius":4}<|end|>
    <|start|>assistant<|channel|>final<|message|>Four degrees.<|return|>

The third message, taken apart:

    <|start|>assistant to=functions.temp<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
             └ role ─┘ └── recipient ──┘└───── channel ─────┘ └ content type ─┘           └── content ──┘└ stop ┘
             └──────────────────────────── header ────────────────────────────┘

* **Role**: system, developer, user, assistant. A tool's message has the tool's name in place of the role.
* **Channel**: analysis is thinking; commentary has function calls and preambles; final is the answer.
* **Recipient**: the tool that a message calls, or the assistant. Models write it before the channel or after it.
* **Stop**: ``<|call|>`` after a call and ``<|return|>`` after the answer end the reply, ``<|end|>`` only the
  message. In the history ``<|return|>`` becomes ``<|end|>``.

A prompt is the conversation so far and the start of a header, ``<|start|>assistant``. The model continues from
there, and so does the parser:

    tokens = render(conversation, tokenizer)
    parser = StreamParser(tokenizer)
    for token in generate(tokens):
        for change in parser.process(token):
            show(change.header.channel, change.delta)
    parser.close()
    conversation = conversation.adding(*(message.stored() for message in parser.messages))

Text is always encoded as ordinary text and header fields are checked, so no user, tool or schema can forge a
control token or a header. Once the next user message follows, the analysis of a finished turn is left out.

    fields.py      roles, channels, efforts, and the rules for header fields
    content.py     the contents of messages: text, system settings, instructions, tools
    messages.py    Author, Message, Conversation: frozen, checked when made, read from and written to JSON
    typescript.py  JSON schema → the notation in which the model reads its tools
    builtin.py     the tools it was trained with: browser, python
    render.py      conversation → tokens
    header.py      the words of a header → its fields, strictly
    recovery.py    the words of a header → its fields, as real models write them
    control.py     the control tokens, as the parser distinguishes them
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
