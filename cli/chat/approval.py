"""A person's yes before a tool runs: the rules of the settings, and the question where none decides.

Knows calls and rules; `live` shows the question while an answer is on the screen.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import math
import queue
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ...files.read import parse_json
from ..screen.spans import BOLD, DIM, YELLOW, Row, Span, visible, wrap
from ..screen.terminal import Terminal
from ..settings import Settings, explain_settings, write_setting

if TYPE_CHECKING:
    from ...events import ToolCall
    from ...tools.tool import Tool

__all__ = ["Answer", "Approval", "Question", "Rules", "answered", "ask_person", "question_rows"]

Decision = Literal["allow", "ask", "deny"]
_ROWS = 12
"""Rows of arguments that a question shows at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Patterns of tools by their names, ``SERVER.TOOL`` or that of a function, in which ``*`` is any text."""

    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        return cls(allow=settings.allow, ask=settings.ask, deny=settings.deny)

    def decision(self, name: str) -> Decision | None:
        """What the rules say of a tool: ``deny`` before ``ask`` before ``allow``; None: nothing."""
        every: tuple[tuple[Decision, tuple[str, ...]], ...] = (
            ("deny", self.deny),
            ("ask", self.ask),
            ("allow", self.allow),
        )
        for decision, patterns in every:
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                return decision
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a person said to a call."""

    runs: bool
    kept: Literal["once", "chat", "always"] = "once"
    """How long a yes holds for the tool."""
    word: str = ""
    """For the model, with a no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call that waits for a person. One thread asks and waits; another answers."""

    tool: Tool
    arguments: str
    reads_only: bool
    """Whether the tool's server says that it only reads."""
    _answer: queue.SimpleQueue[Answer] = field(default_factory=queue.SimpleQueue)

    def answer(self, answer: Answer) -> None:
        """Let the thread that asked go on."""
        self._answer.put(answer)

    def wait(self) -> Answer:
        """The answer, once there is one."""
        return self._answer.get()


class Approval:
    """Decides on each call; a session's ``before_call``.

    Args:
        settings: with the rules.
        find: gives the declared tool that a call names, if its arguments are valid for it.
        reads_only: whether a tool's server says that it only reads.
    """

    def __init__(
        self, settings: Settings, find: Callable[[ToolCall], Tool | None], reads_only: Callable[[str], bool]
    ) -> None:
        self.rules = Rules.of(settings)
        self.refused: dict[str, Decision | None] = {}
        """The tools that no rule allowed, where nobody could be asked, and what the rules say of them."""
        self._find = find
        self._reads_only = reads_only
        self._granted: set[str] = set()
        self._post: Callable[[Question], None] | None = None
        self._waiting: Question | None = None
        self._seconds = settings.tool_seconds
        self._ends = math.inf
        """When no more calls begin, on the monotonic clock."""

    def begin(self) -> None:
        """An answer begins, and its time for calls."""
        self._ends = time.monotonic() + self._seconds

    def __call__(self, call: ToolCall) -> str | None:
        """None: the call may run. A text: it may not, and the model reads this."""
        tool = self._find(call)
        if tool is None:
            return None  # it does not run: the toolbox answers with what is wrong
        name = tool.declared_name
        if time.monotonic() > self._ends:
            return (
                f"Not run: the {self._seconds} s for calls in this answer are used up. Answer with what you know."
            )
        decision = self.rules.decision(name)
        if decision == "deny":
            return f"Not run: a rule of the user denies {name}. Do not call it again; go on without it."
        if decision == "allow" or name in self._granted or (tool.builtin is not None and decision is None):
            return None  # who gave the command of a built-in tool said yes to it
        if self._post is None:
            self.refused[name] = decision
            return (
                f"Not run: no rule allows {name}, and nobody is here to be asked. Do not call it again; go on "
                "without it, and say what you could not do."
            )
        question = self._waiting = Question(tool=tool, arguments=call.arguments, reads_only=self._reads_only(name))
        asked = time.monotonic()
        self._post(question)
        answer = question.wait()
        self._ends += time.monotonic() - asked  # a person may take their time
        return self._settled(name, answer)

    @contextmanager
    def asks(self, post: Callable[[Question], None]) -> Iterator[None]:
        """Have calls that no rule decides asked about.

        Args:
            post: takes a question, from the thread that reads the answer.
        """
        self._post = post
        try:
            yield
        finally:
            self._post = None
            if self._waiting is not None:
                self._waiting.answer(Answer(runs=False))

    @property
    def remedies(self) -> list[str]:
        """For each tool that was refused, what would have let it run."""
        return [
            f"not run: a rule asks before {name}; gptoss chat asks"
            if decision == "ask"
            else f"not run: no rule allows {name}; --allow {shlex.quote(glob.escape(name))} does"
            for name, decision in self.refused.items()
        ]

    def forget_chat(self) -> None:
        """What was allowed for the chat holds no more."""
        self._granted.clear()

    def _settled(self, name: str, answer: Answer) -> str | None:
        if answer.runs:
            if answer.kept != "once":
                self._granted.add(name)
            if answer.kept == "always":
                _write_rule(name)
            return None
        word = f" The user says: {answer.word}" if answer.word else ""
        return f"Not run: the user said no to this call.{word}"


def _write_rule(name: str) -> None:
    """Add a tool to the setting ``allow`` of the settings file. Its name is no pattern, whatever is in it."""
    patterns = next(value for setting, value, _ in explain_settings() if setting == "allow")
    rule = glob.escape(name)
    if rule not in patterns:
        write_setting("allow", [*patterns, rule])


def ask_person(question: Question, terminal: Terminal) -> Answer:
    """Show a call and read the answer.

    Raises:
        KeyboardInterrupt: Ctrl-C, or Ctrl-D.
    """
    from prompt_toolkit import prompt
    from prompt_toolkit.application.current import get_app_session
    from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead

    width = max(terminal.width - 1, 10)
    source = get_app_session().input
    typed_before = get_typeahead(source)  # no answer to a question that was not there yet
    answer, whole = None, False
    try:
        while answer is None:
            terminal.rows(question_rows(question, width, whole=whole))
            answer = answered(prompt("[o]nce, this [c]hat, [a]lways, [n]o, no with a [w]ord: "))
            whole = True
    except EOFError:
        raise KeyboardInterrupt from None
    finally:
        store_typeahead(source, typed_before)
    return answer


def question_rows(question: Question, width: int, *, whole: bool) -> list[Row]:
    """A question's call, as a person reads it before it runs.

    Args:
        question: about the call.
        width: of the window.
        whole: whether all of the arguments are shown.
    """
    hint = "; its server says that it only reads" if question.reads_only else ""
    heading = (Span(question.tool.declared_name, BOLD), Span(f" wants to run{hint}", DIM))
    rows = [row for line in _argument_lines(question.arguments) for row in _indented(line, width)]
    left = len(rows) - _ROWS
    if left > 1 and not whole:
        more = f"  … {left} more rows; s shows them …"
        rows = [*rows[: _ROWS - 3], (Span(more, YELLOW),), *rows[-3:]]
    return [*(line.row for line in wrap(heading, width)), *rows]


def _indented(line: str, width: int) -> list[Row]:
    return [(Span("  "), *wrapped.row) for wrapped in wrap([Span(visible(line))], max(width - 2, 8))]


def _argument_lines(arguments: str) -> Iterator[str]:
    """Each argument in a line, or in several where its text has them."""
    try:
        values = parse_json(arguments.encode())
    except (ValueError, RecursionError):  # a key that is there twice, say
        values = None
    if not isinstance(values, dict):
        yield from arguments.split("\n")
        return
    for name, value in values.items():
        shown = json.dumps(name, ensure_ascii=False)[1:-1]
        if isinstance(value, str) and "\n" in value:
            yield f"{shown}:"
            yield from (f"│ {line}" for line in value.split("\n"))
        else:
            yield f"{shown}: {json.dumps(value, ensure_ascii=False)}"


def answered(text: str) -> Answer | None:
    """A typed line as an answer; None: it asks for all of the arguments. Nothing, or Escape, is a no, and so is
    any other text, which the model reads."""
    typed = text.strip()
    match typed.lower():
        case "o" | "once" | "y" | "yes":
            return Answer(runs=True)
        case "c" | "chat":
            return Answer(runs=True, kept="chat")
        case "a" | "always":
            return Answer(runs=True, kept="always")
        case "s" | "show":
            return None
        case "" | "n" | "no":
            return Answer(runs=False)
    return Answer(runs=False, word=typed.removeprefix("w ").removeprefix("n "))
