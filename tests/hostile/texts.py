"""Conversations as a structure and the texts in it; only the structure may create control tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st

from gptoss_mlx.harmony import (
    Author,
    Channel,
    Conversation,
    DeveloperContent,
    Message,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
    render,
)
from gptoss_mlx.harmony.content import ResponseFormat
from tests.harmony.fixtures import CONTROL_STRINGS, NAMED, tokenizer

__all__ = ["check", "conversations"]

CODEC = tokenizer()
CONTROLS = frozenset(CODEC.special.values())

# Complete names, parts that a neighbour could complete, words of headers, characters of every kind.
_PIECES = [
    *CONTROL_STRINGS,
    *["<", "|", ">", "<|st", "art|>", "end|>", "|start|", "assistant", "final", " to=functions.f", "functions"],
    *["\n", "\r", "\x00", "\x1b[2J", " ", "\t", "*/", "//", '"', "\\", "{", "}", "\u2028", "\ufeff", "\ufffd"],
    *["a", "7", "é", "東京", "🙂", "\u0301", "\u200d", "\u202e", "＜｜end｜＞", "\U000e0041", "\u0130"],
]
texts = st.lists(st.sampled_from(_PIECES), max_size=4).map("".join)

_KINDS = ("system", "developer", "user", "assistant", "call", "tool")


def _tools(draw: st.DrawFn) -> tuple[ToolNamespace, ...]:
    said = draw(texts)
    schema = {
        "type": "object",
        "description": said,
        "properties": {said: {"type": "string", "description": said, "default": said, "enum": [said, "x"]}},
    }
    tool = ToolDescription(name="g", description=said, parameters=schema)
    return (ToolNamespace(name="f", description=said, tools=(tool,)),)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Conversation, Counter[str]]:
    """A conversation, and how often its structure needs each control token."""
    messages: list[Message] = []
    expected: Counter[str] = Counter({"<|start|>": 1})  # the header that the model continues
    for kind in draw(
        st.lists(st.sampled_from(["system", "developer", "user", "assistant", "call", "tool"]), max_size=6)
    ):
        message = _message(draw, kind)
        messages.append(message)
        expected["<|start|>"] += 1
        expected["<|message|>"] += 1
        expected["<|call|>" if kind == "call" else "<|end|>"] += 1
        expected["<|channel|>"] += message.channel is not None
        expected["<|constrain|>"] += kind == "call"
    return Conversation(messages=tuple(messages)), expected


def _message(draw: st.DrawFn, kind: str) -> Message:
    said = draw(texts)
    if kind == "system":
        content = SystemContent(model_identity=said, knowledge_cutoff=draw(texts), tools=_tools(draw))
        return Message.system(content)
    if kind == "developer":
        formats = (ResponseFormat(name="r", schema={said: said}, description=said),)
        return Message.developer(DeveloperContent(instructions=said, tools=_tools(draw), response_formats=formats))
    if kind == "call":
        return Message(
            author=Author(role="assistant"),  # type: ignore[arg-type]
            content=(TextContent(text=said), TextContent(text=draw(texts))),
            channel=Channel.COMMENTARY,
            recipient="functions.g",
            content_type="<|constrain|>json",
        )
    if kind == "tool":
        return Message.tool("functions.g", said)
    if kind == "user":
        return Message.user(said)
    channel: Any = draw(st.sampled_from([None, *Channel]))
    return Message.assistant(said, channel=channel)


def check(made: tuple[Conversation, Counter[str]]) -> None:
    """Asserts that the control tokens of the rendering are those of the structure."""
    conversation, expected = made
    found = Counter(token for token in render(conversation, CODEC, drop_analysis=False) if token in CONTROLS)
    assert found == Counter({NAMED[name]: count for name, count in expected.items() if count}), conversation
