"""The facts about gpt-oss that the demo model knows, from `facts.toml`: each with one answer and many wordings.

A fact is asked for in one of four ways: as a count, a property, a topic, or in sentences of its own.
Knows nothing of transcripts.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COUNT", "FACTS", "MODELS", "PROPERTY", "TOPIC", "Fact"]

_CONTENT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
_TEMPLATES = {form: tuple(lines.splitlines()) for form, lines in _CONTENT["templates"].items()}
COUNT, PROPERTY, TOPIC = (_TEMPLATES[form] for form in ("count", "property", "topic"))
# How a person may write the name of a model; "" stands for gpt-oss as a family.
MODELS = {name.removesuffix("both"): tuple(names) for name, names in _CONTENT["models"].items()}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A fact with its one answer for each model that can be asked about."""

    key: str
    templates: tuple[str, ...]
    names: tuple[str, ...]
    """The value of ``{x}``."""
    answers: tuple[tuple[str, str], ...]
    """The model in question (a key of MODELS) → the answer."""
    topic: str
    """The subject as the analysis names it."""


def _fact(key: str, entry: dict[str, Any]) -> Fact:
    names = tuple(entry.get("names", ("",)))
    templates = _TEMPLATES.get(entry.get("form", ""), ()) + tuple(entry.get("ask", "").splitlines())
    # A question that names no model has one answer.
    asked = MODELS if any("{m}" in template for template in templates) else ("",)
    answers = entry.get("answers") or {model or "both": entry["answer"] for model in asked}
    return Fact(
        key=key,
        templates=templates,
        names=names,
        answers=tuple((model.removesuffix("both"), answer) for model, answer in answers.items()),
        topic=entry.get("topic", names[0]),
    )


FACTS: tuple[Fact, ...] = tuple(_fact(entry["key"], entry) for entry in _CONTENT["fact"])
