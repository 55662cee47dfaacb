"""The four readers as functions of bytes. Each returns whether the bytes were accepted; anything wrong raises."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.errors import ChatFileError, GptOssError, ParseError, TokenizerError
from gptoss_mlx.harmony import Conversation, Message, StreamParser, render
from gptoss_mlx.tokenizer import CONTROL_TOKENS, Tokenizer
from tests.hostile.corpus import small_tokenizer_json
from tests.hostile.headers import accepted

__all__ = ["TARGETS", "seeds"]


def header(content: bytes, place: Path) -> bool:
    """A safetensors file: accepted only if safetensors accepts it too, with the same tensors.

    The first byte is the number of bytes of data after the header's text, or, from 128 on, says that the rest is
    the whole file: mutations rarely get a header's length right.
    """
    if content and content[0] < 128:
        content = struct.pack("<Q", len(content) - 1) + content[1:] + bytes(content[0])
    else:
        content = content[1:]
    return accepted(place / "model.safetensors", content)


def tokenizer(content: bytes, place: Path) -> bool:
    """A tokenizer.json: refused, or text is reproduced and never becomes a control token."""
    (place / "tokenizer.json").write_bytes(content)
    try:
        read = Tokenizer.from_directory(place)
    except TokenizerError as error:
        _check_message(error)
        return False
    for text in ("plain <|end|> text\n\n  東京 🙂 1234 5", *read.special):
        try:
            tokens = read.encode(text)
        except TokenizerError:  # a pattern other than the published one, which does not match all of it
            return False
        assert read.decode(tokens) == text
        assert not any(map(read.is_special, tokens))
    return True


def harmony(content: bytes, place: Path) -> bool:
    """A stream of tokens, one for each byte: recovery never raises, and equals strict parsing where that succeeds
    without a control token in a content."""
    codec = _small_tokenizer()
    controls = [codec.special[name] for name in CONTROL_TOKENS]
    stream = [controls[byte - 248] if byte >= 248 else _words()[byte % len(_words())] for byte in content]
    recovered = StreamParser(codec, role=None)
    strict: StreamParser | None = StreamParser(codec, role=None, strict=True)
    for token in stream:
        recovered.process(token)
        if strict is not None:
            try:
                strict.process(token)
            except ParseError as error:
                _check_message(error)
                strict = None
    recovered.close()
    if strict is not None:
        try:
            strict.close()
        except ParseError:
            strict = None
    # A chat that was read can be rendered.
    render(Conversation(messages=tuple(recovered.messages)), codec, drop_analysis=False)
    if strict is not None and not any("<|" in message.text for message in strict.messages):
        assert strict.messages == recovered.messages
    return strict is not None


def session(content: bytes, place: Path) -> bool:
    """A saved chat: refused, or equal after it was saved again."""
    path, copy = place / "chat.json", place / "copy.json"
    path.write_bytes(content)
    try:
        chatfile.read(path, keep_readable=True)
        chat = chatfile.read(path)
    except ChatFileError as error:
        _check_message(error)
        return False
    chatfile.write(copy, chat)
    assert chatfile.read(copy) == chat
    return True


Target = Callable[[bytes, Path], bool]
TARGETS: dict[str, Target] = {"header": header, "tokenizer": tokenizer, "harmony": harmony, "session": session}


def seeds(name: str) -> Iterator[bytes]:
    """Valid inputs to start from."""
    if name == "header":
        entry = {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]}
        for content in ({"a": entry}, {"__metadata__": {"format": "pt"}, "a": entry}, {}):
            text = json.dumps(content).encode()
            yield bytes([4 if content else 0]) + text
            yield b"\xff" + struct.pack("<Q", len(text)) + text + bytes(4 if content else 0)
    elif name == "tokenizer":
        yield json.dumps(small_tokenizer_json(), separators=(",", ":")).encode()
    elif name == "harmony":
        yield bytes([252, 0, 251, 8, 254, 20, 21, 253])
        yield bytes([252, 0, 11, 251, 9, 16, 250, 12, 254, 22, 255])
        yield bytes([252, 2, 254, 30, 253, 252, 0, 251, 7, 254, 31, 249])
    else:
        for messages in (
            [Message.user("hi"), Message.assistant("hello", channel="final")],
            [Message.tool("functions.f", "4"), Message.assistant("x", channel="analysis")],
        ):
            entries = [message.to_dict() for message in messages]
            yield json.dumps({"version": 1, "title": "t", "effort": "low", "messages": entries}).encode()


def _check_message(error: GptOssError) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 2000


_WORDS = [
    *["assistant", "user", "system", "developer", "tool", "functions.f", "final", "analysis", "commentary"],
    *[" to=", " to=functions.f", " json", " code", ":bob", "=", " ", "\n", "all", "<", "hello", " world", "{}"],
    *["\ufffd", "foo bar"],
]


@cache
def _small_tokenizer() -> Tokenizer:
    """A tokenizer with the words of headers and every byte as tokens."""
    ranks = {bytes([value]): value for value in range(256)}
    for word in _WORDS:
        ranks.setdefault(word.encode(), len(ranks))
    return Tokenizer.from_ranks(ranks, {name: 1000 + at for at, name in enumerate(CONTROL_TOKENS)})


@cache
def _words() -> list[int]:
    """The tokens of bytes below 248: words first, then parts of characters and other bytes."""
    codec = _small_tokenizer()
    named = {codec.token_bytes(token): token for token in range(codec.size)}
    return [named[word.encode()] for word in _WORDS] + [0xE6, 0x9D, 0xB1, 0xF0, 0xFF, 0x80, 0x0D, 0x00]
