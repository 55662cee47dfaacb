"""Tools: declarations from functions and schemas, and calls that return the model's mistakes as text."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptoss_mlx.errors import InvalidRequest, ToolError
from gptoss_mlx.events import ToolCall, ToolResult
from gptoss_mlx.harmony import Message
from gptoss_mlx.harmony.typescript import tools_section
from gptoss_mlx.tools.signature import read_docstring
from gptoss_mlx.tools.toolbox import Tool, ToolBox, as_tool


class Unit(enum.Enum):
    C = "C"
    F = "F"


class Place(pydantic.BaseModel):
    city: str = pydantic.Field(description="In English")
    near: Place | None = None


def weather(city: str, unit: Literal["C", "F"] = "C", days: int | None = None) -> dict[str, Any]:
    """The weather.

    Args:
        city: where, in
            English.
        unit (str): of the temperature.

    Returns:
        Degrees.
    """
    return {"city": city, "unit": unit, "days": days}


def notation(*tools: Any) -> str:
    return tools_section(ToolBox(tools).namespaces())


def test_hints_and_docstring_become_the_notation() -> None:
    assert notation(weather) == (
        "# Tools\n\n## functions\n\nnamespace functions {\n\n// The weather.\ntype weather = (_: {\n"
        "// where, in English.\ncity: string,\n"
        '// of the temperature.\nunit?: "C" | "F", // default: C\n'
        "days?: number | null, // default: null\n"
        "}) => any;\n\n} // namespace functions"
    )


def test_references_enums_and_unions_are_in_their_place() -> None:
    def visit(
        place: Place, unit: Unit = Unit.C, size: int | str = 1, both: list[Unit] | Place | None = None
    ) -> None:
        """Goes there."""

    text = notation(visit)
    for line in (
        "place: {\n    // In English\n    city: string,\n    near?: any, // default: null\n    },\n",
        'unit?: "C" | "F", // default: "C"\n',
        "size?: number | string, // default: 1\n",
        'both?: Array<"C" | "F"> | {\n',
    ):
        assert line in text


def test_a_description_in_the_annotation_counts_more_than_the_docstring() -> None:
    def f(a: Annotated[int, pydantic.Field(description="mine", ge=0)]) -> None:
        """F.

        Args:
            a: theirs
        """

    tool = as_tool(f)
    assert tool.parameters["properties"]["a"] == {"description": "mine", "minimum": 0, "type": "integer"}  # type: ignore[index]
    assert "greater than or equal to 0" in ToolBox([f]).call("functions.f", '{"a": -1}').output


def test_a_function_without_parameters_has_no_arguments() -> None:
    def now() -> str:
        return "noon"

    assert "type now = () => any;" in notation(now)
    for arguments in ("", "{}", " \n"):
        assert ToolBox([now]).call("functions.now", arguments).output == "noon"


@pytest.mark.parametrize(
    "sections",
    [
        "Args:\n    a: one\n        two: three\n    b (int): four\n    c:\n        five\n\nRaises:\n    d: no",
        "Parameters\n----------\na : int, optional\n    one\n    two: three\nb\n    four\nc\n    five\n\n"
        "Returns\n-------\nint\n    no",
        ":param a: one\n    two: three\n:param int b: four\n:param c: five\n:type c: int\n:returns: no",
        "@param a: one\n    two: three\n@param b: four\n@type b: int\n@param c: five\n@return: no",
    ],
    ids=["Google", "NumPy", "Sphinx", "Epytext"],
)
def test_docstrings_of_every_style_are_read(sections: str) -> None:
    expected = {"a": "one two: three", "b": "four", "c": "five"}
    assert read_docstring(f"Does.\n\nMore.\n\n{sections}") == ("Does.\n\nMore.", expected)


def test_docstrings_without_parameters_are_descriptions() -> None:
    assert read_docstring("") == ("", {})
    assert read_docstring("One: :func:`two`.\n\n@three") == ("One: :func:`two`.\n\n@three", {})
    assert read_docstring("Does.\n\nArgs:\n    nothing") == ("Does.\n\nArgs:\n    nothing", {})
    assert read_docstring("Does.\n\nParameters\n----------\na, b : int\n    both") == (
        "Does.",
        {"a": "both", "b": "both"},
    )


@given(
    st.lists(st.sampled_from([": ", ":param ", "a: ", "@param ", "Args:\n", "    ", "\n", "----\n"])).map("".join)
)
@example(": :a")
def test_any_docstring_is_read(text: str) -> None:
    read_docstring(text)


def test_arguments_arrive_as_the_types_that_were_declared() -> None:
    def f(place: Place, when: datetime.date, unit: Unit) -> str:
        assert isinstance(place, Place)
        return f"{place.city} {when.year} {unit.name}"

    arguments = '{"place": {"city": "Oslo"}, "when": "2024-02-29", "unit": "F"}'
    assert ToolBox([f]).call("functions.f", arguments).output == "Oslo 2024 F"


@dataclasses.dataclass
class Point:
    x: float
    y: float


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("plain ä", "plain ä"),
        ("half \ud800", "half \ufffd"),
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a":[1,2.5,true]}'),
        (Point(1.0, 2.0), '{"x":1.0,"y":2.0}'),
        (Place(city="Oslo"), '{"city":"Oslo","near":null}'),
        (datetime.date(2024, 2, 29), '"2024-02-29"'),
        (float("nan"), '"NaN"'),
        ({"half": "\ud800"}, "\"{'half': '\\\\ud800'}\""),
        (b"bytes", '"bytes"'),
    ],
)
def test_results_are_text_or_json(result: Any, text: str) -> None:
    outcome = ToolBox([Tool(name="f", function=lambda: result)]).call("functions.f", "{}")
    assert outcome.output == text
    assert not outcome.error
    Message.tool("functions.f", outcome.output)


def test_a_result_that_json_cannot_hold_is_described() -> None:
    outcome = ToolBox([Tool(name="f", function=lambda: object())]).call("functions.f", "{}")
    assert "object object" in outcome.output


@pytest.mark.parametrize(
    ("recipient", "arguments", "said"),
    [
        ("functions.weather", "{", "Invalid JSON"),
        ("functions.weather", "[]", "arguments"),
        ("functions.weather", "null", "arguments"),
        ("functions.weather", "{}", "city: this argument is missing"),
        ("functions.weather", '{"city": 3}', "city: Input should be a valid string"),
        ("functions.weather", '{"city": "Oslo", "unit": "K"}', "unit: Input should be 'C' or 'F'"),
        ("functions.weather", '{"city": "Oslo", "sky": 1}', "sky: there is no such argument"),
        ("functions.weather", "[" * 10_000, "a JSON object is needed"),
        ("functions.weather", '{"a":' * 10_000, "Invalid JSON"),
        ("functions.weathr", "{}", "there is no such tool; there are functions.weather"),
        ("weather", "{}", "no such tool"),
        ("python", "1 + 1", "no such tool"),
        ("functions.", "{}", "no such tool"),
        ("functions.weather<|end|>", "{}", "no such tool"),
    ],
)
def test_what_the_model_does_wrong_is_told_to_it(recipient: str, arguments: str, said: str) -> None:
    outcome = ToolBox([weather]).call(recipient, arguments)
    assert outcome.error
    assert outcome.output.startswith(f"Error: {recipient}: ")
    assert said in outcome.output


@given(st.text(), st.text())
def test_no_call_raises(recipient: str, arguments: str) -> None:
    box = ToolBox([weather])
    assert box.call(recipient, arguments).error
    assert box.call("functions.weather", arguments).error


@pytest.mark.parametrize(
    "failure",
    [ValueError("no"), KeyError("no"), RecursionError("no"), SystemExit(3), ToolError("no"), MemoryError()],
)
def test_what_goes_wrong_in_a_function_is_told_to_the_model(failure: BaseException) -> None:
    def f() -> None:
        raise failure

    outcome = ToolBox([f]).call("functions.f", "{}")
    assert outcome.error
    assert outcome.output.startswith("Error: functions.f: ")


def test_an_interrupt_goes_through() -> None:
    def f() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ToolBox([f]).call("functions.f", "{}")


async def double(n: int) -> int:
    await asyncio.sleep(0)
    if n < 0:
        raise ValueError("negative")
    return 2 * n


def test_async_functions_without_a_loop() -> None:
    box = ToolBox([double])
    assert box.call("functions.double", '{"n": 4}').output == "8"
    assert box.call("functions.double", '{"n": -4}').output == "Error: functions.double: ValueError: negative"


def test_async_functions_while_a_loop_runs_in_this_thread() -> None:
    async def main() -> str:
        return ToolBox([double]).call("functions.double", '{"n": 4}').output

    before = threading.active_count()
    assert asyncio.run(main()) == "8"
    assert threading.active_count() == before


def test_async_functions_in_the_loop_that_was_given() -> None:
    seen = []

    async def where() -> str:
        seen.append(asyncio.get_running_loop())
        return "here"

    async def main() -> str:
        loop = asyncio.get_running_loop()
        box = ToolBox([where])
        outcome = await asyncio.to_thread(box.call, "functions.where", "{}", None, None, loop)
        assert seen == [loop]
        return outcome.output

    assert asyncio.run(main()) == "here"


@pytest.mark.parametrize("closed", [True, False])
def test_async_functions_whose_loop_no_longer_runs_have_one_of_their_own(closed: bool) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    if closed:
        loop.close()
    assert ToolBox([double]).call("functions.double", '{"n": 4}', loop=loop).output == "8"
    loop.close()


def test_a_loop_that_ends_before_the_function_is_not_waited_for() -> None:
    begun = threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever).start()
    while not loop.is_running():
        time.sleep(0.001)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ToolBox([forever]).call, "functions.forever", "{}", loop=loop)
        assert begun.wait(60)
        loop.call_soon_threadsafe(loop.stop)
        assert call.result(60).output == "Error: functions.forever: the event loop ended before the function did"
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_an_async_function_that_cancels_itself_is_an_error_text() -> None:
    async def f() -> None:
        raise asyncio.CancelledError

    assert ToolBox([f]).call("functions.f", "{}").error


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}, "of": {"enum": ["a", "b"]}},
    "required": ["n"],
    "additionalProperties": False,
}


def test_an_explicit_schema_is_checked() -> None:
    box = ToolBox([{"name": "f", "description": "F.", "parameters": SCHEMA, "function": lambda n, of="a": n * of}])
    assert box.call("functions.f", '{"n": 2, "of": "b"}').output == "bb"
    for arguments, said in [
        ("{}", '"n" is a required property'),
        ('{"n": 0}', "n: 0 is less than the minimum of 1"),
        ('{"n": "2"}', 'n: "2" is not of type "integer"'),
        ('{"n": 2, "x": 1}', "Additional properties"),
        ("[]", "a JSON object is needed"),
        ('{"n": NaN}', "Invalid JSON"),
    ]:
        outcome = box.call("functions.f", arguments)
        assert outcome.error
        assert said in outcome.output, outcome.output


def test_a_pattern_is_checked_in_linear_time() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    box = ToolBox([{"name": "f", "parameters": schema, "function": lambda a: "ran"}])
    assert box.call("functions.f", json.dumps({"a": "a" * 50_000})).output == "ran"
    assert "does not match" in box.call("functions.f", json.dumps({"a": "a" * 50_000 + "!"})).output


def test_openai_notation_is_understood_and_calls_left_to_the_caller() -> None:
    tool = as_tool({"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}})
    assert (tool.name, tool.function) == ("f", None)
    box = ToolBox([tool])
    assert box.leaves("functions.f", '{"n": 1}')
    assert box.call("functions.f", '{"n": 1}').error


def test_only_valid_calls_are_left_to_the_caller() -> None:
    box = ToolBox([{"name": "f", "parameters": SCHEMA}, weather])
    assert box.leaves("functions.f", '{"n": 1}')
    for recipient, arguments, said in [
        ("functions.f", '{"n": 0}', "less than the minimum"),
        ("functions.f", '{"n": ', "Invalid JSON"),
        ("functions.g", '{"n": 1}', "there is no such tool"),
        ("f", '{"n": 1}', "there is no such tool"),
    ]:
        assert not box.leaves(recipient, arguments)
        assert said in box.call(recipient, arguments).output
    assert not box.leaves("functions.weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (3, "is not a function"),
        ("weather", "is not a function"),
        (int, "is not a function"),
        (lambda city: city, "has no name"),
        (functools.partial(lambda city: city, "Oslo"), "has no name"),
        ({"description": "nameless"}, "name is None"),
        ({"name": "f", "parametres": {}}, "unknown key 'parametres'"),
        ({"name": "f", "function": 3}, "tool 'f': function is 3, which cannot be called"),
        ({"name": "", "parameters": SCHEMA}, "name is ''"),
        ({"name": "f", "parameters": {"type": "array"}}, '"type": "object"'),
        (
            {"name": "f", "parameters": {"properties": {"a": {"type": "strin"}}}},
            "parameters: at $.properties.a.type",
        ),
        ({"name": "f", "parameters": {"properties": {"a": {"default": {1, 2}}}}}, "not JSON"),
    ],
)
def test_what_cannot_be_declared_says_why(source: Any, said: str) -> None:
    with pytest.raises(ToolError) as caught:
        as_tool(source)
    assert said in str(caught.value)


def test_signatures_that_cannot_be_called_by_name_say_so() -> None:
    def positional(a: int, /) -> None: ...
    def many(*a: int) -> None: ...
    def keywords(**a: int) -> None: ...
    def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def odd(a: threading.Lock) -> None: ...

    for function in (positional, many, keywords, unknown, odd):
        with pytest.raises(ToolError, match=function.__name__):
            as_tool(function)


def test_names_must_differ_and_tools_be_a_list() -> None:
    with pytest.raises(ToolError, match="two tools are named 'weather'"):
        ToolBox([weather, weather])
    with pytest.raises(ToolError, match="a list is needed"):
        ToolBox(weather)  # type: ignore[arg-type]
    assert ToolBox().namespaces() == ()


def test_methods_and_objects() -> None:
    class Lamp:
        def switch(self, on: bool) -> str:
            """Switches."""
            return str(on)

        def __call__(self, on: bool) -> str:
            return str(on)

    lamp = Lamp()
    box = ToolBox([lamp.switch, Tool(name="lamp", function=lamp)])
    assert box.call("functions.switch", '{"on": true}').output == "True"
    assert box.call("functions.lamp", '{"on": false}').output == "False"


def test_before_call_lets_through_changes_or_vetoes() -> None:
    def hook(call: ToolCall) -> ToolCall | str | None:
        city = json.loads(call.arguments)["city"]
        if city == "Rome":
            return "not Rome"
        return dataclasses.replace(call, arguments='{"city": "Bergen"}') if city == "Oslo" else None

    box = ToolBox([weather])
    outcomes = {
        city: box.call("functions.weather", f'{{"city": "{city}"}}', hook) for city in ("Rome", "Oslo", "Bonn")
    }
    assert (outcomes["Rome"].output, outcomes["Rome"].error) == ("not Rome", True)
    assert '"city":"Bergen"' in outcomes["Oslo"].output
    assert '"city":"Bonn"' in outcomes["Bonn"].output


def test_after_call_sees_and_changes_results() -> None:
    seen: list[ToolResult] = []

    def hook(call: ToolCall, result: ToolResult) -> str | None:
        seen.append(result)
        return "changed" if result.error else None

    box = ToolBox([weather])
    assert box.call("functions.weather", "{", after_call=hook).output == "changed"
    assert box.call("functions.weather", '{"city": "Oslo"}', after_call=hook).output == seen[1].output


def test_hooks_are_the_callers_code() -> None:
    def broken(call: ToolCall) -> None:
        raise LookupError("mine")

    box = ToolBox([weather])
    with pytest.raises(LookupError, match="mine"):
        box.call("functions.weather", "{}", broken)
    with pytest.raises(InvalidRequest, match="before_call returned 3"):
        box.call("functions.weather", "{}", lambda call: 3)  # type: ignore[arg-type, return-value]


def test_calls_leave_no_threads_behind() -> None:
    async def main() -> None:
        box = ToolBox([double])
        for n in range(50):
            box.call("functions.double", f'{{"n": {n}}}')

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before


class Leaf(pydantic.BaseModel):
    """One of two models that differ in nothing that a value shows before it ends."""

    inside: int | Leaf | Twig


class Twig(pydantic.BaseModel):
    """The other one."""

    inside: int | Leaf | Twig


def test_types_inside_types_take_no_exponential_time() -> None:
    def grow(plant: Leaf | Twig) -> str:
        return "grown"

    box = ToolBox([grow])

    def called(depth: int, end: Any) -> str:
        plant = end
        for _ in range(depth):
            plant = {"inside": plant}
        return box.call("functions.grow", json.dumps({"plant": plant})).output

    assert called(3, 1) == "grown"
    assert "valid integer" in called(3, "x")
    assert called(60, "x") == "Error: functions.grow: arguments: too deeply nested to be checked; make it flatter"
