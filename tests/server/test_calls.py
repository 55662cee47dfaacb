"""Several calls in one answer, and the next request: each reaches who runs it, once, and has its own result."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.scripted import ScriptedGptOss, answer, call, think, turn
from tests.server.serving import in_process

ASK = {"role": "user", "content": "hi"}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER, TIME = tool("get_weather", city={"type": "string"}), tool("get_time", zone={"type": "string"})
PING, PONG = tool("ping"), tool("pong")


def server_clock() -> str:
    """The time."""
    return "noon"


def called(message: dict[str, Any]) -> list[str]:
    return [made["function"]["name"] for made in message["tool_calls"]]


def ask(client: Any, history: list[dict[str, Any]], *tools: dict[str, Any]) -> dict[str, Any]:
    body = client.post("/v1/chat/completions", json={"messages": history, "tools": tools}).json()
    message: dict[str, Any] = body["choices"][0]["message"]
    return message


def repeated(message: dict[str, Any], *results: str) -> list[dict[str, Any]]:
    """What a client sends back: the calls without the analysis, and their results."""
    made = message["tool_calls"]
    answers = [
        {"role": "tool", "tool_call_id": each["id"], "content": result}
        for each, result in zip(made, results, strict=True)
    ]
    return [{"role": "assistant", "content": None, "tool_calls": made}, *answers]


def test_a_valid_call_beside_one_that_no_tool_can_take_reaches_the_client() -> None:
    model = ScriptedGptOss(
        turn(think("Both."), call("get_weather", city="Oslo", more=True), call("get_time", bad=1))
    )
    with in_process(model) as client:
        assert called(ask(client, [ASK], WEATHER, TIME)) == ["get_weather"]


def test_a_call_of_the_client_beside_one_that_runs_here_reaches_the_client_and_its_result_the_model() -> None:
    model = ScriptedGptOss(
        turn(think("Both."), call("server_clock", more=True), call("get_weather", city="Oslo")), turn(answer("ok"))
    )
    with in_process(model, tools=[server_clock]) as client:
        message = ask(client, [ASK], WEATHER)
        assert called(message) == ["get_weather"]
        ask(client, [ASK, *repeated(message, "drizzle")], WEATHER)
    prompt = model.shown[-1]
    assert prompt.count("noon") == 1
    assert prompt.index("to=functions.server_clock") < prompt.index("noon") < prompt.index("drizzle")
    assert "functions.get_weather to=assistant<|channel|>commentary<|message|>drizzle" in prompt


def test_each_of_two_calls_has_its_own_result() -> None:
    model = ScriptedGptOss(turn(think("Both."), call("ping", more=True), call("pong")), turn(answer("ok")))
    with in_process(model) as client:
        message = ask(client, [ASK], PING, PONG)
        ask(client, [ASK, *repeated(message, "first", "second")], PING, PONG)
    assert "functions.ping to=assistant<|channel|>commentary<|message|>first" in model.shown[-1]
    assert "functions.pong to=assistant<|channel|>commentary<|message|>second" in model.shown[-1]


def test_the_same_call_in_two_turns_is_in_the_conversation_twice() -> None:
    polling = turn(think("Check."), call("ping"))
    model = ScriptedGptOss(polling, polling, turn(answer("ok")))
    with in_process(model) as client:
        history: list[dict[str, Any]] = [ASK]
        for result in ("not yet", "done"):
            history += repeated(ask(client, history, PING), result)
        ask(client, history, PING)
    assert model.shown[-1].count("to=functions.ping") == 2
    assert model.shown[-1].count("Check.") == 2


def test_calls_whose_results_come_between_them_are_in_the_conversation_once() -> None:
    model = ScriptedGptOss(turn(think("Both."), call("ping", more=True), call("pong")), turn(answer("ok")))
    with in_process(model) as client:
        tools = [{"type": "function", **made["function"]} for made in (PING, PONG)]
        body = {"input": "hi", "tools": tools, "store": False}
        made = [
            item
            for item in client.post("/v1/responses", json=body).json()["output"]
            if item["type"] == "function_call"
        ]
        history: list[Any] = [ASK]
        for item, result in zip(made, ("first", "second"), strict=True):
            history += [item, {"type": "function_call_output", "call_id": item["call_id"], "output": result}]
        client.post("/v1/responses", json=body | {"input": history})
    prompt = model.shown[-1]
    assert [prompt.count(f"to=functions.{name}") for name in ("ping", "pong")] == [1, 1]
    assert prompt.count("Both.") == 1
    assert prompt.index("first") < prompt.index("to=functions.pong") < prompt.index("second")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": [ASK], "tools": [PING, PONG], "parallel_tool_calls": False}),
        (
            "/v1/responses",
            {
                "input": "hi",
                "tools": [{"type": "function", **made["function"]} for made in (PING, PONG)],
                "parallel_tool_calls": False,
            },
        ),
        (
            "/v1/messages",
            {
                "max_tokens": 99,
                "messages": [ASK],
                "tools": [{"name": name, "input_schema": {"type": "object"}} for name in ("ping", "pong")],
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            },
        ),
    ],
)
def test_a_client_that_runs_one_call_gets_one(path: str, asked: dict[str, Any]) -> None:
    model = ScriptedGptOss(turn(think("Both."), call("ping", more=True), call("pong")))
    with in_process(model) as client:
        found = client.post(path, json=asked).text
    assert _calls(json.loads(found)) == ["ping"]


def test_a_conversation_goes_on_without_the_calls_that_the_client_did_not_get() -> None:
    model = ScriptedGptOss(turn(think("Both."), call("ping", more=True), call("pong")), turn(answer("ok")))
    tools = [{"type": "function", **made["function"]} for made in (PING, PONG)]
    asked = {"tools": tools, "parallel_tool_calls": False}
    with in_process(model) as client:
        first = client.post("/v1/responses", json=asked | {"input": "hi"}).json()
        (made,) = [item for item in first["output"] if item["type"] == "function_call"]
        result = {"type": "function_call_output", "call_id": made["call_id"], "output": "there"}
        client.post("/v1/responses", json=asked | {"input": [result], "previous_response_id": first["id"]})
    assert "to=functions.pong" not in model.shown[-1]
    assert model.shown[-1].count("there") == 1


def _calls(body: dict[str, Any]) -> list[str]:
    """The names of the calls in an object of any of the APIs."""
    if "choices" in body:
        return called(body["choices"][0]["message"])
    items = body.get("output") or body["content"]
    return [item["name"] for item in items if item["type"] in ("function_call", "tool_use")]


def test_arguments_that_no_json_can_hold_reach_no_client() -> None:
    tools = [{"name": "ping", "input_schema": {"type": "object"}}]
    asked = {"max_tokens": 99, "messages": [ASK], "tools": tools}
    script = turn(think("Hm."), call("ping", a=1).replace("1}", "1e999}"))
    model = ScriptedGptOss(respond=lambda prompt: script)
    with in_process(model) as client:
        whole = client.post("/v1/messages", json=asked)
        streamed = client.post("/v1/messages", json=asked | {"stream": True})
    assert whole.status_code == 200
    assert [item["input"] for item in whole.json()["content"] if item["type"] == "tool_use"] == [{}]
    assert "Infinity" not in streamed.text
