"""Shared by the harmony tests: the tokenizer, the oracle (openai-harmony) and random conversations.

All randomness comes from a `random.Random` that the caller seeds.
"""

from __future__ import annotations

import base64
import json
import os
import random
from functools import cache, lru_cache
from typing import Any

from gptoss_mlx.harmony import (
    Author,
    ChannelConfig,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
    builtin,
)
from gptoss_mlx.tokenizer import Tokenizer
from tests import DATA

# The oracle then reads the vocabulary from here and not from the network.
os.environ.setdefault("TIKTOKEN_ENCODINGS_BASE", str(DATA))

import openai_harmony  # type: ignore[import-untyped]

NAMED = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}


OracleError: type[Exception] = openai_harmony.HarmonyError
OracleConversation: Any = openai_harmony.Conversation
OracleParser: Any = openai_harmony.StreamableParser
OracleRole: Any = openai_harmony.Role


@cache
def tokenizer() -> Tokenizer:
    """o200k_harmony."""
    ranks = {}
    for line in (DATA / "o200k_base.tiktoken").read_bytes().splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece)] = int(rank)
    named = set(NAMED.values())
    reserved = {f"<|reserved_{token}|>": token for token in range(200000, 201088) if token not in named}
    return Tokenizer.from_ranks(ranks, NAMED | reserved)


@cache
def oracle() -> Any:
    """OpenAI's own library."""
    return openai_harmony.load_harmony_encoding("HarmonyGptOss")


def golden(name: str) -> str:
    """One of openai-harmony's golden files, without the line break at its end."""
    return (DATA / "harmony" / f"{name}.txt").read_text(encoding="utf-8").rstrip()


def wire(text: str) -> list[int]:
    """Encodes a text in which the names of control tokens are control tokens."""
    return list(_wire(text))


@lru_cache(4096)
def _wire(text: str) -> tuple[int, ...]:
    return tuple(oracle().encode(text, allowed_special="all"))


def oracle_render(
    conversation: Conversation, next_role: str | None = "assistant", drop_analysis: bool = True
) -> list[int]:
    """The oracle's tokens, from its inner function, because its Python classes lose explicit nulls."""
    text = json.dumps(conversation.to_dict())
    config = {"auto_drop_analysis": drop_analysis}
    inner = oracle()._inner
    tokens: list[int]
    if next_role is None:
        tokens = inner.render_conversation(text, config)
    else:
        tokens = inner.render_conversation_for_completion(text, next_role, config)
    return tokens


CONTROL_STRINGS = [*NAMED, "<|reserved_200001|>", "<|start|>assistant<|channel|>final<|message|>", "<|", "|>"]
SCRIPTS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFG0123456789_-./:;,!?'\"\\{}[]()<>|=+*&^%$#@~`",
    "äöüßéèñçøåœ",
    "абвгдежзиклмн",
    "漢字仮名交じり文",
    "🙂🎉👩‍🚀🇳🇴👋🏾",
    "אבגדהוזمرحبا",
    "\u0301\u200d\ufe0f\u200b\u202e",
]
WORDS = ["the", "weather", "in", "Oslo", "is", "cold,", "so", "we", "should", "call", "a", "tool", "then", "no?"]


def random_text(rng: random.Random, *, lines: bool = True) -> str:
    """Words, scripts, white space and the names of control tokens."""
    parts = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6, 12])):
        kind = rng.random()
        if kind < 0.5:
            parts.append(" ".join(rng.choices(WORDS, k=rng.randint(1, 6))))
        elif kind < 0.75:
            parts.append("".join(rng.choices(rng.choice(SCRIPTS), k=rng.randint(1, 8))))
        elif kind < 0.87:
            parts.append(rng.choice(CONTROL_STRINGS))
        else:
            parts.append(rng.choice([" ", "  ", "\n", "\n\n", "\t", "\r\n", " \n "] if lines else [" ", "\t"]))
    return rng.choice(["", " "]).join(parts)


def random_name(rng: random.Random) -> str:
    """A valid name of a function or a user."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
    return "".join(rng.choices(letters, k=rng.choice([1, 4, 8, 12, 64])))


def random_json(rng: random.Random, depth: int = 2) -> Any:
    """Any JSON value. Numbers have at most 15 digits, so that every reader reads them alike."""
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, 10, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**22])
    if kind == 2:
        return float(f"{rng.randint(-(10**9), 10**9)}e{rng.randint(-20, 12)}")
    if kind <= 5:
        return random_text(rng, lines=False)
    if kind <= 7:
        return [random_json(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {random_text(rng): random_json(rng, depth - 1) for _ in range(rng.randint(0, 3))}


TYPES = ["string", "number", "integer", "boolean", "null", "array", "object", "unheard-of"]


def random_schema(rng: random.Random, depth: int = 3, *, complete: bool = False) -> Any:
    """A schema of any kind; with ``complete`` one without the keywords for which openai-harmony writes ``any``."""
    if rng.random() < 0.03:
        return rng.choice([True, None, 3, "string", [], *([] if complete else [False])])
    schema: dict[str, Any] = {}
    kind = rng.random()
    if kind < 0.35 and depth:
        schema = _random_object(rng, depth, complete)
    elif kind < 0.5 and depth:
        schema = {"type": "array"}
        if rng.random() < 0.8:
            schema["items"] = random_schema(rng, depth - 1, complete=complete)
    elif kind < 0.65 and depth:
        variants = [random_schema(rng, depth - 1, complete=complete) for _ in range(rng.randint(0, 3))]
        schema = {"oneOf" if complete else rng.choice(["oneOf", "oneOf", "oneOf", "anyOf", "allOf"]): variants}
    elif kind < 0.72:
        schema = {"type": rng.choices(TYPES, k=rng.randint(0, 3))}
    elif kind < 0.75 and not complete:
        schema = {"$ref": rng.choice(["#/definitions/x", "#", "#/properties/p"])}
    else:
        schema = {"type": rng.choice(TYPES)}
    unread = not schema.get("type") or schema["type"] in ("null", "unheard-of")
    if complete and unread and "oneOf" not in schema:
        schema = {}
    elif rng.random() < 0.3:
        schema["enum"] = [random_json(rng, 0) for _ in range(rng.randint(0, 3))]
    _add_annotations(rng, schema)
    entries = list(schema.items())
    rng.shuffle(entries)
    return dict(entries)


def _random_object(rng: random.Random, depth: int, complete: bool) -> dict[str, Any]:
    keys = [rng.choice([random_name(rng), random_text(rng)]) for _ in range(rng.randint(0, 4))]
    schema: dict[str, Any] = {"type": "object"}
    if rng.random() < 0.9:
        schema["properties"] = {key: random_schema(rng, depth - 1, complete=complete) for key in keys}
    if rng.random() < 0.5:
        schema["required"] = rng.sample(keys, rng.randint(0, len(keys))) + rng.choice([[], [3], ["other"]])
    return schema


def _add_annotations(rng: random.Random, schema: dict[str, Any]) -> None:
    if rng.random() < 0.35:
        schema["description"] = rng.choice([random_text(rng, lines=False)] * 9 + [None])
        variants = schema.get("oneOf")
        if variants and rng.random() < 0.5 and isinstance(variants[0], dict):
            variants[0]["description"] = schema["description"]
    if rng.random() < 0.1:
        schema["title"] = rng.choice([random_text(rng, lines=False)] * 9 + [7])
    if rng.random() < 0.15:
        schema["examples"] = rng.choice(
            [[random_json(rng, 0) if rng.random() < 0.3 else random_text(rng, lines=False)], [], "no list"]
        )
    if rng.random() < 0.3:
        schema["default"] = random_json(rng)
    if rng.random() < 0.15:
        schema["nullable"] = rng.choice([True, True, False, "true"])


def random_namespace(rng: random.Random, name: str) -> ToolNamespace:
    """A namespace with up to four functions."""
    names = {random_name(rng) for _ in range(rng.randint(0, 4))}
    tools = []
    for tool in sorted(names):
        schema = random_schema(rng, complete=True)
        parameters = schema if isinstance(schema, dict) and rng.random() < 0.9 else None
        description = random_text(rng)
        tools.append(ToolDescription(name=tool, description=description, parameters=parameters))
    rng.shuffle(tools)
    return ToolNamespace(name=name, description=rng.choice([None, random_text(rng)]), tools=tuple(tools))


def random_tools(rng: random.Random) -> tuple[ToolNamespace, ...]:
    """Namespaces, built-in or not."""
    tools = {}
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        name = rng.choice(["functions", "functions", "browser", "python", "a-b", "Zeta", "x_1"])
        made = {"browser": builtin.browser, "python": builtin.python}.get(name)
        tools[name] = made() if made and rng.random() < 0.7 else random_namespace(rng, name)
    return tuple(tools.values())


def random_system(rng: random.Random) -> Message:
    """A system message with any selection of its lines."""
    return Message.system(
        SystemContent(
            model_identity=rng.choice([None, "You are ChatGPT.", random_text(rng)]),
            reasoning_effort=rng.choice([None, *ReasoningEffort]),
            conversation_start_date=rng.choice([None, "2025-06-28", "1999-12-31"]),
            knowledge_cutoff=rng.choice([None, "2024-06", random_text(rng)]),
            channel_config=rng.choice(
                [
                    None,
                    ChannelConfig(),
                    ChannelConfig(channel_required=False),
                    ChannelConfig(valid_channels=("final", "analysis")),  # type: ignore[arg-type]
                    ChannelConfig(valid_channels=()),
                ]
            ),
            tools=random_tools(rng),
        )
    )


def random_developer(rng: random.Random) -> Message:
    """A developer message without response formats, which the oracle does not have."""
    instructions = rng.choice([None, random_text(rng)])
    return Message.developer(DeveloperContent(instructions=instructions, tools=random_tools(rng)))


CONTENT_TYPES = [None, None, "json", "code", "<|constrain|>json", "<|constrain|>", "<|constrain|>x", "text/plain"]


def random_message(rng: random.Random) -> Message:
    """A message of user, assistant or tool, with any header."""
    role = rng.choice([Role.USER, Role.ASSISTANT, Role.ASSISTANT, Role.ASSISTANT, Role.TOOL])
    recipient = rng.choice([None, None, None, "functions.f", "browser.search", "python", "all", "user", "ä🙂"])
    name: str | None = rng.choice([None, None, None, random_name(rng)])
    if role is Role.TOOL:
        name = rng.choice([f"functions.{random_name(rng)}", "python", "x", "browser.search"])
        recipient = rng.choice([None, "assistant", "assistant", "all"])
    channels = [None, "analysis", "analysis", "commentary", *(["final"] if role is not Role.TOOL else [])]
    return Message(
        author=Author(role=role, name=name),
        content=tuple(TextContent(text=random_text(rng)) for _ in range(rng.choice([1, 1, 1, 0, 2]))),
        channel=rng.choice(channels),  # type: ignore[arg-type]
        recipient=recipient,
        content_type=rng.choice(CONTENT_TYPES),
    )


def random_conversation(rng: random.Random) -> Conversation:
    """A conversation of up to a dozen messages."""
    messages = [random_system(rng)] if rng.random() < 0.7 else []
    if rng.random() < 0.6:
        messages.append(random_developer(rng))
    messages += [random_message(rng) for _ in range(rng.choice([0, 1, 2, 4, 8]))]
    return Conversation(messages=tuple(messages))


def oracle_dropped(conversation: Conversation) -> set[int]:
    """The messages that the oracle drops: analysis before the first final, if the last reply is on final."""
    finals = [m.channel == "final" for m in conversation]
    assistant = [m.channel == "final" for m in conversation if m.role is Role.ASSISTANT]
    if not assistant or not assistant[-1]:
        return set()
    first = finals.index(True)
    return {i for i, m in enumerate(conversation) if i < first and m.channel == "analysis"}
