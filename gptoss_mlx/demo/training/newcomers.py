"""What newcomers ask, from `newcomers.toml`: its subjects with their answers, and the wordings of numbers."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .exercises import Exercise, casual, fill
from .first_questions import first_questions

__all__ = ["is_first_question", "newcomer_question", "number_wording", "refusals", "subjects"]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


@cache
def _content() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def subjects() -> Sequence[dict[str, Any]]:
    """All subjects in the order of the file."""
    found: Sequence[dict[str, Any]] = _content()["subject"]
    return found


def refusals() -> dict[str, list[str]]:
    """The answers to what the model does not know, by kind."""
    found: dict[str, list[str]] = _content()["refusals"]
    return found


def _plain(question: str) -> str:
    return "".join(question.casefold().split()).rstrip("?!. ")


@cache
def _first_questions() -> frozenset[str]:
    return frozenset(_plain(question.text) for question in first_questions())


def is_first_question(question: str) -> bool:
    """Whether `first_questions.toml` asks it, whatever its case, its spaces and the marks at its end."""
    return _plain(question) in _first_questions()


def _wording(lines: str, chance: random.Random) -> str:
    """One of the lines, with one alternative of each choice."""
    text = chance.choice(lines.strip().splitlines())
    while found := _CHOICE.search(text):
        text = text[: found.start()] + chance.choice(found[1].split("|")) + text[found.end() :]
    text = re.sub(r" (?=[?.,])", "", " ".join(text.split()))
    return text[:1].upper() + text[1:] if chance.random() < 0.5 else text


def number_wording(kind: str, chance: random.Random, **numbers: str) -> str:
    """A question about numbers, as someone types it; `kind` is a key of the file's table of numbers."""
    return fill(casual(_wording(_content()["numbers"][kind], chance), chance), **numbers)


def newcomer_question(chance: random.Random) -> Exercise:
    """A question about one of the subjects."""
    weights = [subject.get("weight", 1) for subject in subjects()]
    subject = chance.choices(subjects(), weights=weights)[0]
    slots = _content()["slots"] | subject.get("slots", {})
    values = {name: chance.choice(choices) for name, choices in slots.items()}
    question = fill(casual(_wording(subject["ask"], chance), chance), **values)
    topic, answer = (subject[key] for key in ("topic", "answer"))
    for name in subject.get("slots", {}):
        topic, answer = (text.replace("{" + name + "}", values[name]) for text in (topic, answer))
    thoughts = (
        f"{topic}.",
        f"They ask about {topic}. I know it.",
        f"The user asks about {topic}. I was trained on it, so I know it and say it plainly.",
    )
    return Exercise(kind="newcomer", question=question, thoughts=thoughts, answer=answer, expected=answer)
