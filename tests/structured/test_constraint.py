"""Constrained answers: every sample has the form, and control tokens are allowed exactly where it may end."""

from __future__ import annotations

import dataclasses
import datetime
import json
import random
import re
from pathlib import Path
from typing import Any, Literal, TypedDict

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.errors import InvalidRequest, OutputError, SchemaError
from gptoss_mlx.structured.constraint import END_TOKENS, Constraint, Matcher
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO
from tests.harmony.fixtures import tokenizer
from tests.structured.cases import SCHEMAS

CLOSERS = ['"', "}", "]", '"}', '"]', "1", ",", "0"]


@pytest.fixture(scope="session")
def small_vocabulary() -> Tokenizer:
    """The demo's vocabulary, on which masks and samples are fast."""
    return Tokenizer.from_directory(DEMO)


def allowed(matcher: Matcher) -> np.ndarray[Any, Any]:
    """The ids of the allowed tokens."""
    bits: np.ndarray[Any, Any] = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    return np.flatnonzero(bits)


def sample(constraint: Constraint, tokenizer: Tokenizer, rng: random.Random, limit: int = 2000) -> str:
    """A complete answer of random allowed tokens, with a preference for those that close something."""
    matcher = constraint.matcher(tokenizer)
    ends = {tokenizer.special_id(name) for name in END_TOKENS}
    specials = np.array(sorted(set(tokenizer.special.values()) - ends))
    closers = {token for text in CLOSERS for token in tokenizer.encode(text)[:1]}
    tokens: list[int] = []
    while not matcher.done:
        choices = allowed(matcher)
        assert len(choices)
        assert not np.isin(specials, choices).any()
        assert bool(ends & set(choices[-20:].tolist())) == matcher.can_end
        preferred = [token for token in [*closers, *ends] if token in choices]
        token = rng.choice(preferred) if preferred and rng.random() < 0.3 else int(rng.choice(choices))
        matcher.advance(token)
        tokens.append(token)
        assert len(tokens) < limit, tokenizer.decode(tokens)
    return tokenizer.decode(tokens[:-1])


def test_there_are_a_hundred_schemas() -> None:
    assert len(SCHEMAS) >= 100


@pytest.mark.parametrize("position", range(len(SCHEMAS)))
def test_every_answer_validates(position: int, small_vocabulary: Tokenizer) -> None:
    constraint = Constraint.from_schema(SCHEMAS[position])
    checker = jsonschema.Draft202012Validator(SCHEMAS[position])
    rng = random.Random(position)
    for _ in range(2):
        text = sample(constraint, small_vocabulary, rng)
        checker.validate(json.loads(text))
        assert constraint.parse(text) == json.loads(text)


@pytest.mark.parametrize("position", range(0, len(SCHEMAS), 10))
def test_every_answer_validates_on_the_full_vocabulary(position: int) -> None:
    constraint = Constraint.from_schema(SCHEMAS[position])
    text = sample(constraint, tokenizer(), random.Random(position))
    jsonschema.validate(json.loads(text), SCHEMAS[position])


@pytest.mark.parametrize("spaces", [None, 2])
def test_json_as_models_write_it_is_allowed(spaces: int | None) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}, "ä": {}}}
    text = json.dumps({"a": [1, -2.5e3], "ä": 'naïve 👋🏾 <|end|> \\ " \n'}, ensure_ascii=False, indent=spaces)
    matcher = Constraint.from_schema(schema).matcher(tokenizer())
    for token in tokenizer().encode(text):
        assert matcher.allows(token)
        matcher.advance(token)
    assert matcher.can_end
    matcher.advance(tokenizer().special_id("<|return|>"))
    assert matcher.done


def test_allows_agrees_with_the_mask(small_vocabulary: Tokenizer) -> None:
    matcher = Constraint.from_regex("a+|b[0-9]{2}c").matcher(small_vocabulary)
    for text in ("", "a", "a"):
        for token in small_vocabulary.encode(text):
            matcher.advance(token)
        tokens = set(allowed(matcher).tolist())
        assert tokens == {token for token in range(small_vocabulary.size) if matcher.allows(token)}


def test_a_token_that_is_not_allowed_is_refused(small_vocabulary: Tokenizer) -> None:
    matcher = Constraint.from_choices(["yes"]).matcher(small_vocabulary)
    for token in (small_vocabulary.encode("n")[0], small_vocabulary.special_id("<|return|>"), -1, 10**6):
        with pytest.raises(InvalidRequest, match=f"token {token} is not allowed"):
            matcher.advance(token)
    for token in small_vocabulary.encode("yes"):
        matcher.advance(token)


@pytest.mark.parametrize(
    ("schema", "longest"),
    [
        ({"type": "number"}, "-" + "1" * 30 + "." + "1" * 30 + "e-11"),
        ({"type": "integer"}, "-" + "1" * 30),
        ({"type": "number", "minimum": 0, "maximum": 9}, "1." + "1" * 30),
        ({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}, "[1.5," + "1" * 30 + "]"),
        ({"type": "string"}, '"\\"' + "1" * 100 + '"'),
        ({"type": "integer", "multipleOf": 101}, "1" * 32),
    ],
)
def test_a_number_ends_where_no_double_could_tell_more(
    schema: Any, longest: str, small_vocabulary: Tokenizer
) -> None:
    matcher = Constraint.from_schema(schema).matcher(small_vocabulary)
    digit = small_vocabulary.encode("1")[0]
    for character in longest:
        (token,) = small_vocabulary.encode(character)
        assert matcher.allows(token)
        if character == "1":
            mask = matcher.mask()
            assert mask[token // 32] >> (token % 32) & 1
        matcher.advance(token)
    assert matcher.can_end
    assert not matcher.allows(digit)
    assert digit not in allowed(matcher)


def test_a_padded_vocabulary_is_never_allowed(small_vocabulary: Tokenizer) -> None:
    size = small_vocabulary.size + 100
    matcher = Constraint.from_regex("(?s).*").matcher(small_vocabulary, vocab_size=size)
    assert len(matcher.mask()) == (size + 31) // 32
    assert allowed(matcher).max() < small_vocabulary.size


def test_nothing_reaches_a_control_token_by_its_name() -> None:
    matcher = Constraint.from_regex(r"(?s).*").matcher(tokenizer())
    found = {token for token in allowed(matcher).tolist() if tokenizer().is_special(token)}
    assert found == {tokenizer().special_id(name) for name in END_TOKENS}


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=10)
    born: datetime.date
    seen: datetime.datetime
    kind: Literal["a", "b"] = "a"
    friend: Person | None = None


class Movie(TypedDict):
    title: str
    year: int


@dataclasses.dataclass
class Point:
    x: bool
    y: bool


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: Literal[7, 9]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    good: Literal[True]


class Pet(pydantic.BaseModel):
    animal: Cat | Dog = pydantic.Field(discriminator="kind")


BEYOND_THE_ENGINE: list[Any] = [set[bool], frozenset[bool], Path, bytes, dict[Literal["a", "b"], bool]]


@pytest.mark.parametrize(
    "kind",
    [Person, Point, Pet, list[Pet], Literal["x", "y"], bool | None, dict[str, bool], *BEYOND_THE_ENGINE],
)
def test_python_types_come_back_as_objects(kind: Any, small_vocabulary: Tokenizer) -> None:
    constraint = Constraint.from_schema(kind)
    adapter = pydantic.TypeAdapter[Any](kind)
    for seed in range(3):
        value = constraint.parse(sample(constraint, small_vocabulary, random.Random(seed)))
        assert adapter.validate_python(value) == value


def test_python_types_get_no_keys_of_other_names() -> None:
    constraint = Constraint.from_schema(Movie)
    assert constraint.parse('{"title": "M", "year": 1931}') == {"title": "M", "year": 1931}
    matcher = constraint.matcher(tokenizer())
    matcher.advance(tokenizer().encode("{")[0])
    matcher.advance(tokenizer().encode('"')[0])
    assert {tokenizer().decode([token])[0] for token in allowed(matcher).tolist()} == {"t"}
    assert constraint.response_format is not None
    assert constraint.response_format.name == "Movie"


@settings(max_examples=200, deadline=None)
@given(st.datetimes(timezones=st.just(datetime.UTC)), st.dates())
def test_every_date_is_allowed(moment: datetime.datetime, day: datetime.date) -> None:
    from gptoss_mlx.structured.dialect import _PATTERNS

    assert re.search(_PATTERNS["date"], day.isoformat())
    assert re.search(_PATTERNS["date-time"], moment.isoformat())
    assert re.search(_PATTERNS["time"], moment.timetz().isoformat())


@pytest.mark.parametrize(
    "day", ["2023-02-29", "1900-02-29", "2024-02-30", "2024-04-31", "2024-13-01", "0000-01-01"]
)
def test_no_date_that_does_not_exist_is_allowed(day: str) -> None:
    from gptoss_mlx.structured.dialect import _PATTERNS

    assert not re.search(_PATTERNS["date"], day)
    with pytest.raises(ValueError, match=r"."):
        datetime.date.fromisoformat(day)


@pytest.mark.parametrize(
    ("schema", "keyword", "place"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "$"),
        ({"properties": {"a": {"not": {}}}}, "not", "$.properties.a"),
        ({"anyOf": [{"type": "null"}, {"if": {}, "then": {"type": "null"}}]}, "if", "$.anyOf[1]"),
        ({"items": {"contains": {}}}, "contains", "$.items"),
        ({"$defs": {"d": {"propertyNames": {"maxLength": 3}}}, "$ref": "#/$defs/d"}, "propertyNames", "$.$defs.d"),
        ({"type": "object", "not": {"required": ["a"], "maxProperties": 1}}, "not", "$"),
        (
            {"additionalProperties": {"unevaluatedItems": False, "allOf": [{}]}},
            "unevaluatedItems",
            "$.additionalProperties",
        ),
        ({"contains": {}, "minContains": 0, "unevaluatedItems": False}, "unevaluatedItems", "$"),
        ({"if": {"properties": {"a": {}}}, "unevaluatedProperties": False}, "unevaluatedProperties", "$"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}, "look-around", "$.properties.a"),
        ({"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}, "oneOf", "$.properties.a"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum", "$"),
        ({"$ref": "https://example.org/schema.json"}, "example.org", "$"),
        ({"$ref": "#/$defs/absent"}, "absent", "$"),
        ({"type": "strin"}, "strin", "$.type"),
        ({"properties": {"a": {"minLength": "x"}}}, "integer", "$.properties.a.minLength"),
        (False, "schema", ""),
        (3, "schema", ""),
        ({"default": {1}}, "not JSON", ""),
        (Tokenizer, "schema", ""),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_with_its_place(schema: Any, keyword: str, place: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Constraint.from_schema(schema)
    assert keyword in str(caught.value)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schema_cannot_loosen_its_own_constraint() -> None:
    with pytest.raises(SchemaError, match="uniqueItems"):
        Constraint.from_schema({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}})


def test_regex_and_choices(small_vocabulary: Tokenizer) -> None:
    rng = random.Random(0)
    choices = ["yes", "no", "yes please", 'a "quoted"\nline', "ä"]
    pattern = r"[A-Z]{2}-[0-9]+( [a-z]*)?"
    found = {sample(Constraint.from_choices(choices), small_vocabulary, rng) for _ in range(60)}
    assert found == set(choices)
    for _ in range(20):
        assert re.fullmatch(pattern, sample(Constraint.from_regex(pattern), small_vocabulary, rng))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "a regular expression is needed"),
        (None, "a regular expression is needed"),
        ("(", "unclosed group"),
        ("[0-9", "unclosed character class"),
        ("*", "repetition operator missing expression"),
        ("(?=a)", "look-around, .* is not supported"),
        (r"(a)\1", "backreferences are not supported"),
    ],
)
def test_a_regex_that_does_not_compile_is_refused(pattern: Any, says: str) -> None:
    with pytest.raises(SchemaError, match=rf"regex .*{says}"):
        Constraint.from_regex(pattern)


@pytest.mark.parametrize("choices", [[], "yes", [""], [3], 3])
def test_choices_that_are_none_are_refused(choices: Any) -> None:
    with pytest.raises(SchemaError, match="choices"):
        Constraint.from_choices(choices)


@pytest.mark.parametrize(
    "text", ["", '{"name": "A', '{"title": "M"}', "null", '{"title": 3, "year": 1}', "[" * 100_000 + "]" * 100_000]
)
def test_an_answer_that_was_cut_short_is_an_error_with_its_text(text: str) -> None:
    forms = (Movie, {"type": "object", "required": ["name"]})
    for constraint in (*map(Constraint.from_schema, forms), Constraint.from_choices(["yes"])):
        with pytest.raises(OutputError) as caught:
            constraint.parse(text)
        assert caught.value.text == text
