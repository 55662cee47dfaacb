"""What newcomers ask first: ``python -m gptoss_mlx.demo.training.first_questions`` asks a model all of it.

`first_questions.toml` has the questions, each with the pattern of a sensible answer and that of a wrong claim. An
answer that computes something claims something wrong where the question is not about numbers. The
exit code is 1 if fewer than 80 % of the answers match, or more than 3 % claim something wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.arguments import Effort

__all__ = ["Question", "first_questions", "main"]

_LEAST_MATCHING = 0.80
_MOST_WRONG = 0.03
_MAX_TOKENS = 320
_SUM = re.compile(r"\d ?[-+*] ?\d+ ?= ?\d")
_FLAGS = re.IGNORECASE | re.MULTILINE


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question and what is expected of its answer."""

    kind: str
    text: str
    match: re.Pattern[str]
    """Found in a sensible answer."""
    wrong: re.Pattern[str]
    """Found in an answer that claims something false."""

    def verdict(self, answer: str) -> str:
        """``wrong`` if the answer claims something false, else ``match`` if it is sensible, else ``neither``."""
        computes = self.kind != "number" and _SUM.search(answer)
        if computes or self.wrong.search(answer):
            return "wrong"
        return "match" if self.match.search(answer) else "neither"


def first_questions() -> Iterator[Question]:
    """All questions in the order of the file."""
    content = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    for kind, entries in content.items():
        for entry in entries:
            match, wrong = (re.compile(entry[name], _FLAGS) for name in ("match", "wrong"))
            yield Question(kind=kind, text=entry["ask"], match=match, wrong=wrong)


def main() -> None:
    """Ask every question, print what did not match and the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="demo")
    parser.add_argument("-e", "--effort", default="medium", choices=("low", "medium", "high"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    import gptoss_mlx

    counts: dict[str, Counter[str]] = {}
    effort: Effort = arguments.effort
    with gptoss_mlx.load(arguments.model, context=2048) as model:
        for question in first_questions():
            answer = model.ask(question.text, effort=effort, seed=arguments.seed, max_tokens=_MAX_TOKENS).text
            verdict = question.verdict(answer)
            counts.setdefault(question.kind, Counter())[verdict] += 1
            if verdict != "match":
                print(f"{verdict:8}{question.text} -> {' '.join(answer.split())}")
    for kind, count in counts.items():
        print(f"{kind:10}{count.total():4} asked {count['match']:4} match {count['wrong']:4} wrong")
    total = sum(counts.values(), Counter())
    matching, wrong = total["match"] / total.total(), total["wrong"] / total.total()
    print(f"{total.total()} asked: {matching:.1%} match (at least {_LEAST_MATCHING:.0%}), ", end="")
    print(f"{wrong:.1%} claim something wrong (at most {_MOST_WRONG:.0%})")
    sys.exit(matching < _LEAST_MATCHING or wrong > _MOST_WRONG)


if __name__ == "__main__":
    main()
