"""Every kind of turn, through every API, streamed and not: valid by the clients' own types, ordered, complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.chat.scripted import wire
from tests.harmony.fixtures import tokenizer as o200k
from tests.server.apis import APIS, CHAT, MESSAGES, RESPONSES, WEATHER, Answer, Api, Call, ask
from tests.server.scripted import Script, ScriptedGptOss, answer, call, say, think, turn
from tests.server.serving import Event, events_of, in_process

OSLO = ("get_weather", {"city": "Oslo"})
ROME = ("get_weather", {"city": "Rome"})


@dataclass(frozen=True, kw_only=True)
class Case:
    """A turn that a model draws, and what a client must get."""

    name: str
    scripts: Sequence[Script]
    thinking: str = ""
    text: str = ""
    calls: Sequence[tuple[str, Any]] = ()
    reason: str = "stop"
    tools: Sequence[Any] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    """Added to the request; ``max_tokens`` and ``stop`` are written as the API has them."""

    def __str__(self) -> str:
        return self.name


CASES = [
    Case(name="an answer", scripts=[turn(answer("Yes."))], text="Yes."),
    Case(name="thinking", scripts=[turn(think("Hm."), answer("Yes."))], thinking="Hm.", text="Yes."),
    Case(
        name="two thoughts",
        scripts=[turn(think("Hm."), think("Well."), answer("Yes."))],
        thinking="Hm.\n\nWell.",
        text="Yes.",
    ),
    Case(
        name="characters of several tokens",
        scripts=[turn(think("👩‍🚀 漢字"), answer("🇳🇴 é ﷺ"))],
        thinking="👩‍🚀 漢字",
        text="🇳🇴 é ﷺ",
    ),
    Case(
        name="a call",
        scripts=[turn(think("Look."), call("get_weather", city="Oslo"))],
        thinking="Look.",
        calls=[OSLO],
        reason="tool_calls",
        tools=[WEATHER],
    ),
    Case(
        name="a call without thinking",
        scripts=[turn(call("get_weather", city="Oslo"))],
        calls=[OSLO],
        reason="tool_calls",
        tools=[WEATHER],
    ),
    Case(
        name="a call on the analysis channel",
        scripts=[turn(think("Look."), call("get_weather", channel="analysis", city="Oslo"))],
        thinking="Look.",
        calls=[OSLO],
        reason="tool_calls",
        tools=[WEATHER],
    ),
    Case(
        name="a preamble and a call",
        scripts=[turn(think("Look."), say("Let me look."), call("get_weather", city="Oslo"))],
        thinking="Look.",
        text="Let me look.",
        calls=[OSLO],
        reason="tool_calls",
        tools=[WEATHER],
    ),
    Case(
        name="two calls",
        scripts=[turn(call("get_weather", city="Oslo", more=True), call("get_weather", city="Rome"))],
        calls=[OSLO, ROME],
        reason="tool_calls",
        tools=[WEATHER],
    ),
    Case(
        name="a call without arguments",
        scripts=[turn(call("now"))],
        calls=[("now", {})],
        reason="tool_calls",
        tools=[{"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}],
    ),
    Case(
        name="an answer on commentary", scripts=[turn(say("Yes.").replace("<|end|>", "<|return|>"))], text="Yes."
    ),
    Case(name="nothing", scripts=["<|return|>"]),
    Case(
        name="thinking that is cut short",
        scripts=[turn(think("one two three four five six seven eight"), answer("Yes."))],
        thinking="one two three",
        reason="length",
        fields={"max_tokens": 6},
    ),
    Case(
        name="an answer that is cut short",
        scripts=[turn(answer("one two three four five six seven eight"))],
        text="one two three",
        reason="length",
        fields={"max_tokens": 6},
    ),
    Case(
        name="a call that is cut short",
        scripts=[turn(think("Look."), call("get_weather", city="Oslo or Rome or Paris or London"))],
        thinking="Look.",
        reason="length",
        tools=[WEATHER],
        fields={"max_tokens": 24},
    ),
    Case(
        name="a stop text",
        scripts=[turn(think("END is a word."), answer("one END two"))],
        thinking="END is a word.",
        text="one ",
        fields={"stop": ["END"]},
    ),
]

_LIMITS = {"chat": "max_completion_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}
_STOPS = {"chat": "stop", "messages": "stop_sequences"}


def fields_of(case: Case, api: Api) -> dict[str, Any]:
    """A case's fields, by the names that an API has for them."""
    fields = dict(case.fields)
    if "max_tokens" in fields:
        fields[_LIMITS[api.name]] = fields.pop("max_tokens")
    if "stop" in fields:
        fields[_STOPS[api.name]] = fields.pop("stop")
    return fields


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("case", "api"),
    # Responses has no stop texts.
    [(case, api) for case in CASES for api in APIS if "stop" not in case.fields or api.name in _STOPS],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_every_turn_is_valid_in_order_and_complete(case: Case, api: Api, stream: bool) -> None:
    with in_process(ScriptedGptOss(*case.scripts)) as client:
        reply = ask(client, api, api.user("Go"), tools=case.tools, stream=stream, **fields_of(case, api))
    assert reply.meaning == (case.thinking, case.text, list(case.calls), case.reason)


def test_anthropics_api_says_which_stop_text_it_found() -> None:
    with in_process(ScriptedGptOss(turn(answer("one END two")))) as client:
        body = MESSAGES.body(MESSAGES.user("Go"), (), None) | {"stop_sequences": ["END", "FIN"]}
        data = client.post(MESSAGES.path, json=body).json()
    assert (data["stop_reason"], data["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_log_probabilities_are_those_of_the_answer(stream: bool) -> None:
    with in_process(ScriptedGptOss(turn(think("Hm."), answer("Yes, it is.")))) as client:
        body = CHAT.body(CHAT.user("Go"), (), None) | {"logprobs": True, "top_logprobs": 2, "stream": stream}
        response = client.post(CHAT.path, json=body)
    if stream:
        events = events_of(response.text)
        CHAT.streamed(events)
        choices = [event.data["choices"][0] for event in events[:-1] if event.data["choices"]]
    else:
        CHAT.whole(response.json())
        choices = response.json()["choices"]
    entries = [entry for choice in choices for entry in (choice["logprobs"] or {}).get("content") or ()]
    assert "".join(entry["token"] for entry in entries) == "Yes, it is."
    assert b"".join(bytes(entry["bytes"]) for entry in entries) == b"Yes, it is."
    assert {len(entry["top_logprobs"]) for entry in entries} == {2}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_usage_counts_what_the_engine_counts(api: Api, stream: bool) -> None:
    model = ScriptedGptOss(turn(think("One two."), answer("Yes.")), turn(answer("Again.")))
    usage: Any = {"stream_options": {"include_usage": True}} if api is CHAT and stream else {}
    with in_process(model) as client:
        first = ask(client, api, api.user("Go"), stream=stream, **usage)
        second = ask(client, api, api.user("Go"), stream=stream, **usage)
    for reply, prompt, computed, drawn in zip(
        (first, second),
        model.prompts,
        model.computed,
        (turn(think("One two."), answer("Yes.")), turn(answer("Again."))),
        strict=True,
    ):
        assert reply.prompt_tokens == len(prompt)
        assert reply.cached_tokens == len(prompt) - computed
        assert reply.completion_tokens == len(wire(drawn))
    assert second.cached_tokens == second.prompt_tokens - 1


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_tool_loop_ends_in_an_answer(api: Api) -> None:
    model = ScriptedGptOss(
        turn(think("Both."), call("get_weather", city="Oslo", more=True), call("get_weather", city="Rome")),
        turn(think("Cold and warm."), answer("4 C and 20 C.")),
    )
    history = api.user("How warm is it in Oslo and Rome?")
    with in_process(model) as client:
        reply = ask(client, api, history, tools=[WEATHER], instructions="Be terse.")
        history += api.said(reply) + api.results(reply, "4 C", "20 C")
        last = ask(client, api, history, tools=[WEATHER], instructions="Be terse.")
    assert last.meaning == ("Cold and warm.", "4 C and 20 C.", [], "stop")
    shown = model.shown[1]
    for text in ("Both.", "4 C", "20 C", "Be terse.", "type get_weather"):
        assert text in shown, shown
    assert shown.index("4 C") < shown.index("20 C")


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_every_id_is_used_once(api: Api) -> None:
    with in_process(ScriptedGptOss(respond=lambda prompt: turn(call("get_weather", city="Oslo")))) as client:
        calls: list[Call] = []
        for _ in range(5):
            calls += ask(client, api, api.user("Go"), tools=[WEATHER]).calls
    assert len({each.id for each in calls}) == 5


def test_a_model_may_write_the_name_of_a_control_token() -> None:
    tokens = [*wire("<|channel|>final<|message|>"), *o200k().encode("Write <|end|>."), *wire("<|return|>")]
    with in_process(ScriptedGptOss(tokens)) as client:
        reply = client.post(CHAT.path, json=CHAT.body(CHAT.user("Go"), (), None)).json()
    assert reply["choices"][0]["message"]["content"] == "Write <|end|>."


# Whether the checks of streams find what is wrong.


def noticed(api: Api, events: Sequence[Event], whole: Answer) -> bool:
    """Whether events are no valid stream, or do not add up to an answer."""
    events = [
        event._replace(data=event.data | ({"sequence_number": number} if "sequence_number" in event.data else {}))
        for number, event in enumerate(events)
    ]
    try:
        return bool(api.streamed(events).items != whole.items)
    except (AssertionError, ValueError):
        return True


@pytest.mark.parametrize("api", [RESPONSES, MESSAGES], ids=lambda api: api.name)
def test_an_event_that_is_lost_doubled_or_late_is_noticed(api: Api) -> None:
    script = turn(think("Look."), say("Let me look."), call("get_weather", city="Oslo"))
    with in_process(ScriptedGptOss(script)) as client:
        body = api.body(api.user("Go"), [WEATHER], None) | {"stream": True}
        events = [event for event in events_of(client.post(api.path, json=body).text) if event.name != "ping"]
    assert len(events) > 15
    whole = api.streamed(events)
    assert not noticed(api, events, whole)
    for n, event in enumerate(events):
        assert noticed(api, [*events[:n], *events[n + 1 :]], whole), f"{event} was lost"
        assert noticed(api, [*events[:n], event, *events[n:]], whole), f"{event} was doubled"
        if events[n + 1 : n + 2] not in ([], [event]):
            assert noticed(api, [*events[:n], events[n + 1], event, *events[n + 2 :]], whole), f"{event} was late"
