"""How often a warm prompt cache makes a chat in bfloat16 say another token than a cold one would.

    python -m tests.benchmarks.engine_warm [--model demo] [--chats 4]

Chats of ten turns are held at temperature 1, with retries and a change of effort. At every turn an answer is
read three times, token for token the same: with the cache that the chat had, with none, and with none one token
at a time. The share of positions at which the most likely token is another one than without a cache is the warm
rate; for the third reading it is what bfloat16 costs anyone who decodes. In float32 both have to be 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

import gptoss_mlx as gptoss
from gptoss_mlx.api import GptOss
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.sampling import SamplingParams

QUESTIONS = (
    "hi",
    "What is MXFP4?",
    "How many layers does gpt-oss-20b have?",
    "Who are you?",
    "What is 12+30?",
    "How many experts does gpt-oss-120b have?",
    "What is a sink?",
    "Who was the mayor of Ghent in 1811?",
    "What is the sliding window?",
    "Thank you.",
)
RETRIED, RAISED = (2, 6), 4


@dataclass
class Tally:
    """Positions read, and at how many the most likely token was another one."""

    positions: int = 0
    warm: int = 0
    stepwise: int = 0
    prompt: int = 0
    cached: int = 0


def main() -> None:
    """Prints the rates of both precisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--chats", type=int, default=4)
    arguments = parser.parse_args()
    for dtype in ("bfloat16", "float32"):
        with gptoss.load(arguments.model, dtype=dtype) as model:
            tally = Tally()
            for seed in range(arguments.chats):
                hold_chat(model, seed, tally)
        warm, stepwise = tally.warm / tally.positions, tally.stepwise / tally.positions
        print(
            f"{dtype}: {tally.positions} positions, other tokens: warm {warm:.2%}, token by token {stepwise:.2%}"
        )
        print(f"  {tally.cached} of {tally.prompt} prompt tokens were cached")


def hold_chat(model: GptOss, seed: int, tally: Tally) -> None:
    """One chat, each of whose answers is read again."""
    sampling = SamplingParams(seed=seed, max_tokens=120)
    chat = model.chat(sampling=sampling, effort="low")
    for n, question in enumerate(QUESTIONS):
        turn(model, chat, tally, lambda n=n, question=question: chat.stream(question, effort=effort_of(n)))
        if n in RETRIED:
            turn(model, chat, tally, chat.stream_retry)


def effort_of(n: int) -> Any:
    """The effort is raised once."""
    return "low" if n < RAISED else "medium"


def turn(model: GptOss, chat: Chat, tally: Tally, start: Any) -> None:
    """Has a turn answered and reads what was generated again."""
    begun: list[tuple[list[int], PromptCache]] = []
    generate = model.generate

    def noted(prompt: list[int], *rest: Any, **named: Any) -> Any:
        begun.append((prompt, model._runner.call(lambda: warm_cache(model, prompt))))
        return generate(prompt, *rest, **named)

    model.generate = noted  # type: ignore[method-assign,assignment]
    try:
        with start() as stream:
            reply = stream.finish()
    finally:
        model.generate = generate  # type: ignore[method-assign]
    ((prompt, warm),) = begun
    answer = list(model.generate(prompt, chat.sampling))[: reply.usage.completion_tokens]
    empty = model.transformer.make_cache
    cold = read(model, empty(), prompt, answer)
    tally.positions += len(answer)
    tally.prompt += len(prompt)
    tally.cached += warm.offset
    tally.warm += int(np.sum(read(model, warm, prompt, answer) != cold))
    tally.stepwise += int(np.sum(read(model, empty(), prompt, answer, step=1) != cold))


def warm_cache(model: GptOss, prompt: list[int]) -> PromptCache:
    """A copy of what a request with that prompt would find computed."""
    store = model._runner.store
    cached = store.cached_length(prompt)
    if not cached:
        return model.transformer.make_cache()
    best = max(store.entries, key=lambda entry: entry.usable_length(prompt))
    return best.cache.copied(best.snapshot_at(cached), 0)


def read(
    model: GptOss, cache: PromptCache, prompt: Sequence[int], answer: Sequence[int], step: int | None = None
) -> Any:
    """The most likely token at each position of the answer."""

    def job() -> Any:
        rest = [*prompt[cache.offset :], *answer[:-1]]
        size = step or len(rest)
        logits = [
            model.transformer(mx.array([rest[at : at + size]]), cache)[0] for at in range(0, len(rest), size)
        ]
        return np.array(mx.argmax(mx.concatenate(logits)[-len(answer) :], axis=-1))

    # A cache is not evaluated yet: the thread that began it does that.
    return model._runner.call(job)


if __name__ == "__main__":
    main()
