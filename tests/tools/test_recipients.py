"""Calls by another name: a closed list of spellings, and never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.tools.recipients import declared_tool

DECLARED = {"functions.get_weather", "functions.bash", "functions.python", "functions.f.g", "browser.search"}


@pytest.mark.parametrize(
    ("recipient", "tool"),
    [
        ("get_weather", "functions.get_weather"),
        ("function.get_weather", "functions.get_weather"),
        ("functions/get_weather", "functions.get_weather"),
        ("function/get_weather", "functions.get_weather"),
        ("functions.bashjson", "functions.bash"),
        ("functions.bashcode", "functions.bash"),
        ("bashjson", "functions.bash"),
        ("functions/bashjson", "functions.bash"),
        ("python", "functions.python"),
        ("f.g", "functions.f.g"),
        ("browser.searchcode", "browser.search"),
    ],
)
def test_a_call_by_another_name_means_the_declared_tool(recipient: str, tool: str) -> None:
    assert declared_tool(recipient, DECLARED) == tool


@pytest.mark.parametrize(
    "recipient",
    [
        *["weather", "get_weathers", "Get_Weather", "getWeather", "get_weather_json", "functions.get-weather"],
        *["functions", "functions.", "functions.json", "json", "", "tools.get_weather", "functions:get_weather"],
        *["functions.functions.get_weather", "browser/search", "search", "bashjsonjson"],
    ],
)
def test_similar_names_mean_no_tool(recipient: str) -> None:
    assert declared_tool(recipient, DECLARED) is None


def test_a_declared_name_means_itself_whatever_else_it_could_mean() -> None:
    declared = {"functions.bash", "functions.bashjson", "functions.functions.bash", "bash"}
    assert all(declared_tool(name, declared) == name for name in declared)


def test_two_meanings_are_none() -> None:
    assert declared_tool("bashjson", {"functions.bash", "functions.bashjson"}) is None
    assert declared_tool("function.f", {"functions.f", "functions.function.f"}) is None


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text(max_size=40), st.sets(st.text(max_size=12), max_size=5))
def test_any_text_means_a_declared_tool_or_none(recipient: str, declared: set[str]) -> None:
    assert declared_tool(recipient, declared) in {None, *declared}
