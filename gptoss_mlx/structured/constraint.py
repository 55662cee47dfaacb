"""Constrained answers: the tokens that may come next, and the value of the finished text.

    constraint = Constraint.from_schema(Person)      # a pydantic model, a TypedDict, a JSON schema
    matcher = constraint.matcher(tokenizer)
    while not matcher.done:
        allowed = matcher.mask()                     # one bit a token
        matcher.advance(token)                       # the chosen token
    person = constraint.parse(text)

The engine is llguidance. Compared with xgrammar 0.2.8, on gpt-oss's 201,088 tokens, x86-64, one core: a mask costs
about as much (median 19 µs against 27 on a small schema, 73 against 5 on one of patterns), but compiling a schema
takes 1 ms against 35 to 3,500; of 14 schemas that cannot be enforced (``uniqueItems``, ``not``, ``if`` and
the like) it refuses all, while xgrammar accepts 13 and does not enforce them; and it needs no other
package, while xgrammar needs torch and transformers. Both have wheels for macOS arm64.

Knows nothing of models, channels or MLX.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import llguidance
import numpy as np
import pydantic
from numpy.typing import NDArray

from ..errors import InvalidRequest, OutputError, RenderError, SchemaError
from ..files.read import short_repr
from ..harmony import ResponseFormat
from ..harmony.fields import check_text
from ..tokenizer import Tokenizer
from .dialect import engine_schema
from .digits import DigitLimit
from .references import subschemas
from .schema import read_schema

__all__ = ["Constraint", "Mask", "Matcher", "prepare"]

Mask: TypeAlias = NDArray[np.uint32]
"""One bit a token, least significant first: token t is allowed if bit t % 32 of word t // 32 is set."""

# A complete message may end in either; the model chooses.
END_TOKENS: Final = ("<|return|>", "<|end|>")

# Between JSON's tokens: a space, or a line break and its indentation. Unbounded, a model could sample white space
# until the token limit.
_WHITESPACE: Final = r" |\n {0,32}"
# The engine's message about JSON that is nested too deeply for it.
_DEPTH: Final = "recursion limit exceeded"
# Enough for objects with MAX_OPTIONAL properties; the engine's defaults end at 500.
_LIMITS: Final = llguidance.LLParserLimits(max_items_in_row=20_000, step_max_items=500_000)
# The characters of schemas that are compiled to find the place of an error.
_MAX_SEARCHED: Final = 500_000
# Every escape but \u: a lone surrogate would be valid JSON that UTF-8 cannot encode.
_ESCAPES: Final = 'nrbtf\\"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """The form of an answer. Make one with :meth:`from_schema`, :meth:`from_regex` or :meth:`from_choices`.

    Example:
        >>> Constraint.from_choices(["yes", "no"]).parse("yes")
        'yes'
        >>> Constraint.from_schema({"type": "integer"}).parse("42")
        42
        >>> Constraint.from_schema({"type": "array", "uniqueItems": True})
        Traceback (most recent call last):
        gptoss_mlx.errors.SchemaError: schema: the keyword uniqueItems at $ is not supported; leave it out and \
check the answer yourself
    """

    grammar: str
    """The grammar in llguidance's notation."""
    parse: Callable[[str], Any] = field(compare=False)
    """Turns a finished answer into its value: the pydantic model's or TypedDict's object, JSON data, or the text
    itself. Raises OutputError if the answer does not have the form."""
    response_format: ResponseFormat | None = None
    """The description for the developer message."""
    is_json: bool = False
    """Whether the text is JSON, whose numbers need a :class:`DigitLimit`."""

    @classmethod
    def from_schema(cls, schema: Any, name: str | None = None) -> Constraint:
        """JSON that a schema describes.

        Args:
            schema: a pydantic model, a TypedDict, a dataclass or any other type that pydantic supports; or a JSON
                schema as a mapping or as JSON text, alone or in OpenAI's ``response_format``. Objects of Python
                types get no additional keys; what the engine cannot enforce of a type, such as the uniqueness of
                a set's members, pydantic checks in the answer. Properties are written in the schema's order.
                A ``format`` that the engine does not enforce, such as ``uri-reference``, is checked in the answer;
                one that JSON schema does not define restricts nothing, by JSON schema's rule.
            name: the schema's name in the developer message; by default its own or the type's.

        Raises:
            SchemaError: the schema is invalid, too large or nested too deeply, or has a keyword that cannot be
                enforced; the message names its place.
        """
        try:
            form = read_schema(schema)
            translated = engine_schema(form.schema, checked_later=form.is_type)
            grammar = _schema_grammar(json.dumps(translated, ensure_ascii=False))
            reason = _refusal(grammar)
            if reason is not None:
                raise SchemaError(f"schema: {_located(translated, reason)}")
        except RecursionError:
            raise _too_deep() from None
        title = name or form.name or form.schema.get("title")
        described = ResponseFormat(name=_safe_name(title), schema=form.schema, description=form.description)
        return cls(grammar=grammar, parse=_parser(form.parse), response_format=described, is_json=True)

    @classmethod
    def from_regex(cls, pattern: str) -> Constraint:
        """Text that a regular expression matches completely.

        Args:
            pattern: in Rust's syntax: Python's without look-around and backreferences.

        Raises:
            SchemaError: the pattern does not compile.
        """
        if not isinstance(pattern, str) or not pattern:
            raise SchemaError(f"regex is {short_repr(pattern)}; a regular expression is needed")
        _check_text("regex", pattern)
        grammar = llguidance.LLMatcher.grammar_from_regex(pattern)
        reason = _refusal(grammar)
        if reason is not None:
            error = re.search(r"^error: (.+)$", reason, re.MULTILINE)
            raise SchemaError(f"regex {short_repr(pattern)}: {error[1] if error else ' '.join(reason.split())}")
        return cls(grammar=grammar, parse=str)

    @classmethod
    def from_choices(cls, choices: Iterable[str]) -> Constraint:
        """One of several texts.

        Raises:
            SchemaError: there are no choices, or one is empty or not a string.
        """
        given = list(choices) if isinstance(choices, Iterable) and not isinstance(choices, str) else []
        if not given or not all(isinstance(choice, str) and choice for choice in given):
            raise SchemaError(f"choices is {short_repr(choices)}; a list of texts that are not empty is needed")
        for choice in given:
            _check_text("choices", choice)
        # As one terminal: the time for a rule of alternatives is quadratic in their number.
        alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in given)
        grammar = llguidance.LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {alternatives}")
        reason = _refusal(grammar)
        if reason is not None:
            raise SchemaError(f"choices cannot be used: {' '.join(reason.split())}; use fewer or shorter ones")

        def parse(text: str) -> str:
            if text not in given:
                raise OutputError(f"the answer is {short_repr(text)}, which is none of the choices", text)
            return text

        return cls(grammar=grammar, parse=parse)

    def matcher(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> Matcher:
        """The matcher of one answer.

        Args:
            tokenizer: the model's. Preparing it takes about a second, once; see :func:`prepare`.
            vocab_size: the number of tokens a mask covers; by default the tokenizer's. Tokens that the tokenizer
                does not have are never allowed.

        Raises:
            SchemaError: the grammar is too large.
        """
        return Matcher(self, tokenizer, vocab_size or tokenizer.size)


class Matcher:
    """The state of one constrained answer, made by :meth:`Constraint.matcher`. Not thread-safe."""

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer, vocab_size: int) -> None:
        prepared = prepare(tokenizer)
        self._ends = frozenset(_end_tokens(tokenizer))
        self._matcher = llguidance.LLMatcher(prepared, constraint.grammar, log_level=0, limits=_LIMITS)
        self._check()
        self._size = tokenizer.size
        self._mask: Mask = np.zeros((max(vocab_size, tokenizer.size) + 31) // 32, dtype=np.uint32)
        self._bytes = (tokenizer.size + 31) // 32 * 4
        self._token_bytes = tokenizer.token_bytes
        self._digits = DigitLimit(tokenizer, len(self._mask)) if constraint.is_json else None
        self.done = False
        """Whether the end token was chosen."""

    @property
    def can_end(self) -> bool:
        """Whether the text so far is a complete answer."""
        return self._matcher.is_accepting()

    def mask(self) -> Mask:
        """The tokens that may come next. The next call overwrites the array.

        The only control tokens are ``<|return|>`` and ``<|end|>``, and only where the answer may end.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._bytes)
        self._check()
        if self._digits is not None:
            self._digits.narrow(self._mask)
        return self._mask

    def allows(self, token: int) -> bool:
        """Whether one token may come next; cheaper than :meth:`mask`."""
        if not 0 <= token < self._size:
            return False
        if token in self._ends:
            return self.can_end
        if self._digits is not None and self._digits.is_near:
            return bool(self.mask()[token // 32] >> (token % 32) & 1)
        return self._matcher.validate_tokens([token]) == 1

    def advance(self, token: int) -> None:
        """Appends the chosen token.

        Raises:
            InvalidRequest: the token is not allowed here.
        """
        if self.done or not self.allows(token):
            raise InvalidRequest(f"token {token} is not allowed here; choose one that mask() allows")
        if token in self._ends:
            self.done = True
            return
        self._matcher.consume_token(token)
        self._check()
        if self._digits is not None:
            self._digits.advance(self._token_bytes(token))

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise SchemaError(f"the form of the answer is too complex ({reason}); make it simpler")


class _Vocabulary:
    """A tokenizer in the form that llguidance expects. Control tokens have no bytes, so no grammar allows them."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = _end_tokens(tokenizer)[0]
        self.special_token_ids = sorted(tokenizer.special.values())
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"))


_prepared: WeakKeyDictionary[Tokenizer, llguidance.LLTokenizer] = WeakKeyDictionary()
_lock = threading.Lock()


def prepare(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    """Prepares a tokenizer for llguidance, which takes about a second for 201,088 tokens and is cached with the
    tokenizer. Every matcher calls this; call it earlier to choose when to wait."""
    with _lock:
        found = _prepared.get(tokenizer)
        if found is None:
            wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer))
            slices = llguidance.LLTokenizer.json_slices()
            found = llguidance.LLTokenizer(wrapper, eos_token=list(_end_tokens(tokenizer)), slices=slices)
            _prepared[tokenizer] = found
        return found


def _end_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    return tuple(tokenizer.special_id(name) for name in END_TOKENS)


def _schema_grammar(schema: str) -> str:
    """The grammar of a JSON schema, given as text."""
    try:
        # As overrides, which x-guidance in the schema cannot change.
        return llguidance.LLMatcher.grammar_from_json_schema(
            schema,
            overrides={
                "lenient": False,
                "coerce_one_of": False,
                "item_separator": ",",
                "key_separator": ":",
                "whitespace_flexible": False,
                "whitespace_pattern": _WHITESPACE,
                "json_allowed_escapes": _ESCAPES,
            },
        )
    except ValueError as error:
        # The engine limits the depth of JSON, and the grammar adds levels of its own.
        raise _too_deep() if _DEPTH in str(error) else SchemaError(f"schema: {short_repr(str(error))}") from None


def _too_deep() -> SchemaError:
    return SchemaError("schema: nested too deeply for an answer; make it flatter")


def _check_text(name: str, text: str) -> None:
    try:
        check_text(text, name)
    except RenderError as error:
        raise SchemaError(str(error)) from None


def _refusal(grammar: str) -> str | None:
    """The engine's reason for refusing a grammar, or None if it accepts it."""
    failed, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0].strip() if failed else None


def _located(schema: Mapping[str, Any], reason: str) -> str:
    """The engine's reason, with the place of the innermost schema that it refuses."""
    if _DEPTH in reason:
        raise _too_deep()
    shared = {key: schema[key] for key in ("$schema", "$defs", "definitions") if key in schema}
    tried = 0
    for place, part in reversed(list(subschemas(schema))):
        text = json.dumps({**part, **shared})
        tried += len(text)
        if tried > _MAX_SEARCHED:
            break
        own = _refusal(_schema_grammar(text))
        if own is not None:
            remedies = {
                "Unsatisfiable": "correct it",
                "too large": "make it smaller",
                "too big": "make it smaller",
            }
            other = "leave it out and check the answer yourself"
            remedy = next((remedy for reason, remedy in remedies.items() if reason in own), other)
            return f"{' '.join(own.split())} (at {place}); {remedy}"
    return f"{' '.join(reason.split())}; simplify it"


def _parser(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(text)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the answer"
            raise OutputError(f"{place}: {first['msg']}; the text is {short_repr(text)}", text) from error
        except (ValueError, RecursionError) as error:
            raise OutputError(f"{error}; the text is {short_repr(text)}", text) from error

    return checked


def _safe_name(name: Any) -> str:
    kept = "".join(c for c in str(name or "answer") if c.isascii() and (c.isalnum() or c in "_-"))
    return kept[:64] or "answer"
