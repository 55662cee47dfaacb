"""Tools that run in the server, beside those of a request."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss_mlx.errors import ToolError
from gptoss_mlx.events import ToolCall
from gptoss_mlx.server import create_app
from tests.server.scripted import ScriptedGptOss, answer, call, think, turn
from tests.server.serving import in_process

ASKED: Any = {"model": "m", "messages": [{"role": "user", "content": "How warm is it?"}]}
OWN: Any = [{"type": "function", "function": {"name": "lamp", "parameters": {"type": "object"}}}]


def warmth(city: str) -> str:
    """How warm it is."""
    return f"4 C in {city}"


def test_a_tool_runs_here_and_the_client_sees_the_answer_alone() -> None:
    model = ScriptedGptOss(turn(think("Look."), call("warmth", city="Oslo")), turn(answer("It is 4 C.")))
    with in_process(model, tools=[warmth]) as client:
        choice = client.post("/v1/chat/completions", json=ASKED).json()["choices"][0]
    assert choice["message"]["content"] == "It is 4 C."
    assert choice["finish_reason"] == "stop"
    assert not choice["message"].get("tool_calls")
    assert "type warmth" in model.shown[0]
    assert "4 C in Oslo" in model.shown[1]


def test_the_tools_of_a_request_are_the_clients_to_run_also_after_calls_of_those_here() -> None:
    model = ScriptedGptOss(turn(call("warmth", city="Oslo")), turn(call("lamp")))
    with in_process(model, tools=[warmth]) as client:
        choice = client.post("/v1/chat/completions", json={**ASKED, "tools": OWN}).json()["choices"][0]
    assert [made["function"]["name"] for made in choice["message"]["tool_calls"]] == ["lamp"]
    assert choice["finish_reason"] == "tool_calls"


def test_a_tool_of_a_request_hides_the_one_of_its_name_here() -> None:
    model = ScriptedGptOss(turn(call("lamp")))
    with in_process(model, tools=[{"name": "lamp", "function": lambda: "here"}]) as client:
        choice = client.post("/v1/chat/completions", json={**ASKED, "tools": OWN}).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"


def test_a_veto_is_the_result() -> None:
    seen: list[ToolCall] = []

    def veto(call: ToolCall) -> str:
        seen.append(call)
        return "not allowed"

    model = ScriptedGptOss(turn(call("warmth", city="Oslo")), turn(answer("I may not look.")))
    with in_process(model, tools=[warmth], before_call=veto) as client:
        client.post("/v1/chat/completions", json=ASKED)
    assert "not allowed" in model.shown[1]
    assert "4 C" not in model.shown[1]
    assert len(seen) == 1


def test_calls_without_an_end_end() -> None:
    model = ScriptedGptOss(*[turn(call("warmth", city="Oslo"))] * 16)
    with in_process(model, tools=[warmth]) as client:
        choice = client.post("/v1/chat/completions", json=ASKED).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert not choice["message"].get("tool_calls")


def test_a_tool_that_cannot_be_declared_is_refused() -> None:
    with pytest.raises(ToolError):
        create_app(ScriptedGptOss(), tools=[7])
