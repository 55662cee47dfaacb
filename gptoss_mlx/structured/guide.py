"""Constrains a reply while it is generated: harmony's headers and channels, and the form of the answer.

    <|channel|>analysis<|message|> free text, up to the thinking budget <|end|><|start|>assistant
    <|channel|>final<|message|>    free text, or what a Constraint allows <|return|>

Before every token a guide says which tokens may come next. Only requests with a constraint, a thinking budget or a
tool choice have a guide. Knows nothing of MLX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked_integer
from ..errors import InvalidRequest
from ..files.read import short_repr
from ..tokenizer import Tokenizer
from .constraint import END_TOKENS, Constraint, Matcher

__all__ = ["Allowed", "Guide", "GuidePlan", "ToolChoice", "guide_for"]

Allowed: TypeAlias = "int | NDArray[np.bool_]"
"""The only token that may come next, or a mask over the vocabulary."""

ToolChoice: TypeAlias = Literal["auto", "none", "required"] | str
"""``auto``: the model decides. ``none``: it calls no tool. ``required``: it calls one of the tools. Otherwise the
name of the tool that it must call, with or without ``functions.``."""


class _Kind(Enum):
    """The kind of a message's content."""

    ANALYSIS = auto()
    PREAMBLE = auto()
    CALL = auto()
    FINAL = auto()


@dataclass(frozen=True, slots=True)
class _Header:
    """A possible header after ``<|start|>assistant``."""

    kind: _Kind
    tokens: tuple[int, ...]
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidePlan:
    """The constraints of one reply.

    Raises:
        InvalidRequest: the tool choice names no tool, a call is required without tools, or the budget is negative.
    """

    constraint: Constraint | None = None
    """The form of the final answer."""
    max_thinking_tokens: int | None = None
    """The budget of all analysis messages together; once it is spent, the analysis ends and the answer begins."""
    tool_choice: ToolChoice = "auto"
    tools: Mapping[str, Mapping[str, Any] | None] | None = None
    """The schema of each tool's arguments, by full name."""

    def __post_init__(self) -> None:
        budget = self.max_thinking_tokens
        if budget is not None:
            object.__setattr__(self, "max_thinking_tokens", checked_integer("max_thinking_tokens", budget, 0))
        names = tuple(self.tools or ())
        choice = self.tool_choice
        if choice in ("auto", "none"):
            return
        if isinstance(choice, str) and choice not in ("required", *names) and f"functions.{choice}" in names:
            choice = f"functions.{choice}"
            object.__setattr__(self, "tool_choice", choice)
        if not names or (choice != "required" and choice not in names):
            allowed = ", ".join(("auto", "none", *(("required", *names) if names else ())))
            raise InvalidRequest(f"tool_choice is {short_repr(choice)}; it may be {allowed}")

    @property
    def guides(self) -> bool:
        """Whether anything is constrained."""
        return self.constraint is not None or self.max_thinking_tokens is not None or self.tool_choice != "auto"

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the tools that may be called."""
        if self.tool_choice == "none":
            return ()
        return tuple(self.tools or ()) if self.tool_choice in ("auto", "required") else (self.tool_choice,)

    def after_a_call(self, thought: int) -> GuidePlan:
        """The plan for the step after a call: a required call is made once, then the model may answer.

        Args:
            thought: tokens of analysis so far.
        """
        budget = self.max_thinking_tokens
        return replace(
            self,
            max_thinking_tokens=None if budget is None else max(budget - thought, 0),
            tool_choice="none" if self.tool_choice == "none" else "auto",
        )

    @property
    def must_call(self) -> bool:
        """Whether the reply must be a call."""
        return self.tool_choice not in ("auto", "none")


class Guide:
    """The state of one reply after ``<|start|>assistant``.

    Args:
        plan: the reply's constraints.
        tokenizer: the model's.
        vocab_size: the number of logits of the model.
    """

    def __init__(self, plan: GuidePlan, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._plan = plan
        self._tokenizer = tokenizer
        self._size = vocab_size
        self._headers = _headers(plan, tokenizer)
        self._plain = np.zeros(vocab_size, dtype=np.bool_)
        self._plain[: tokenizer.size] = True
        self._plain[list(tokenizer.special.values())] = False
        self._thought = 0
        self._forced: list[int] = []
        self._header: list[int] | None = []
        """The tokens of the current header so far; None inside a message's content."""
        self._kind = _Kind.ANALYSIS
        self._matcher: Matcher | None = None

    def allowed(self) -> Allowed:
        """The tokens that may come next."""
        if self._forced:
            return self._forced[0]
        if self._header is not None:
            following = {header.tokens[len(self._header)] for header in self._open_headers()}
            return following.pop() if len(following) == 1 else self._only(following)
        if self._kind is _Kind.ANALYSIS and self._spent():
            return self._special("<|end|>")
        if self._matcher is None:
            return self._with(self._plain, self._end())
        return self._in_form(self._matcher)

    def advance(self, token: int) -> None:
        """Appends the chosen token."""
        if self._forced:
            self._forced.pop(0)
        elif self._header is not None:
            self._header.append(token)
            complete = [header for header in self._open_headers() if len(header.tokens) == len(self._header)]
            if complete:
                self._begin(complete[0])
        elif token == self._end():
            # Only analysis and preambles get here: other messages end in a stop token, which ends the reply.
            self._forced = [self._special("<|start|>"), *self._tokenizer.encode("assistant")]
            self._header, self._matcher = [], None
        else:
            self._thought += self._kind is _Kind.ANALYSIS
            if self._matcher is not None:
                self._matcher.advance(token)

    def _begin(self, header: _Header) -> None:
        """Begins the content after a complete header."""
        self._header, self._kind = None, header.kind
        constraint = None
        if header.kind is _Kind.FINAL:
            constraint = self._plan.constraint
        elif header.tool is not None:
            constraint = _arguments_form((self._plan.tools or {}).get(header.tool))
        self._matcher = None if constraint is None else constraint.matcher(self._tokenizer, self._size)

    def _open_headers(self) -> list[_Header]:
        """The possible headers that begin with the current tokens."""
        begun = tuple(self._header or ())
        thinks = not self._spent()
        return [
            header
            for header in self._headers
            if header.tokens[: len(begun)] == begun and (thinks or header.kind is not _Kind.ANALYSIS)
        ]

    def _spent(self) -> bool:
        budget = self._plan.max_thinking_tokens
        return budget is not None and self._thought >= budget

    def _end(self) -> int:
        """The token that ends the current content."""
        ends = {_Kind.CALL: "<|call|>", _Kind.FINAL: "<|return|>"}
        return self._special(ends.get(self._kind, "<|end|>"))

    def _in_form(self, matcher: Matcher) -> Allowed:
        words = matcher.mask()
        mask = np.unpackbits(words.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
        if matcher.can_end:
            mask[[self._special(name) for name in END_TOKENS]] = False
            mask[self._end()] = True
        return mask

    def _special(self, name: str) -> int:
        return self._tokenizer.special[name]

    def _only(self, tokens: set[int]) -> NDArray[np.bool_]:
        mask = np.zeros(self._size, dtype=np.bool_)
        mask[list(tokens)] = True
        return mask

    def _with(self, mask: NDArray[np.bool_], token: int) -> NDArray[np.bool_]:
        widened = mask.copy()
        widened[token] = True
        return widened


_JSON: Final = ("<|constrain|>", "json", "<|message|>")


def _headers(plan: GuidePlan, tokenizer: Tokenizer) -> list[_Header]:
    """Every possible header; models write a recipient before or after the channel."""

    def header(kind: _Kind, *parts: str, tool: str | None = None) -> _Header:
        tokens: list[int] = []
        for part in parts:
            tokens += [tokenizer.special[part]] if part in tokenizer.special else tokenizer.encode(part)
        return _Header(kind, tuple(tokens), tool)

    made = [header(_Kind.ANALYSIS, "<|channel|>", "analysis", "<|message|>")]
    if not plan.must_call:
        made.append(header(_Kind.FINAL, "<|channel|>", "final", "<|message|>"))
    if plan.called and not plan.must_call:
        made.append(header(_Kind.PREAMBLE, "<|channel|>", "commentary", "<|message|>"))
    for name in plan.called:
        to = f" to={name}"
        made.append(header(_Kind.CALL, to, "<|channel|>", "commentary", " ", *_JSON, tool=name))
        made.append(header(_Kind.CALL, "<|channel|>", "commentary", to, " ", *_JSON, tool=name))
    return made


def _arguments_form(schema: Mapping[str, Any] | None) -> Constraint:
    """The constraint on a call's arguments: any object if the schema cannot be enforced, since the arguments are
    checked again before the call."""
    try:
        return Constraint.from_schema({"type": "object", **(schema or {"additionalProperties": False})})
    except InvalidRequest:
        return Constraint.from_schema({"type": "object"})


def guide_for(plan: GuidePlan, tokenizer: Tokenizer, vocab_size: int) -> Guide | None:
    """A guide, or None if nothing is constrained."""
    return Guide(plan, tokenizer, vocab_size) if plan.guides else None
