"""Keeps a reply on harmony's rails while it is generated: its headers, its channels, and the answer's form.

    <|channel|>analysis<|message|> free text, at most so many tokens <|end|><|start|>assistant
    <|channel|>final<|message|>    free text, or what a Constraint allows <|return|>

A guide is asked before every token which ones may come next. Only requests that ask for something (a form, a
thinking budget, a tool choice) have one; the model alone decides everything else. Knows nothing of MLX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequest
from ..files.read import short_repr
from ..tokenizer import Tokenizer
from .constraint import END_TOKENS, Constraint, Matcher

__all__ = ["Allowed", "Guide", "GuidePlan", "ToolChoice", "guide_for"]

Allowed: TypeAlias = "int | NDArray[np.bool_]"
"""The one token that may come next, or which of the vocabulary may."""

ToolChoice: TypeAlias = Literal["auto", "none", "required"] | str
"""``auto``: the model decides. ``none``: it calls nothing. ``required``: it calls one of the tools. Otherwise the
name of the tool that it calls."""


class _Kind(Enum):
    """What the content of a message is to be."""

    ANALYSIS = auto()
    PREAMBLE = auto()
    CALL = auto()
    FINAL = auto()


@dataclass(frozen=True, slots=True)
class _Header:
    """One way for a message to begin, after ``<|start|>assistant``."""

    kind: _Kind
    tokens: tuple[int, ...]
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidePlan:
    """What a request asks of a reply.

    Raises:
        InvalidRequest: a tool that there is not, a required call without tools, or a budget below 0.
    """

    constraint: Constraint | None = None
    """The form of the final answer."""
    max_thinking_tokens: int | None = None
    """Of analysis, in one message or several; then it is closed and the answer begins."""
    tool_choice: ToolChoice = "auto"
    tools: Mapping[str, Mapping[str, Any] | None] | None = None
    """The schema of each function's arguments, by name."""

    def __post_init__(self) -> None:
        budget = self.max_thinking_tokens
        if budget is not None and (type(budget) is not int or budget < 0):
            raise InvalidRequest(f"max_thinking_tokens is {short_repr(budget)}; a whole number from 0 is needed")
        names = tuple(self.tools or ())
        choice = self.tool_choice
        if choice in ("auto", "none"):
            return
        if not names or (choice != "required" and choice not in names):
            known = ", ".join(("auto", "none", *(("required", *names) if names else ())))
            raise InvalidRequest(f"tool_choice is {short_repr(choice)}; it may be {known}")

    @property
    def guides(self) -> bool:
        """Whether anything is asked for."""
        return self.constraint is not None or self.max_thinking_tokens is not None or self.tool_choice != "auto"

    @property
    def called(self) -> tuple[str, ...]:
        """The tools that may be called."""
        if self.tool_choice == "none":
            return ()
        return tuple(self.tools or ()) if self.tool_choice in ("auto", "required") else (self.tool_choice,)

    def after_a_call(self, thought: int) -> GuidePlan:
        """What is left to ask once a call has its result: one that had to be is made once, then the model is
        free to answer.

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
        """Whether the reply has to be a call."""
        return self.tool_choice not in ("auto", "none")


class Guide:
    """Follows one reply from ``<|start|>assistant`` on.

    Args:
        plan: what is asked.
        tokenizer: the model's.
        vocab_size: how many logits the model has.
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
        """What there is of a header; None in a message's content."""
        self._kind = _Kind.ANALYSIS
        self._matcher: Matcher | None = None

    @property
    def constrained(self) -> bool:
        """Whether the tokens now are those of the answer's form, not of analysis."""
        return self._header is None and self._matcher is not None

    def allowed(self) -> Allowed:
        """What may come next."""
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
        """Goes on by the token that was chosen."""
        if self._forced:
            self._forced.pop(0)
        elif self._header is not None:
            self._header.append(token)
            complete = [header for header in self._open_headers() if len(header.tokens) == len(self._header)]
            if complete:
                self._begin(complete[0])
        elif token == self._end():
            # Anything but analysis and a preamble ends in a stop token: nothing follows it.
            self._forced = [self._special("<|start|>"), *self._tokenizer.encode("assistant")]
            self._header, self._matcher = [], None
        else:
            self._thought += self._kind is _Kind.ANALYSIS
            if self._matcher is not None:
                self._matcher.advance(token)

    def _begin(self, header: _Header) -> None:
        """A header is complete: its content begins."""
        self._header, self._kind = None, header.kind
        constraint = None
        if header.kind is _Kind.FINAL:
            constraint = self._plan.constraint
        elif header.tool is not None:
            constraint = _arguments_form((self._plan.tools or {}).get(header.tool))
        self._matcher = None if constraint is None else constraint.matcher(self._tokenizer, self._size)

    def _open_headers(self) -> list[_Header]:
        """The headers that may still become this one."""
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
        """The token that ends this content."""
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
    """Every way for a message to begin, the recipient in either place where models write it."""

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
        to = f" to=functions.{name}"
        made.append(header(_Kind.CALL, to, "<|channel|>", "commentary", " ", *_JSON, tool=name))
        made.append(header(_Kind.CALL, "<|channel|>", "commentary", to, " ", *_JSON, tool=name))
    return made


def _arguments_form(schema: Mapping[str, Any] | None) -> Constraint:
    """The form of a call's arguments; any object where the schema has keywords that cannot be kept to, since
    the arguments are checked again before the call."""
    try:
        return Constraint.from_schema({"type": "object", **(schema or {"additionalProperties": False})})
    except InvalidRequest:
        return Constraint.from_schema({"type": "object"})


def guide_for(plan: GuidePlan, tokenizer: Tokenizer, vocab_size: int) -> Guide | None:
    """A guide, if anything is asked for."""
    return Guide(plan, tokenizer, vocab_size) if plan.guides else None
