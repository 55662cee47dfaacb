"""The speed of rendering and parsing beside openai-harmony's, in one run.

    python -m tests.benchmarks.harmony_speed

Times are the best of several rounds, in process CPU time. openai-harmony's rendering includes the JSON that its
Python interface uses; both parsers process one token at a time.

On a busy virtual machine (x86-64, Python 3.11), ours / openai-harmony 0.0.8: 101 messages of 7,717 tokens, first
time 2.4 ms, again 0.4 ms / 17.3 ms; a token parsed in 2.0 µs / 1.9 µs, 5.2 µs where every message has two words.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from gptoss_mlx.harmony import Conversation, Message, StreamParser, SystemContent, render
from gptoss_mlx.tokenizer import Tokenizer
from tests.harmony.fixtures import WORDS, OracleConversation, OracleParser, OracleRole, oracle, tokenizer

MESSAGES = 100
TOKENS = 10_000


def best(action: Callable[[], object], rounds: int = 7) -> float:
    """Seconds of CPU time of the best round."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def talk(messages: int) -> Conversation:
    """Questions and answers of about 60 words."""
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=60)) + f" ({number})" for number in range(messages)]
    made = [
        Message.assistant(text, channel="final") if number % 2 else Message.user(text)
        for number, text in enumerate(texts)
    ]
    return Conversation(messages=(Message.system(SystemContent()), *made))


class Fresh:
    """A tokenizer for which no rendered messages are cached."""

    def __init__(self, inner: Tokenizer) -> None:
        self.special, self.encode, self.token_bytes = inner.special, inner.encode, inner.token_bytes


def compare_rendering() -> None:
    conversation = talk(MESSAGES)
    theirs = OracleConversation.from_json(json.dumps(conversation.to_dict()))
    role = OracleRole.ASSISTANT
    tokens = len(render(conversation, tokenizer()))
    assert oracle().render_conversation_for_completion(theirs, role) == render(conversation, tokenizer())
    cold = best(lambda: render(conversation, Fresh(tokenizer())))
    warm = best(lambda: render(conversation, tokenizer()))
    other = best(lambda: oracle().render_conversation_for_completion(theirs, role))
    print(f"rendering {len(conversation)} messages, {tokens:,} tokens:")
    print(f"  first time {cold * 1e3:.2f} ms; again {warm * 1e3:.2f} ms; openai-harmony {other * 1e3:.2f} ms")
    times = {size: best(lambda size=size: render(talk(size), Fresh(tokenizer()))) for size in (100, 200, 400)}  # type: ignore[misc]
    print("  messages → ms, first time: " + ", ".join(f"{n} → {t * 1e3:.2f}" for n, t in times.items()))


def compare_parsing() -> None:
    header = "<|channel|>final<|message|>"
    text = " ".join(random.Random(2).choices([*WORDS, "naïve", "漢字", "👋🏾"], k=TOKENS))
    body = tokenizer().encode(text)[:TOKENS]
    stream = [*oracle().encode(header, allowed_special="all"), *body]

    def ours() -> None:
        parser = StreamParser(tokenizer())
        for token in stream:
            parser.process(token)
            parser.last_delta  # noqa: B018

    def theirs() -> None:
        parser = OracleParser(oracle(), OracleRole.ASSISTANT)
        for token in stream:
            parser.process(token)
            parser.last_content_delta  # noqa: B018

    ours_time, their_time = best(ours), best(theirs, rounds=3)
    print(f"parsing {len(stream):,} tokens:")
    print(
        f"  {ours_time / len(stream) * 1e6:.2f} µs a token; "
        f"openai-harmony {their_time / len(stream) * 1e6:.2f} µs a token"
    )
    short = oracle().encode("<|channel|>analysis<|message|>a b<|end|><|start|>assistant", allowed_special="all")
    many = short * (TOKENS // len(short))

    def headers() -> None:
        parser = StreamParser(tokenizer())
        for token in many:
            parser.process(token)

    print(f"  {best(headers) / len(many) * 1e6:.2f} µs a token where every message has two words")


if __name__ == "__main__":
    compare_rendering()
    compare_parsing()
