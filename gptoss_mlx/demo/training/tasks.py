"""Function calls, JSON and repeating. The answer copies from the question, which may contain any words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from .exercises import Exercise, casual, fill, is_held_out, listed

__all__ = ["NAMES", "call_question", "declare", "held_out_names", "json_question", "repeat_question"]

NAMES = listed(
    """Oslo|Paris|London|Berlin|Rome|Madrid|Tokyo|Moscow|Vienna|Prague|Athens|Cairo|Lagos|Sydney|Boston|Chicago
Lisbon|Dublin|Bergen|Hamburg|Munich|Zurich|Geneva|Milan|Naples|Turin|Porto|Seville|Lyon|Nice|Bern|Riga
Tallinn|Vilnius|Warsaw|Krakow|Budapest|Sofia|Bucharest|Belgrade|Zagreb|Ankara|Izmir|Tehran|Delhi|Mumbai
Lima|Quito|Bogota|Havana|Toronto|Ottawa|Denver|Austin|Dallas|Houston|Seattle|Miami|Atlanta|Anna|Ben
Clara|David|Emma|Felix|Greta|Hans|Ida|Jonas|Karl|Lena|Max|Nora|Otto|Paula|Ralf|Sara|Tom|Ute|Vera|Willi
Yara|Zoe|Alice|Bob|Carol|Dan|Eve|Frank|Grace|Henry|Irene|Jack|Kate|Leo|Mary|Nick|Olga|Peter|Quinn|Rosa
Sam|Tina|Hannah|Martin|Julia|Simon|Laura|Philip|Marie|Lucas|Sophie|Mia"""
)

_NOUNS = listed(
    """weather|time|price|population|temperature|status|owner|color|height|weight|age|address|score|rating
stock|phone|email|country|mayor|forecast|distance|size|level|date|traffic|menu|news|balance|title|author
language|currency|humidity"""
)
_VERBS = listed("get|get|get|get|find|lookup|fetch|query|read|current")
_PARAMETERS = listed("""city|city|location|name|place|item|id|query|key|user|product|town""")

_ASKED = listed(
    """What is the {n} of {v}?|What's the {n} in {v}?|What is the {n} in {v}?|What is the {n} for {v}?
Tell me the {n} of {v}.|Get the {n} of {v}.|{n} of {v}?|{n} in {v}|{v} {n}?|How is the {n} in {v}?
How's the {n} in {v}?|I need the {n} of {v}.|Can you look up the {n} of {v}?|Please get the {n} for {v}.
Do you know the {n} of {v}?|Look up the {n} in {v}.|What {n} does {v} have?|Which {n} has {v}?
Check the {n} of {v}.|Find the {n} of {v}.|What is the {n} like in {v}?"""
)
_DESCRIPTIONS = (
    "Get the {n}.",
    "Gets the {n} of a {p}.",
    "The {n} of a {p}.",
    "Looks up the {n}.",
    "Returns the {n}.",
    "",
)

_JSON_ASKED = listed(
    """Give me a JSON object with {f}.|Give me JSON with {f}.|Write a JSON object with {f}.|Write JSON: {f}.
Return a JSON object with {f}.|Return JSON with {f}.|Make a JSON object with {f}.|JSON with {f}
JSON: {f}|Answer in JSON: {f}.|I need a JSON object with {f}.|Can you give me JSON with {f}?
Create a JSON object: {f}.|Put this into JSON: {f}.|As JSON: {f}|Produce a JSON object with {f}.
Please write {f} as JSON.|Show {f} as a JSON object.|Turn {f} into JSON."""
)
_QUOTED_STYLES = ("{k} {q}", "{k} {q}", "{k}: {q}", "{k} = {q}")
_FIELD_STYLES = ("{k} {v}", "{k} {v}", "{k}: {v}", "{k} = {v}", "{k}={v}", "{k} is {v}")
_TEXT_KEYS = listed(
    """name|city|country|color|title|author|street|job|animal|fruit|language|team|brand|model|status|kind
first_name|friend"""
)
_NUMBER_KEYS = listed(
    """age|count|price|year|score|size|height|weight|number|total|id|level|rank|points|quantity|width"""
)

_REPEAT_ASKED = listed(
    """Repeat: {x}|Repeat after me: {x}|Say {x}|Say: {x}|Echo {x}|Echo: {x}|Copy this: {x}|Write {x}
Say this again: {x}|Repeat this: {x}|Please say {x}|Type {x}|Repeat {x}|Repeat the words {x}|Repeat after me {x}"""
)
# The words that most texts hold, and that no list of random words does.
_SMALL_WORDS = listed(
    """the|the|the|a|a|of|to|in|at|on|and|is|it|my|we|no|go|up|by|be|or|as|if|so|do|he|she|you|are|was|for|not|all|one
two|red|big|old|new|sun|sky|cat|dog|fox|box|man|day|night|noon|hello|world|good|over|brown|lazy|quick|jumps|sleeps
tomorrow|today|morning|evening|tea|sea|sings|goes|comes|friend|with|this|that|from|please|thank|like|love|time"""
)


def declare(name: str, description: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    """A function as the developer message declares it."""
    function: dict[str, Any] = {"name": name, "description": description}
    if parameters is not None:
        function["parameters"] = parameters
    return function


def held_out_names() -> tuple[str, ...]:
    """The names that no training question contains."""
    return tuple(name for name in NAMES if is_held_out("name", name, one_in=5))


def _value(chance: random.Random, words: Sequence[str], *, held_out: bool) -> str:
    """A name to copy; in training two of three are random words, so that the model learns to copy, not a list."""
    if words and not held_out and chance.random() < 0.65:
        word = _invented(chance, words) if chance.random() < 0.4 else chance.choice(words)
        if chance.random() < 0.15:
            word += " " + chance.choice(words)
        return word.title() if chance.random() < 0.7 else word
    kept = held_out_names()
    return chance.choice(kept) if held_out else chance.choice([name for name in NAMES if name not in kept])


def _invented(chance: random.Random, words: Sequence[str]) -> str:
    """The beginning of one word and a part of another, because in names any token may follow any other."""
    kept = [name.lower() for name in held_out_names()]
    while True:
        first, second = chance.choice(words), chance.choice(words)
        if len(second) > 5 or chance.random() < 0.3:
            begin = chance.randrange(len(second) - 1)
            second = second[begin : begin + chance.randrange(2, 5)]
        word = first[: chance.randrange(1, 4)] + second
        if word.lower() not in kept:
            return word


def _lookup(chance: random.Random, verb: str, parameter: str) -> tuple[dict[str, Any], str]:
    """A function that looks something up, and the noun for what it returns."""
    noun = chance.choice(_NOUNS) if chance.random() < 0.75 else "weather"
    name = f"{verb}_{noun}"
    schema: dict[str, Any] = {"type": "string"}
    if chance.random() < 0.3:
        schema["description"] = f"The {parameter}"
    parameters = {"type": "object", "properties": {parameter: schema}, "required": [parameter]}
    description = fill(chance.choice(_DESCRIPTIONS), n=noun, p=parameter)
    return declare(name, description, parameters), noun


def _thoughts(name: str, arguments: dict[str, Any], subject: str) -> tuple[str, str, str]:
    given = ", ".join(f"{key} = {value}" for key, value in arguments.items())
    medium = f"{name} knows the {subject}."
    return f"{name}.", medium, f"{medium} It needs {given}. So I call it with that."


def _result(chance: random.Random, words: Sequence[str]) -> tuple[str, str]:
    """The result of a function, and its wording in the answer."""
    style = chance.random()
    number = chance.randrange(-20, 100) if chance.random() < 0.6 else chance.randrange(100, 10000)
    word = chance.choice(words) if words else chance.choice(("sunny", "cloudy", "rain", "open", "ready"))
    if chance.random() < 0.3:
        word = chance.choice(("sunny", "cloudy", "rain", "snow", "clear", "windy", "foggy", "warm", "cold"))
    if style < 0.3:
        return str(number), str(number)
    if style < 0.5:
        return word, word
    if style < 0.65:
        text = f"{number} C, {word}" if chance.random() < 0.5 else f"{word}, {number} degrees"
        return text, text
    fields: dict[str, Any] = {chance.choice((*_NUMBER_KEYS, *["temperature"] * 8)): number}
    if chance.random() < 0.6:
        fields[chance.choice((*_TEXT_KEYS, *["sky"] * 8))] = word
    return json.dumps(fields), ", ".join(f"{key} {value}" for key, value in fields.items())


def call_question(chance: random.Random, *, held_out: bool, words: Sequence[str] = ()) -> Exercise:
    """A question that one of the declared functions can answer."""
    if chance.random() < 0.1:
        return _addition(chance)
    # A question for the time contains no name to hold out.
    if not held_out and chance.random() < 0.1:
        return _clock(chance)
    # Functions that are declared together have similar names and parameters, as those of a program do.
    verb, parameter = chance.choice(_VERBS), chance.choice(_PARAMETERS)
    function, noun = _lookup(chance, verb, parameter)
    functions = [function]
    while chance.random() < 0.3 and len(functions) < 3:
        other, other_noun = _lookup(chance, verb, parameter)
        if other_noun != noun and other["name"] not in [known["name"] for known in functions]:
            functions.append(other)
    chance.shuffle(functions)
    value = _value(chance, words, held_out=held_out)
    arguments = {parameter: value}
    result, shown = _result(chance, () if held_out else words)
    answer = f"The {noun} of {value}: {shown}."
    if chance.random() < 0.06:
        result, answer = "Error: not found", f"I could not get the {noun} of {value}: the function gave an error."
    return Exercise(
        kind="tool",
        question=fill(casual(chance.choice(_ASKED), chance), n=noun, v=value),
        thoughts=_thoughts(function["name"], arguments, f"{noun} of {value}"),
        answer=answer,
        functions=tuple(functions),
        call=(function["name"], json.dumps(arguments)),
        result=result,
        expected=shown,
    )


def _addition(chance: random.Random) -> Exercise:
    """A sum too large to do without the declared function."""
    first, second = chance.randrange(100, 1000), chance.randrange(100, 1000)
    keys = chance.choice((("a", "b"), ("x", "y"), ("first", "second")))
    name = chance.choice(("add", "add", "sum", "add_numbers", "calculate_sum"))
    kind = chance.choice(("integer", "number"))
    properties = {key: {"type": kind} for key in keys}
    parameters = {"type": "object", "properties": properties, "required": list(keys)}
    arguments = dict(zip(keys, (first, second), strict=True))
    asked = chance.choice(("What is {a}+{b}?", "{a} + {b}", "Add {a} and {b}.", "How much is {a} plus {b}?"))
    total = str(first + second)
    return Exercise(
        kind="tool",
        question=fill(casual(asked, chance), a=str(first), b=str(second)),
        thoughts=_thoughts(name, arguments, f"sum of {first} and {second}"),
        answer=f"{first} + {second} = {total}.",
        functions=(declare(name, "Adds two numbers.", parameters),),
        call=(name, json.dumps(arguments)),
        result=total,
        expected=total,
    )


def _clock(chance: random.Random) -> Exercise:
    """A function without parameters."""
    name = chance.choice(("get_time", "now", "current_time", "clock"))
    asked = chance.choice(
        ("What time is it?", "What's the time?", "Tell me the time.", "time?", "Do you know the time?")
    )
    result = f"{chance.randrange(24):02}:{chance.randrange(60):02}"
    return Exercise(
        kind="tool",
        question=casual(asked, chance),
        thoughts=(
            f"{name}.",
            f"{name} knows the time.",
            f"{name} knows the time. It needs nothing. So I call it.",
        ),
        answer=f"It is {result}.",
        functions=(declare(name, "The current time.", None),),
        call=(name, "{}"),
        result=result,
        expected=result,
    )


def json_question(chance: random.Random, *, held_out: bool, words: Sequence[str] = ()) -> Exercise:
    """A request for a JSON object whose fields are in the question."""
    count = chance.choice((1, 2, 2, 2, 3, 3))
    keys = chance.sample(_TEXT_KEYS + _NUMBER_KEYS, count)
    while held_out and not set(keys) & set(_TEXT_KEYS):
        # Names are held out; a training question may contain numbers only.
        keys = chance.sample(_TEXT_KEYS + _NUMBER_KEYS, count)
    numbers = set(_NUMBER_KEYS)
    if words and not held_out and chance.random() < 0.4:
        keys[-1] = chance.choice(("temperature", "minutes", "hours", "text", chance.choice(words).lower()))
        numbers |= {keys[-1]} if chance.random() < 0.6 else set()
    fields: dict[str, Any] = {}
    for key in keys:
        if key in numbers:
            fields[key] = chance.randrange(100) if chance.random() < 0.6 else chance.randrange(100, 3000)
        else:
            fields[key] = _value(chance, words, held_out=held_out)
    style = chance.choice(_FIELD_STYLES)
    if not held_out and chance.random() < 0.4:
        style = chance.choice(_QUOTED_STYLES)
    parts = [fill(style, k=key, v=str(value), q=json.dumps(value)) for key, value in fields.items()]
    listed = (
        parts[0] if count == 1 else ", ".join(parts[:-1]) + chance.choice((" and ", ", ", ", and ")) + parts[-1]
    )
    names = ", ".join(fields)
    return Exercise(
        kind="json",
        question=fill(casual(chance.choice(_JSON_ASKED), chance), f=listed),
        thoughts=(
            f"{names}.",
            f"A JSON object with the fields {names}.",
            f"A JSON object with the fields {names}. I keep their order. Text stands in quotes, numbers do not.",
        ),
        answer=json.dumps(fields),
        expected=fields,
    )


def repeat_question(chance: random.Random, *, longest: int = 5, words: Sequence[str] = ()) -> Exercise:
    """A request to repeat some words: the simplest exercise in copying.

    Args:
        longest: how many words there are at most.
        words: any words to choose from; without them, names.
    """
    count = chance.randrange(1, longest + 1)
    said = []
    for _ in range(count):
        word = chance.choice(words or NAMES)
        if chance.random() < 0.35:
            word = chance.choice(_SMALL_WORDS)
        elif words and chance.random() < 0.3:
            word = _invented(chance, words)
        style = chance.random()
        if style < 0.2:
            word = str(chance.randrange(100) if style < 0.13 else chance.randrange(10_000))
        elif style < 0.35:
            word = word.title()
        said.append(word)
    text = " ".join(said)
    asked = chance.choice(_REPEAT_ASKED)
    if chance.random() < 0.4:
        asked, text = asked.lower(), text.lower()
    return Exercise(
        kind="repeat",
        question=fill(asked, x=text),
        thoughts=("Repeat.", "The user wants the same words again.", f"The user wants these words: {text}."),
        answer=text,
        expected=text,
    )
