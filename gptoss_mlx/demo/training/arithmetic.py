"""Sums, differences, products and comparisons of small numbers, with as many steps as the effort requires.

Low effort states the result; medium goes digit by digit; high does the same and then checks the result by
the inverse operation. Every step follows from the numbers.
"""

from __future__ import annotations

import random
import re

from .exercises import Exercise, casual, fill, is_held_out
from .newcomers import number_wording

__all__ = ["difference", "drill", "is_held_out_pair", "number_question", "sum_or_difference"]

_SUMS = (
    "What is {a}+{b}?",
    "What is {a} + {b}?",
    "{a}+{b}",
    "{a} + {b}",
    "{a}+{b}=",
    "{a} + {b} = ?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "How much is {a} and {b}?",
    "Add {a} and {b}.",
    "Calculate {a}+{b}.",
    "Compute {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "{a} plus {b}",
    "What does {a} + {b} make?",
    "Can you add {a} and {b}?",
    "Sum of {a} and {b}?",
    "I have {a} apples and get {b} more. How many do I have?",
    "There are {a} birds and {b} more come. How many are there?",
    "Anna has {a} coins, Ben has {b}. How many together?",
    "What do you get when you add {b} to {a}?",
    "Solve {a} + {b}.",
)
_DIFFERENCES = (
    "What is {a}-{b}?",
    "What is {a} - {b}?",
    "{a}-{b}",
    "{a} - {b}",
    "{a}-{b}=",
    "{a} - {b} = ?",
    "What is {a} minus {b}?",
    "How much is {a} - {b}?",
    "How much is {a} minus {b}?",
    "Subtract {b} from {a}.",
    "Calculate {a}-{b}.",
    "Compute {a} - {b}.",
    "{a} minus {b}",
    "What is {a} less {b}?",
    "Take {b} away from {a}.",
    "Can you subtract {b} from {a}?",
    "What does {a} - {b} make?",
    "Solve {a} - {b}.",
)
_DRILLS = ("{x}", "{x}", "Calculate {x}.", "What is {x}?", "Solve {x}.", "Compute: {x}", "{x}?")
_DIFFERENCE_STORIES = (
    "I have {a} coins and spend {b}. How many are left?",
    "There are {a} birds and {b} fly away. How many stay?",
    "What is the difference between {a} and {b}?",
)


def is_held_out_pair(first: int, second: int) -> bool:
    """Whether sums and differences of these two numbers, in either order, are held out of training."""
    return is_held_out("pair", min(first, second), max(first, second), one_in=10)


def sum_or_difference(chance: random.Random, *, held_out: bool) -> Exercise:
    """A random sum or difference."""
    while True:
        # Single digits are more frequent than by chance: there are few such pairs, and people type them first.
        small = 1.0 if chance.random() < 0.08 else 0.2
        first, second = (chance.randrange(10 if chance.random() < small else 100) for _ in "ab")
        if is_held_out_pair(first, second) is held_out:
            break
    numbers = {"a": str(first), "b": str(second)}
    # Differences are harder: they need a comparison and borrowing.
    if chance.random() < 0.4:
        template = casual(chance.choice(_SUMS), chance)
        total = first + second
        steps = _add(first, second)
        check = f"{steps} Check: {_subtract(total, second)} That is {first}, right."
        thoughts = (f"{first}+{second}={total}.", steps, check)
        return Exercise(
            kind="sum",
            question=fill(template, **numbers),
            thoughts=thoughts,
            answer=f"{first} + {second} = {total}.",
            expected=total,
        )
    templates = _DIFFERENCES + _DIFFERENCE_STORIES if first >= second else _DIFFERENCES
    return difference(first, second, fill(casual(chance.choice(templates), chance), **numbers))


def drill(chance: random.Random, *, longest: int = 10) -> Exercise:
    """Several small sums and differences at once, which are the steps of larger ones."""
    sums: dict[str, int] = {}
    count = chance.randrange(2, longest + 1)
    while len(sums) < count:
        first, second, third = chance.randrange(10), chance.randrange(10), int(chance.random() < 0.3)
        sign = chance.choice((1, -1))
        if sign < 0 and first < second + third:
            first += 10  # as after borrowing
        if is_held_out_pair(first, second):
            continue
        shown = "+" if sign > 0 else "-"
        sums[f"{first}{shown}{second}" + f"{shown}1" * third] = first + sign * (second + third)
    solved = ", ".join(f"{text}={result}" for text, result in sums.items())
    answer = ", ".join(map(str, sums.values()))
    return Exercise(
        kind="drill",
        question=fill(chance.choice(_DRILLS), x=", ".join(sums)),
        thoughts=("Sums.", f"{solved}.", f"Several sums, one after the other: {solved}. So {answer}."),
        answer=f"{solved}.",
        expected=answer,
    )


def difference(first: int, second: int, question: str) -> Exercise:
    """The difference of two numbers, negative where the second is larger."""
    result = first - second
    larger, smaller = max(first, second), min(first, second)
    steps = _subtract(larger, smaller)
    if result < 0:
        steps = f"{first} is less than {second}, so below 0. {steps} So {result}."
    check = f"{steps} Check: {_add(larger - smaller, smaller)} That is {larger}, right."
    return Exercise(
        kind="sum",
        question=question,
        thoughts=(f"{first}-{second}={result}.", steps, check),
        answer=f"{first} - {second} = {result}.",
        expected=result,
    )


def _add(first: int, second: int) -> str:
    ones = first % 10 + second % 10
    carry = ones // 10
    steps = f"{first}+{second}: {first % 10}+{second % 10}={ones}"
    tens = first // 10 + second // 10 + carry
    if carry:
        steps += f", carry 1. {first // 10}+{second // 10}+1={tens}"
    else:
        steps += f". {first // 10}+{second // 10}={tens}"
    return f"{steps}. So {first + second}."


def _subtract(first: int, second: int) -> str:
    """Digit by digit, for first >= second."""
    borrow = int(first % 10 < second % 10)
    ones = first % 10 + 10 * borrow - second % 10
    steps = f"{first}-{second}: "
    tens = first // 10 - second // 10 - borrow
    if borrow:
        steps += f"borrow 1, {first % 10 + 10}-{second % 10}={ones}. {first // 10}-{second // 10}-1={tens}"
    else:
        steps += f"{first % 10}-{second % 10}={ones}. {first // 10}-{second // 10}={tens}"
    return f"{steps}. So {first - second}."


def number_question(chance: random.Random, *, held_out: bool) -> Exercise:
    """A comparison, a sum of three, or a product up to 12 x 12. Products, learnt by heart, are never held out."""
    kinds = [_comparison, _comparison, _sum_of_three] + ([] if held_out else [_product, _product])
    return chance.choice(kinds)(chance, held_out)


def _number(question: str, thoughts: tuple[str, str, str], answer: str) -> Exercise:
    return Exercise(kind="number", question=question, thoughts=thoughts, answer=answer, expected=answer)


def _sum_of_three(chance: random.Random, held_out: bool) -> Exercise:
    while True:
        a, b, c = (chance.randrange(chance.choice((10, 50, 100))) for _ in "abc")
        known = not any(is_held_out_pair(*pair) for pair in ((a, b), (a + b, c), (b, c), (b + c, a)))
        if a + b + c < 130 and is_held_out("three", *sorted((a, b, c)), one_in=10) is held_out is not known:
            break
    result = a + b + c
    steps = f"{_add(a, b)} {_add(a + b, c)}"
    check = f"{steps} Check: {_add(b, c)} {_add(b + c, a)} That is {result}, right."
    question = number_wording("three", chance, a=str(a), b=str(b), c=str(c))
    return _number(question, (f"{a}+{b}+{c}={result}.", steps, check), f"{a} + {b} + {c} = {result}.")


def _product(chance: random.Random, held_out: bool) -> Exercise:
    a, b = chance.randrange(13), chance.randrange(13)
    medium = f"A product up to 12 x 12: {a}x{b}={a * b}."
    thoughts = (f"{a}x{b}={a * b}.", medium, f"{medium} I know it by heart. Check: {b}x{a}={a * b}, right.")
    return _number(number_wording("times", chance, a=str(a), b=str(b)), thoughts, f"{a} x {b} = {a * b}.")


def _comparison(chance: random.Random, held_out: bool) -> Exercise:
    while True:
        a, b = _two_numbers(chance)
        if is_held_out("compared", *sorted((a, b)), one_in=10) is held_out:
            break
    less, more = sorted((a, b), key=float)
    form = chance.choice(("larger", "larger", "smaller", "is_larger", "is_larger", "is_smaller"))
    said = f"{more} is larger than {less}"
    if form == "smaller" or (form == "is_smaller" and a == less):
        said = f"{less} is smaller than {more}"
    if form.startswith("is_"):
        said = ("Yes: " if (a == more) is (form == "is_larger") else "No: ") + said
    medium = f"{a} and {b}: {_digits_compared(a, b)}. So {more} is larger."
    thoughts = (f"{less} < {more}.", medium, f"{medium} Check: {b} and {a}: {_digits_compared(b, a)}, right.")
    return _number(number_wording(form, chance, a=a, b=b), thoughts, f"{said}.")


def _two_numbers(chance: random.Random) -> tuple[str, str]:
    """Two different numbers: whole ones, or ones with a decimal point that begin alike."""
    while True:
        if chance.random() < 0.6:
            limits = (100,) if chance.random() < 0.6 else (10, 100, 1000, 10_000)
            a, b = (str(chance.randrange(chance.choice(limits))) for _ in "ab")
            if chance.random() < 0.15:
                b = a[::-1]
        else:
            whole = chance.randrange(chance.choice((10, 30)))
            other = whole if chance.random() < 0.75 else chance.randrange(30)
            a, b = (f"{each}.{chance.randrange(chance.choice((10, 10, 100)))}" for each in (whole, other))
        if float(a) != float(b) and not re.match(r"0\d", b):
            return a, b


def _digits_compared(a: str, b: str) -> str:
    """Digit by digit from the left, up to the first that differs; the longer whole part is the larger."""
    (whole, _, rest), (other, _, other_rest) = a.partition("."), b.partition(".")
    if len(whole) != len(other):
        return f"{len(whole)} {'<' if len(whole) < len(other) else '>'} {len(other)} digits"
    size = max(len(rest), len(other_rest))
    steps = []
    for left, right in zip(whole + rest.ljust(size, "0"), other + other_rest.ljust(size, "0"), strict=True):
        steps.append(f"{left} {'<' if left < right else '>' if left > right else '='} {right}")
        if left != right:
            break
    return ", ".join(steps)
