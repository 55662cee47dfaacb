"""The long comparison with openai-harmony; the test suite runs a small part of it.

    python -m tests.benchmarks.harmony_differential --conversations 20000 --streams 100000

A conversation has system and developer messages with tools and nested schemas, and unicode and the names of
control tokens in every text; all its tokens must be equal. A stream is valid or mutated (insert, delete,
replace, double, swap, splice, truncate). Strict parsing must accept and reject it as the oracle does, with equal
messages. Recovering parsing must not raise, must lose no text, and must equal strict parsing where that succeeds
and no content has a control token.
The documented differences (tests/harmony/test_differences.py) are applied to the expectations.

Last full run, against openai-harmony 0.0.8, seeds from 1,000,000: 20,000 conversations of 8,628,658 tokens, all
equal (17,985 of them where both libraries drop the same messages); 100,000 streams of 5,791,963 tokens, all
equal, 53,284 accepted and 46,716 rejected. Some 8 minutes of one core.
"""

from __future__ import annotations

import argparse
import random
import time

from gptoss_mlx.harmony import Conversation, render
from gptoss_mlx.harmony.render import dropped_messages
from tests.harmony.fixtures import oracle_dropped, oracle_render, random_conversation, tokenizer
from tests.harmony.streams import check_stream, mutate, random_stream

STEP = 5_000


def compare_conversations(seeds: range) -> None:
    """Compares renderings with and without dropped analysis."""
    started, tokens, same_rule = time.monotonic(), 0, 0
    for seed in seeds:
        conversation = random_conversation(random.Random(seed))
        ours = render(conversation, tokenizer(), drop_analysis=False)
        assert ours == oracle_render(conversation, drop_analysis=False), f"seed {seed}"
        dropped = dropped_messages(conversation.messages)
        theirs = oracle_dropped(conversation)
        same_rule += dropped == theirs
        if dropped or theirs:
            kept = tuple(message for at, message in enumerate(conversation.messages) if at not in dropped)
            shown = render(conversation, tokenizer())
            assert shown == oracle_render(Conversation(messages=kept), drop_analysis=False), f"seed {seed}, kept"
            assert dropped != theirs or shown == oracle_render(conversation), f"seed {seed}, dropping"
        tokens += len(ours)
        if (seed + 1) % STEP == 0:
            print(f"  {seed + 1 - seeds.start:,} conversations", flush=True)
    print(
        f"conversations: {len(seeds):,} equal, {tokens:,} tokens; {same_rule:,} of them where both drop the same, "
        f"equal with the oracle's own dropping; {time.monotonic() - started:.0f} s"
    )


def compare_streams(seeds: range) -> None:
    """Compares strict and recovering parsing; one in three streams is valid."""
    started, tokens, accepted = time.monotonic(), 0, 0
    other: list[int] = []
    for seed in seeds:
        rng = random.Random(seed)
        stream, role = random_stream(rng)
        if seed % 3:
            stream = mutate(rng, stream, other or stream)
        accepted += check_stream(stream, role)
        tokens += len(stream)
        other = stream
        if (seed + 1) % STEP == 0:
            print(f"  {seed + 1 - seeds.start:,} streams, {accepted:,} accepted", flush=True)
    print(
        f"streams: {len(seeds):,} equal, {tokens:,} tokens; strict accepts {accepted:,} and rejects "
        f"{len(seeds) - accepted:,}, as the oracle; {time.monotonic() - started:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1_000_000)
    options = parser.parse_args()
    compare_conversations(range(options.seed, options.seed + options.conversations))
    compare_streams(range(options.seed, options.seed + options.streams))


if __name__ == "__main__":
    main()
