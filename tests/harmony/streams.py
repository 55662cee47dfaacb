"""Token streams, valid and broken, and the oracle's reading of them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gptoss_mlx.errors import ParseError, RenderError
from gptoss_mlx.harmony import Author, Channel, Conversation, Message, Role, StreamParser, TextContent, render
from tests.harmony.fixtures import (
    CONTENT_TYPES,
    NAMED,
    WORDS,
    OracleError,
    oracle,
    random_message,
    random_text,
    tokenizer,
    wire,
)

Outcome = list[Message] | None
"""The messages of a stream; None if it was refused."""

STOPS = {NAMED["<|end|>"], NAMED["<|return|>"], NAMED["<|call|>"]}

# Mutations insert these: words of headers and half characters (also control tokens and text).
HEADER_WORDS = [
    *["assistant", "user", "system", "developer", "tool", "analysis", "commentary", "final", "json", " json"],
    *[" code", " to=", "to=", " to=functions.f", " to=python", "functions", ".f", " functions.f", " ", "\n"],
    *["  ", "\u00a0", "\t", "\u2003", "<", ":bob", " foo", "=", "all"],
]
HALF_CHARACTERS = [9552, 132990, 172, 253, 94]


def random_stream(rng: random.Random) -> tuple[list[int], str | None]:
    """A valid stream, as a model writes it or as `render` does, and the role at the end of its prompt."""
    if rng.random() < 0.5:
        tokens = [token for _ in range(rng.randint(1, 4)) for token in _model_message(rng)]
    else:
        messages = tuple(random_message(rng) for _ in range(rng.randint(1, 4)))
        tokens = render(Conversation(messages=messages), tokenizer(), None, drop_analysis=False)
    if rng.random() < 0.5:
        start = wire("<|start|>assistant")
        if tokens[:2] == start and rng.random() < 0.95:
            return tokens[2:], "assistant"
        if rng.random() < 0.2:
            return tokens[1:], rng.choice(["assistant", "user", "system"])
    return tokens, None


def _model_message(rng: random.Random) -> list[int]:
    """One assistant message with its header in one of the orders that models write."""
    recipient = rng.choice(["", "", " to=functions.f", " to=browser.search", " to=python"])
    kind = rng.choice([t for t in CONTENT_TYPES if t != "text/plain"])
    kind = "" if kind is None else rng.choice(["", " "]) * kind.startswith("<") + kind
    kind = kind if not kind or kind.startswith(("<", " ")) else f" {kind}"
    channel = rng.choice(["", "<|channel|>analysis", "<|channel|>commentary", "<|channel|>final"])
    header = rng.choice([f"{recipient}{channel}{kind}", f"{channel}{recipient}{kind}"])
    stop = rng.choice(["<|end|>", "<|return|>", "<|call|>"])
    text = tokenizer().encode(random_text(rng))
    return [*wire(f"<|start|>assistant{header}<|message|>"), *text, *wire(stop)]


def mutate(rng: random.Random, tokens: list[int], other: Sequence[int]) -> list[int]:
    """One to three edits: insert, delete, replace, double, swap, splice, truncate."""
    tokens = list(tokens)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randint(0, len(tokens))
        kind = rng.randrange(8)
        if kind <= 1:
            tokens[at:at] = _noise(rng)
        elif kind == 2:
            del tokens[at : at + rng.choice([1, 1, 1, 2, 5])]
        elif kind == 3:
            tokens[at : at + 1] = _noise(rng)
        elif kind == 4:
            tokens[at:at] = tokens[at : at + rng.choice([1, 2, 4])]
        elif kind == 5:
            tokens[at : at + 2] = tokens[at : at + 2][::-1]
        elif kind == 6:
            begin = rng.randint(0, len(other))
            tokens[at:] = other[begin:]
        else:
            del tokens[at:]
    return tokens


def _noise(rng: random.Random) -> list[int]:
    kind = rng.random()
    if kind < 0.45:
        return [rng.choice(list(NAMED.values()))]
    if kind < 0.8:
        return tokenizer().encode(rng.choice(HEADER_WORDS))
    if kind < 0.88:
        return [rng.choice(HALF_CHARACTERS)]
    return tokenizer().encode(" ".join(rng.choices(WORDS, k=rng.choice([1, 2, 3, 8]))))


def oracle_parse(tokens: Sequence[int], role: str | None) -> list[dict[str, Any]] | None:
    """The oracle's messages as JSON; None if it refuses the stream."""
    inner = oracle()._inner
    try:
        messages: list[dict[str, Any]] = json.loads(
            inner.parse_messages_from_completion_tokens(list(tokens), role, True)
        )
    except OracleError:
        return None
    return messages


def expected(tokens: Sequence[int], role: str | None) -> Outcome:
    """The result that strict parsing must have: the oracle's messages with the documented differences applied.

    * A word without ``to=`` is never a recipient: a lone word and the last of two are the content type, unless it
      repeats the role; the first of two is ignored.
    * A message with a field that no message may have is refused.
    """
    found = oracle_parse(tokens, role)
    if found is None:
        return None
    try:
        return [_expected_message(data, words) for data, words in zip(found, headers(tokens), strict=True)]
    except RenderError:
        return None


def headers(tokens: Sequence[int]) -> list[str]:
    """The text of each header of a stream that the oracle accepts."""
    found: list[str] = []
    header: list[int] | None = []
    for token in tokens:
        if header is None:
            header = [] if token in STOPS else None
        elif token == NAMED["<|message|>"]:
            found.append(tokenizer().decode(header))
            header = None
        elif token != NAMED["<|start|>"]:
            header.append(token)
    return found


def has_control_in_content(tokens: Sequence[int]) -> bool:
    """Whether a content has a control token, which strict parsing reads as text; for a stream that it accepts."""
    inside = False
    for token in tokens:
        if token in STOPS or token == NAMED["<|message|>"]:
            if inside and token not in STOPS:
                return True
            inside = token not in STOPS
        elif inside and tokenizer().is_special(token):
            return True
    return False


def _expected_message(data: dict[str, Any], header: str) -> Message:
    recipient, content_type = data.get("recipient"), data.get("content_type")
    header = re.sub(r"<\|channel\|>[^\s<]*", "", header, count=1)
    words = re.split("[ \t\n\f\r]+", header.replace("<|constrain|>", " <|constrain|>"))
    if recipient is not None and not any(f"to={recipient}" in word for word in words):
        if content_type is not None:
            if "<|" in recipient or "\ufffd" in recipient:
                raise RenderError("a control token in a stray word")
        elif recipient != data["role"] * (len(recipient) // len(data["role"])):
            content_type = recipient
        recipient = None
    if content_type is not None and "<|constrain|>" in header and "<|constrain|>" not in content_type:
        raise RenderError("two content types")
    return Message(
        author=Author(role=data["role"], name=data.get("name")),
        content=(TextContent(text=data["content"]),),
        channel=data.get("channel"),
        recipient=recipient,
        content_type=content_type,
    )


def strict_outcome(tokens: Sequence[int], role: str | None) -> Outcome:
    """The result of our strict parser."""
    parser = StreamParser(tokenizer(), role, strict=True)
    try:
        for token in tokens:
            parser.process(token)
        parser.close()
    except ParseError:
        return None
    return list(parser.messages)


def recovered(tokens: Sequence[int], role: str | None) -> list[Message]:
    """The messages of our recovering parser; asserts that the deltas add up to the texts."""
    parser = StreamParser(tokenizer(), role)
    changes = [change for token in tokens for change in parser.process(token)]
    changes += parser.close()
    texts, current = [], ""
    for change in changes:
        current += change.delta
        if change.message is not None:
            assert current == change.message.text
            texts.append(current)
            current = ""
    assert current == ""
    # The text of a repair can be printed.
    assert all(repair.text.encode() is not None for message in parser.messages for repair in message.repairs)
    assert texts == [message.text for message in parser.messages]
    return list(parser.messages)


def lost_text(tokens: Sequence[int], messages: Sequence[Message]) -> str:
    """The ordinary characters of a stream that are in no message: neither in its text, header nor repairs."""
    special = tokenizer()._special_ids
    data = b"".join(tokenizer().token_bytes(token) if token not in special else b"\0" for token in tokens)
    given = Counter(re.sub(r"t\x00*o\x00*=|[\s\x00\ufffd]", "", data.decode("utf-8", errors="replace")))
    for message in messages:
        fields = [message.channel, message.recipient, message.content_type, message.author.name, message.role]
        repairs = [repair.text for repair in message.repairs]
        given.subtract("".join([message.text, *repairs, *(field for field in fields if field)]))
        given.subtract(":" if message.author.name else "")
    return "".join(given.elements())


def check_stream(tokens: Sequence[int], role: str | None) -> bool:
    """Checks every property for a stream; returns whether strict parsing accepts it."""
    strict = strict_outcome(tokens, role)
    assert strict == expected(tokens, role), describe(tokens, role)
    messages = recovered(tokens, role)
    if strict is not None and not has_control_in_content(tokens):
        assert messages == strict, describe(tokens, role)
    elif messages:
        assert not lost_text(tokens, messages), describe(tokens, role)
    else:
        # A stream without messages has nothing but roles, channels, punctuation and the beginning of a field.
        rest = re.sub(r"<\|\w+\|>|\s", "", tokenizer().decode(tokens))
        rest = re.sub("|".join([*Role, *Channel, "to=", r"[!-/:-@\[-`{-~]"]), "", rest)
        fields = (*Role, *Channel, "to=", "json", "code", "text")
        assert any(field.startswith(rest) for field in fields), describe(tokens, role)
    return strict is not None


def describe(tokens: Sequence[int], role: str | None) -> str:
    """A stream and all its readings, for a failed assertion."""
    lines = [f"role {role}: {tokenizer().decode(tokens)!r}", f"tokens {list(tokens)}"]
    lines.append(f"oracle   {oracle_parse(tokens, role)}")
    lines.append(f"expected {expected(tokens, role)}")
    lines.append(f"strict   {strict_outcome(tokens, role)}")
    return "\n".join([*lines, f"recover  {recovered(tokens, role)}"])
