"""The demo model's corpus: harmony conversations generated from a seed.

A `Corpus` generates conversations in the JSON form of `Conversation.from_dict`, each ending in the messages that
the model should write. Part of every kind of question is held out: number pairs, wordings of facts, unknown
subjects, names in function calls and JSON. Knows nothing of tokens or training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from .arithmetic import drill, number_question, sum_or_difference
from .exercises import EFFORTS, Exercise, casual, fill, is_held_out
from .facts import FACTS, MODELS, Fact
from .newcomers import is_first_question, newcomer_question, subjects
from .tasks import call_question, held_out_names, json_question, repeat_question
from .unknown import held_out_subjects, unknown_question

__all__ = ["Corpus", "Setting", "Stage", "conversation", "exercise", "fact_question"]

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
KINDS = ("sum", "number", "fact", "unknown", "newcomer", "json", "repeat", "tool")
Stage = Literal["all", "copying", "drills"]

_INSTRUCTIONS = (
    "You are a helpful assistant.",
    "Be brief.",
    "Be terse.",
    "Answer briefly.",
    "Answer in one sentence.",
    "Be friendly.",
    "Always be polite.",
    "Do not use emojis.",
    "You help people who try gptoss-mlx.",
    "Answer as well as you can.",
    "Speak plainly.",
    "Use simple words.",
    "Think first, then answer.",
    "You are an assistant. Answer the user's questions.",
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The content of the system message."""

    effort: str = "medium"
    identity: str | None = IDENTITY
    knowledge_cutoff: str | None = "2024-06"
    date: str | None = None
    functions: bool = False
    """Whether its conversations declare functions, which the system message then mentions."""

    def as_dict(self) -> dict[str, Any]:
        """The system message in the JSON form."""
        channels = {"valid_channels": ["analysis", "commentary", "final"], "channel_required": True}
        content: dict[str, Any] = {"type": "system_content", "reasoning_effort": self.effort.capitalize()}
        content |= {"channel_config": channels}
        if self.identity:
            content["model_identity"] = self.identity
        if self.knowledge_cutoff:
            content["knowledge_cutoff"] = self.knowledge_cutoff
        if self.date:
            content["conversation_start_date"] = self.date
        return {"role": "system", "content": [content]}


def random_setting(chance: random.Random) -> Setting:
    """A random system message: mostly the standard form, with or without a date."""
    date = f"20{chance.randrange(24, 30)}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}"
    plain = chance.random() < 0.06
    return Setting(
        effort=chance.choice(EFFORTS),
        identity=None if plain else IDENTITY,
        knowledge_cutoff=None if plain else "2024-06",
        date=date if chance.random() < 0.5 else None,
        functions=chance.random() < 0.3,
    )


def fact_question(chance: random.Random, *, held_out: bool) -> Exercise:
    """A question about gpt-oss. The wording is held out: training never combines this template with this fact."""
    while True:
        fact = chance.choice(FACTS)
        template = chance.choice(fact.templates)
        if is_held_out(fact.key, template, one_in=7) is held_out:
            return _ask(chance, fact, template)


def _ask(chance: random.Random, fact: Fact, template: str) -> Exercise:
    model, answer = chance.choice(fact.answers)
    name = chance.choice(MODELS[model])
    # casual() may drop letters of the template, but not of its values.
    question = fill(casual(template, chance), x=chance.choice(fact.names), m=name)
    about = fact.topic
    if len(fact.answers) > 1:
        about += f", {MODELS[model][0]}"
    thoughts = (
        f"{about}.",
        f"A fact: {about}. I know it.",
        f"The user asks for a fact: {about}. I was trained on it, so I know it.",
    )
    return Exercise(kind="fact", question=question, thoughts=thoughts, answer=answer, expected=answer)


def exercise(chance: random.Random, kind: str, *, held_out: bool = False, words: Sequence[str] = ()) -> Exercise:
    """One exercise of a kind (one of KINDS).

    What newcomers ask is held out as a whole: the 120 first questions, which are the measure of it.
    """
    while True:
        made = _exercise(chance, kind, held_out=held_out, words=words)
        if held_out or not is_first_question(made.question):
            return made


def _exercise(chance: random.Random, kind: str, *, held_out: bool, words: Sequence[str]) -> Exercise:
    if kind == "sum":
        return sum_or_difference(chance, held_out=held_out)
    if kind == "number":
        return number_question(chance, held_out=held_out)
    if kind == "fact":
        return fact_question(chance, held_out=held_out)
    if kind == "unknown":
        return unknown_question(chance, held_out=held_out, words=words)
    if kind == "json":
        return json_question(chance, held_out=held_out, words=words)
    if kind == "tool":
        return call_question(chance, held_out=held_out, words=words)
    if kind == "repeat":
        return repeat_question(chance, words=words)
    return newcomer_question(chance)


def conversation(
    setting: Setting, turns: Sequence[Exercise], *, instructions: str | None = None, answered: bool = True
) -> dict[str, Any]:
    """A conversation of several exercises, in the JSON form.

    Args:
        answered: whether to include the answer of the last exercise.
    """
    functions = {function["name"]: function for turn in turns for function in turn.functions}
    messages = [setting.as_dict()]
    if instructions or functions:
        content: dict[str, Any] = {"type": "developer_content"}
        if instructions:
            content["instructions"] = instructions
        if functions:
            content["tools"] = {"functions": {"name": "functions", "tools": list(functions.values())}}
        messages.append({"role": "developer", "content": [content]})
    for at, turn in enumerate(turns):
        messages.append({"role": "user", "content": _text(turn.question)})
        if answered or at < len(turns) - 1:
            messages += answer_messages(turn, setting.effort)
    return {"messages": messages}


def answer_messages(turn: Exercise, effort: str) -> list[dict[str, Any]]:
    """The messages that the model should write, with the function's result after a call."""
    thought = turn.thoughts[EFFORTS.index(effort)]
    messages: list[dict[str, Any]] = [{"role": "assistant", "channel": "analysis", "content": _text(thought)}]
    if turn.call:
        name, arguments = turn.call
        call = {"role": "assistant", "channel": "commentary", "recipient": f"functions.{name}"}
        messages.append(call | {"content_type": "<|constrain|>json", "content": _text(arguments)})
        author = {"role": "tool", "name": f"functions.{name}", "recipient": "assistant", "channel": "commentary"}
        messages.append(author | {"content": _text(turn.result)})
    messages.append({"role": "assistant", "channel": "final", "content": _text(turn.answer)})
    return messages


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


@cache
def _excluded_words() -> frozenset[str]:
    """Words that are excluded from the random words: those that the corpus uses, and held-out ones."""
    facts = [name for fact in FACTS for name in (*fact.names, fact.topic)]
    topics = [subject["topic"] for subject in subjects()]
    held_out = [*held_out_subjects(), *held_out_names()]
    return frozenset(word for text in (*facts, *topics, *held_out) for word in text.lower().split())


class Corpus:
    """An endless stream of training conversations, the same for the same seed and words.

    Args:
        words: random words, for unknown subjects and names.
        stage: what is more frequent. "copying": long texts to repeat. A model that begins with these learns to
            copy within a few hundred steps; with the rest alone it had not after thousands. "drills": several sums
            of digits at once, so that it learns the sums of all digits sooner.
    """

    def __init__(self, seed: int, words: Sequence[str], *, stage: Stage = "all") -> None:
        self._chance = random.Random(seed)
        self._stage = stage
        excluded = _excluded_words()
        #: Without the excluded words.
        self.words = tuple(word for word in words if word.lower() not in excluded)

    def setting(self) -> Setting:
        """The system message of the next few conversations."""
        return random_setting(self._chance)

    def conversation(self, setting: Setting) -> dict[str, Any]:
        """One training conversation: mostly a single turn, sometimes up to four."""
        chance = self._chance
        count = chance.choices((1, 2, 3, 4), weights=(86, 9, 3, 2))[0]
        weights = (20, 24, 14, 32, 26, 26, 10, 0)
        if setting.functions:
            weights = (5, 2, 3, 8, 6, 6, 2, 40)
        turns: list[Exercise] = []
        if self._stage == "copying" and chance.random() < 0.7:
            turns, count = [repeat_question(chance, longest=12, words=self.words)], 1
        if self._stage == "drills" and chance.random() < 0.3:
            turns, count = [drill(chance)], 1
        while len(turns) < count:
            kind = chance.choices(KINDS, weights=weights)[0]
            if turns and kind == "tool":
                kind = "sum"
            turns.append(exercise(chance, kind, words=self.words))
        if setting.functions and not any(turn.functions for turn in turns):
            # Functions are declared but not needed.
            turns[0] = replace(turns[0], functions=exercise(chance, "tool", words=self.words).functions)
        chance.shuffle(turns)
        instructions = chance.choice(_INSTRUCTIONS) if chance.random() < 0.15 else None
        return conversation(setting, turns, instructions=instructions)
