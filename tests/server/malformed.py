"""Malformed turns of a model, replayed through the endpoints.

The turns are those of :mod:`tests.benchmarks.harmony_malformed`: valid ones with one or two mutations that were
reported of real models and leave their meaning as it was.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tests.benchmarks.harmony_malformed import DONE, Meaning, meaning, mutated, random_turn, tokens_of
from tests.server.apis import APIS, Answer, ask
from tests.server.scripted import ScriptedGptOss, answer, turn
from tests.server.serving import in_process

__all__ = ["Outcome", "replayed"]

_TOOLS: Final = [
    {
        "name": name,
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
    }
    for name, argument in (("get_weather", "city"), ("bash", "command"), ("python", "code"))
]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The sums over the turns of one replay."""

    turns: int = 0
    wrong: list[str] = field(default_factory=list)
    """What was answered with an error, was not valid or showed the name of a control token, and why."""
    recovered: Counter[str] = field(default_factory=Counter)
    """Of how many turns the answer, the thinking, the calls and all of these are exactly the intended ones."""


def replayed(turns: int, seed: int = 0) -> Outcome:
    """Replays turns, through each API in turn, streamed and not.

    Args:
        turns: how many.
        seed: of the first turn; each has the next one.
    """
    outcome = Outcome(turns=turns)
    model = ScriptedGptOss(respond=lambda prompt: turn(answer(DONE)))
    with in_process(model) as client:
        for number in range(seed, seed + turns):
            rng = random.Random(number)
            intended_turn = random_turn(rng)
            intended = meaning(intended_turn)
            text, mutations = mutated(rng, intended_turn)
            model.queue(tokens_of(text))
            api, stream = APIS[number % 3], number // 3 % 2 == 1
            try:
                read = _meaning(ask(client, api, api.user("Go"), tools=_TOOLS, stream=stream))
            except Exception as error:
                outcome.wrong.append(f"turn {number}, {api.name}, {' + '.join(mutations)}: {error}")
                model.queue()
                continue
            same = {name: getattr(read, name) == getattr(intended, name) for name in Meaning._fields}
            outcome.recovered.update(name for name, equal in same.items() if equal)
            outcome.recovered["all"] += all(same.values())
    return outcome


def _meaning(reply: Answer) -> Meaning:
    """An answer in the form in which turns are compared."""
    calls: list[Any] = [
        f"functions.{call.name} {json.dumps(call.arguments, sort_keys=True)}" for call in reply.calls
    ]
    text = "" if reply.calls else reply.text.removesuffix(DONE).strip()
    return Meaning(text, reply.thinking, tuple(calls))
