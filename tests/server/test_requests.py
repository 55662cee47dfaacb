"""What the model is shown of each API's requests, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.chat.scripted import wire
from tests.server.apis import APIS, CHAT, MESSAGES, RESPONSES, WEATHER, Api, ask
from tests.server.scripted import ScriptedGptOss, answer, call, say, think, turn
from tests.server.serving import events_of, in_process

PICTURE: Any = {"type": "image"}
PAPER: Any = {"type": "document"}
BEGUN: Any = {"role": "assistant", "content": "Well"}
TIME: Any = {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
JSON_ONLY: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture(scope="module")
def model() -> ScriptedGptOss:
    return ScriptedGptOss(respond=lambda prompt: turn(answer("Yes.")))


@pytest.fixture(scope="module")
def client(model: ScriptedGptOss) -> Iterator[TestClient]:
    with in_process(model) as client:
        yield client


def shown(model: ScriptedGptOss) -> str:
    """The last prompt, without the system message."""
    return model.shown[-1].partition("<|end|>")[2]


def user(text: str) -> str:
    return f"<|start|>user<|message|>{text}<|end|>"


def test_instructions_system_and_developer_are_the_developer_message(
    client: TestClient, model: ScriptedGptOss
) -> None:
    developer = "<|start|>developer<|message|># Instructions\n\nA\n\nB<|end|>"
    expected = f"{developer}{user('Hi')}<|start|>assistant"
    messages = [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}]
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    client.post(CHAT.path, json={"messages": [*messages, {"role": "user", "content": parts}]})
    assert shown(model) == expected
    client.post(RESPONSES.path, json={"instructions": "A", "input": [messages[1], *RESPONSES.user("Hi")]})
    assert shown(model) == expected
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, {"type": "text", "text": "A"}]
    system.append({"type": "text", "text": "B", "cache_control": {"type": "ephemeral"}})  # type: ignore[dict-item]
    client.post(MESSAGES.path, json={"max_tokens": 9, "system": system, "messages": MESSAGES.user("Hi")})
    assert shown(model) == expected


def test_later_instructions_stay_in_their_place(client: TestClient, model: ScriptedGptOss) -> None:
    later = [*CHAT.user("Hi"), {"role": "developer", "content": "Be terse."}, *CHAT.user("Go")]
    client.post(CHAT.path, json={"messages": later})
    developer = "<|start|>developer<|message|># Instructions\n\nBe terse.<|end|>"
    assert shown(model) == f"{user('Hi')}{developer}{user('Go')}<|start|>assistant"


@pytest.mark.parametrize(
    ("asked", "effort"), [("none", "low"), ("minimal", "low"), ("low", "low"), ("xhigh", "high"), (None, "medium")]
)
def test_every_effort_is_one_of_the_models(
    client: TestClient, model: ScriptedGptOss, asked: str | None, effort: str
) -> None:
    ask(client, CHAT, CHAT.user("Hi"), reasoning_effort=asked)
    assert f"Reasoning: {effort}\n" in model.shown[-1]
    ask(client, RESPONSES, RESPONSES.user("Hi"), reasoning={"effort": asked})
    assert f"Reasoning: {effort}\n" in model.shown[-1]
    ask(client, MESSAGES, MESSAGES.user("Hi"), output_config={"effort": asked})
    assert f"Reasoning: {effort}\n" in model.shown[-1]


@pytest.mark.parametrize("reasoning", [True, False], ids=["returned", "dropped"])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_what_the_model_said_with_a_call_is_put_back_as_it_was_written(api: Api, reasoning: bool) -> None:
    said = turn(think("Look."), say("Let me see."), call("get_weather", city="Oslo"))
    model = ScriptedGptOss(said, turn(answer("Cold.")), turn(answer("Warm.")))
    with in_process(model) as client:
        history = api.user("How warm?")
        reply = ask(client, api, history, tools=[WEATHER])
        returned = api.said(reply, reasoning=reasoning) + api.results(reply, "4 C")
        ask(client, api, history + returned, tools=[WEATHER])
        assert model.shown[1].startswith(f"{model.shown[0]}{said}<|start|>functions.get_weather")
        changed = json.loads(json.dumps(returned).replace("Oslo", "Rome"))
        ask(client, api, history + changed, tools=[WEATHER])
        assert "Rome" in model.shown[2]
        assert "Oslo" not in model.shown[2]


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_calls_that_another_model_made_are_shown(api: Api) -> None:
    made = {"id": "call_1", "name": "get_weather", "arguments": '{"city": "Oslo"}'}
    function = {"name": made["name"], "arguments": made["arguments"]}
    block = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Oslo"}}
    item = {"type": "function_call", "call_id": "call_1", **function}
    history: Any = {
        "chat": [{"role": "assistant", "content": "See.", "tool_calls": [{"id": "call_1", "function": function}]}],
        "responses": [{"role": "assistant", "content": "See."}, item],
        "messages": [{"role": "assistant", "content": [{"type": "text", "text": "See."}, block]}],
    }
    result: Any = {
        "chat": [{"role": "tool", "tool_call_id": "call_1", "content": "4 C"}],
        "responses": [{"type": "function_call_output", "call_id": "call_1", "output": "4 C"}],
        "messages": [
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "4 C"}]}
        ],
    }
    model = ScriptedGptOss(turn(answer("Cold.")))
    with in_process(model) as client:
        ask(client, api, [*api.user("Hi"), *history[api.name], *result[api.name]], tools=[WEATHER])
    assert model.shown[0].endswith(
        f"{user('Hi')}<|start|>assistant<|channel|>commentary<|message|>See.<|end|>"
        "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json"
        '<|message|>{"city": "Oslo"}<|call|>'
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>4 C<|end|><|start|>assistant"
    )


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_call_that_no_tool_can_take_goes_back_to_the_model(api: Api) -> None:
    wrong, right = turn(call("get_wether", city="Oslo")), turn(call("get_weather", city="Oslo"))
    model = ScriptedGptOss(wrong, right, turn(answer("Cold.")))
    with in_process(model) as client:
        history = api.user("How warm?")
        reply = ask(client, api, history, tools=[WEATHER], stream=True)
        assert [(made.name, made.arguments) for made in reply.calls] == [("get_weather", {"city": "Oslo"})]
        assert "there is no such tool; there are functions.get_weather" in model.shown[1]
        ask(client, api, history + api.said(reply) + api.results(reply, "4 C"), tools=[WEATHER])
        assert model.shown[2].startswith(f"{model.shown[1]}{right}")


def test_a_model_that_writes_no_better_call_leaves_it_to_the_client() -> None:
    model = ScriptedGptOss(respond=lambda prompt: turn(call("get_wether", city="Oslo")))
    with in_process(model) as client:
        reply = ask(client, CHAT, CHAT.user("How warm?"), tools=[WEATHER])
    assert [made.name for made in reply.calls] == ["get_wether"]
    assert reply.reason == "tool_calls"
    assert len(model.prompts) < 10


def test_a_call_without_arguments_is_an_object_and_is_put_back() -> None:
    said = turn(think("When?"), call("now").replace("{}", ""))
    model = ScriptedGptOss(said, turn(answer("Noon.")))
    with in_process(model) as client:
        reply = ask(client, CHAT, CHAT.user("When?"), tools=[TIME])
        assert reply.items["tool_calls"][0]["function"]["arguments"] == "{}"
        history = CHAT.user("When?") + CHAT.said(reply, reasoning=False) + CHAT.results(reply, "12:00")
        ask(client, CHAT, history, tools=[TIME])
    assert model.shown[1].startswith(f"{model.shown[0]}{said}")


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_an_answer_that_a_bug_ends_is_ended_in_the_words_of_the_api(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    model = ScriptedGptOss([*wire("<|channel|>final<|message|>Yes"), ZeroDivisionError("oops")])
    with in_process(model) as client:
        streamed = client.post(api.path, json=api.body(api.user("Hi"), (), None) | {"stream": True})
    events = events_of(streamed.text)
    last = events[-2 if api is CHAT else -1].data
    assert "a bug" in json.dumps(last)
    assert "oops" not in streamed.text
    assert "ZeroDivisionError" in caplog.text


def test_names_that_harmony_does_not_allow_come_back_as_they_were() -> None:
    tool = {**WEATHER, "name": "mcp: weather/now"}
    model = ScriptedGptOss(turn(call("mcp_weather_now", city="Oslo")), turn(answer("Cold.")))
    with in_process(model) as client:
        reply = ask(client, MESSAGES, MESSAGES.user("How warm?"), tools=[tool])
        assert [made.name for made in reply.calls] == ["mcp: weather/now"]
        history = MESSAGES.user("How warm?") + MESSAGES.said(reply) + MESSAGES.results(reply, "4 C")
        ask(client, MESSAGES, history, tools=[tool])
    assert "<|start|>functions.mcp_weather_now to=assistant" in model.shown[1]


def test_namespaces_are_harmonys() -> None:
    nested = {"type": "function", "strict": False, **WEATHER}
    tools = [{"type": "namespace", "name": "sky", "description": "Of the sky.", "tools": [nested]}, nested]
    model = ScriptedGptOss(turn(call("sky.get_weather", city="Oslo")), turn(answer("Cold.")))
    with in_process(model) as client:
        body = RESPONSES.body(RESPONSES.user("How warm?"), (), None) | {"tools": tools}
        reply = RESPONSES.whole(client.post(RESPONSES.path, json=body).json())
        (item,) = reply.items
        assert (item["namespace"], item["name"]) == ("sky", "get_weather")
        body["input"] += [item, *RESPONSES.results(reply, "4 C")]
        RESPONSES.whole(client.post(RESPONSES.path, json=body).json())
    assert "namespace sky {" in model.shown[0]
    assert "<|start|>sky.get_weather to=assistant" in model.shown[1]


@pytest.mark.parametrize(
    ("api", "choice", "expected"),
    [
        (CHAT, "none", "none"),
        (CHAT, "required", "required"),
        (CHAT, {"type": "function", "function": {"name": "now"}}, "functions.now"),
        (RESPONSES, "auto", "auto"),
        (RESPONSES, {"type": "function", "name": "now"}, "functions.now"),
        (RESPONSES, {"type": "web_search"}, "auto"),
        (MESSAGES, {"type": "any", "disable_parallel_tool_use": True}, "required"),
        (MESSAGES, {"type": "tool", "name": "now"}, "functions.now"),
        (MESSAGES, {"type": "none"}, "none"),
    ],
)
def test_every_form_of_tool_choice_is_the_models(api: Api, choice: Any, expected: str) -> None:
    script = turn(answer("Yes.")) if expected in ("none", "auto") else turn(call("now"))
    model = ScriptedGptOss(script)
    with in_process(model) as client:
        ask(client, api, api.user("Hi"), tools=[WEATHER, TIME], tool_choice=choice)
    guide = model.options[0]["guide"]
    assert (None if guide is None else guide._plan.tool_choice) == (None if expected == "auto" else expected)


@pytest.mark.parametrize("api", [CHAT, RESPONSES], ids=lambda api: api.name)
def test_allowed_tools_are_the_only_ones_offered(api: Api) -> None:
    named: Any = {
        "chat": {"type": "function", "function": {"name": "now"}},
        "responses": {"type": "function", "name": "now"},
    }
    inner = {"mode": "required", "tools": [named[api.name]]}
    choice = {"type": "allowed_tools", **({"allowed_tools": inner} if api is CHAT else inner)}
    model = ScriptedGptOss(turn(call("now")))
    with in_process(model) as client:
        ask(client, api, api.user("Hi"), tools=[WEATHER, TIME], tool_choice=choice)
    assert "type now" in model.shown[0]
    assert "get_weather" not in model.shown[0]


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_hosted_tools_are_ignored(api: Api, client: TestClient, model: ScriptedGptOss) -> None:
    body = api.body(api.user("Hi"), [TIME], None)
    body["tools"] += [
        {"type": "web_search"},
        {"type": "custom_thing", "name": "x"},
        {"type": "mcp", "server_url": "y"},
    ]
    assert client.post(api.path, json=body).status_code == 200
    assert "web_search" not in model.shown[-1]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_schema_holds_for_the_final_answer_beside_tools_and_thinking(api: Api, stream: bool) -> None:
    forms: Any = {
        "chat": {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": JSON_ONLY}}},
        "responses": {"text": {"format": {"type": "json_schema", "name": "n", "schema": JSON_ONLY}}},
        "messages": {"output_config": {"format": {"type": "json_schema", "schema": JSON_ONLY}}},
    }
    model = ScriptedGptOss(turn(think("Hm."), say("So:"), answer('{"a": 1}')))
    with in_process(model) as client:
        reply = ask(client, api, api.user("Hi"), tools=[TIME], stream=stream, **forms[api.name])
    assert json.loads(reply.text) == {"a": 1}  # the preamble is no part of it
    plan = model.options[0]["guide"]._plan
    assert plan.constraint is not None
    assert plan.tool_choice == "auto"
    assert '"required":["a"]' in model.shown[0]


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_an_answer_cut_short_before_it_has_its_form_is_no_error(api: Api) -> None:
    forms: Any = {
        "chat": {"response_format": {"type": "json_object"}, "max_completion_tokens": 6},
        "responses": {"text": {"format": {"type": "json_object"}}, "max_output_tokens": 6},
        "messages": {"output_format": {"type": "json_schema", "schema": {"type": "object"}}, "max_tokens": 6},
    }
    model = ScriptedGptOss(turn(answer('{"abc": "def"}')))
    with in_process(model) as client:
        reply = ask(client, api, api.user("Hi"), **forms[api.name])
    assert reply.reason == "length"
    assert reply.text.startswith('{"')


@pytest.mark.parametrize(
    ("api", "fields", "place"),
    [
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "narrator", "content": ""}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]}, "messages[0].tool_call_id"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": 1}}]}, "tools[0].function.name"),
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "schema"),
        (CHAT, {"response_format": {"type": "grammar"}}, "response_format.type"),
        (CHAT, {"temperature": "hot"}, "temperature"),
        (CHAT, {"temperature": 1e999}, "temperature"),
        (CHAT, {"stop": [""]}, "stop"),
        (CHAT, {"logit_bias": {"x": 1}}, "logit_bias"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"conversation": "conv_1"}, "conversation"),
        (RESPONSES, {"metadata": 3}, "metadata"),
        (RESPONSES, {"user": 3}, "user"),
        (RESPONSES, {"input": [{"role": "user", "content": [PICTURE]}]}, "input[0].content[0].type"),
        (RESPONSES, {"input": None}, "input"),
        (MESSAGES, {"messages": [*MESSAGES.user("Hi"), BEGUN]}, "messages[1].role"),
        (MESSAGES, {"messages": [{"role": "user", "content": [PICTURE]}]}, "messages[0].content[0].type"),
        (MESSAGES, {"messages": [{"role": "user", "content": [PAPER]}]}, "messages[0].content[0].type"),
        (MESSAGES, {"tool_choice": {"type": "some"}}, "tool_choice.type"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_its_path(
    client: TestClient, api: Api, fields: dict[str, Any], place: str
) -> None:
    body = api.body(api.user("Hi"), (), None) | fields
    refused = client.post(api.path, content=json.dumps(body).replace("Infinity", "1e999"))
    assert refused.status_code == 400, refused.text
    message = api.error(refused.json())
    assert message.startswith(place), message
    if api is not MESSAGES and place != "schema":
        assert refused.json()["error"]["param"] == place


def test_completions_say_where_to_go(client: TestClient) -> None:
    refused = client.post("/v1/completions", json={"prompt": "Hi"})
    assert refused.status_code == 400
    assert "/v1/chat/completions" in refused.json()["error"]["message"]


def test_a_response_is_kept_until_it_is_deleted(client: TestClient, model: ScriptedGptOss) -> None:
    first = client.post(RESPONSES.path, json={"input": "One?"}).json()
    assert client.get(f"/v1/responses/{first['id']}").json() == first
    body = {"input": "Two?", "previous_response_id": first["id"], "instructions": "Be terse."}
    second = client.post(RESPONSES.path, json=body).json()
    assert second["previous_response_id"] == first["id"]
    assert user("One?") in model.shown[-1]
    assert shown(model).endswith(
        f"<|start|>assistant<|channel|>final<|message|>Yes.<|end|>{user('Two?')}<|start|>assistant"
    )
    deleted = client.delete(f"/v1/responses/{first['id']}")
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    for refused in (
        client.get(f"/v1/responses/{first['id']}"),
        client.delete(f"/v1/responses/{first['id']}"),
        client.post(RESPONSES.path, json={"input": "x", "previous_response_id": first["id"]}),
    ):
        assert refused.status_code == 404
        assert first["id"] in RESPONSES.error(refused.json())
    unkept = client.post(RESPONSES.path, json={"input": "Hi", "store": False}).json()
    assert client.get(f"/v1/responses/{unkept['id']}").status_code == 404


def test_a_kept_response_goes_on_after_its_calls() -> None:
    said = turn(think("Look."), call("get_weather", city="Oslo"))
    model = ScriptedGptOss(said, turn(answer("Cold.")))
    with in_process(model) as client:
        body = RESPONSES.body(RESPONSES.user("How warm?"), [WEATHER], None)
        first = client.post(RESPONSES.path, json=body).json()
        results = RESPONSES.results(RESPONSES.whole(first), "4 C")
        body = RESPONSES.body(results, [WEATHER], None) | {"previous_response_id": first["id"]}
        reply = RESPONSES.whole(client.post(RESPONSES.path, json=body).json())
    assert reply.text == "Cold."
    assert model.shown[1].startswith(f"{model.shown[0]}{said}<|start|>functions.get_weather")


def test_a_preamble_and_an_answer_are_told_apart(client: TestClient) -> None:
    model = ScriptedGptOss(
        turn(say("First."), answer("Then.")), turn(say("Only.").replace("<|end|>", "<|return|>"))
    )
    with in_process(model) as client:
        items = ask(client, RESPONSES, RESPONSES.user("Hi")).items
        assert [item["phase"] for item in items] == ["commentary", "final_answer"]
        events = client.post(RESPONSES.path, json={"input": "Hi", "stream": True}).text
        done = [event.data for event in events_of(events) if event.name == "response.output_item.done"]
        assert [event["item"]["phase"] for event in done] == ["final_answer"]


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_thinking_can_be_hidden(api: Api) -> None:
    model = ScriptedGptOss(turn(think("Hm."), answer("Yes.")))
    with in_process(model, hide_thinking=True) as client:
        reply = ask(client, api, api.user("Hi"), stream=True)
    assert (reply.thinking, reply.text) == ("", "Yes.")


def test_anthropics_clients_see_thinking_only_if_they_ask(client: TestClient) -> None:
    model = ScriptedGptOss(respond=lambda prompt: turn(think("Hm."), answer("Yes.")))
    with in_process(model) as client:
        body = {"max_tokens": 99, "messages": MESSAGES.user("Hi")}
        kinds = [block["type"] for block in client.post(MESSAGES.path, json=body).json()["content"]]
        assert kinds == ["text"]
        asked = body | {"thinking": {"type": "adaptive"}}
        kinds = [block["type"] for block in client.post(MESSAGES.path, json=asked).json()["content"]]
        assert kinds == ["thinking", "text"]


def test_the_root_says_what_to_paste(client: TestClient) -> None:
    text = client.get("/").text
    assert "OPENAI_BASE_URL=http://127.0.0.1:8080/v1" in text
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:8080" in text
    assert client.head("/").status_code == 200


def test_metrics_count_what_was_answered() -> None:
    model = ScriptedGptOss(respond=lambda prompt: turn(think("Hm."), answer("Yes.")))
    with in_process(model) as client:
        reply = ask(client, CHAT, CHAT.user("Hi"))
        client.post(CHAT.path, json={})
        lines = client.get("/metrics").text.splitlines()
    assert 'gptoss_requests_total{route="/v1/chat/completions",status="400"} 1' in lines
    assert 'gptoss_requests_total{route="/v1/chat/completions",status="200"} 1' in lines
    computed = reply.prompt_tokens - reply.cached_tokens
    assert f'gptoss_prompt_tokens_total{{source="computed"}} {computed}' in lines
    assert "gptoss_first_token_seconds_count 1" in lines
    assert "gptoss_requests_running 0" in lines


def test_the_log_has_one_line_a_request_and_none_of_its_text(caplog: pytest.LogCaptureFixture) -> None:
    model = ScriptedGptOss(turn(think("Secret."), answer("Secret.")))
    with in_process(model) as client, caplog.at_level("INFO", "gptoss_mlx.server"):
        ask(client, CHAT, CHAT.user("Secret?"))
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("gptoss_mlx.server")]
    assert line.startswith("POST /v1/chat/completions status=200 seconds=")
    assert "generated=" in line
    assert "Secret" not in caplog.text
