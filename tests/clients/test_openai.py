"""openai-python: chat and responses, created, streamed and parsed, with tools, and its typed errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionToolParam
from openai.types.responses import FunctionToolParam

from tests.clients.conduct import CITY, SAID, THOUGHT
from tests.server.scripted import ScriptedGptOss
from tests.server.serving import listening

PARAMETERS: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
NESTED: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Get the weather.", "parameters": PARAMETERS},
}
FLAT: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather.",
    "parameters": PARAMETERS,
    "strict": False,
}
MODEL: Any = "gpt-oss"
QUESTION = "How warm is it in Oslo?"


class City(pydantic.BaseModel):
    city: str
    celsius: int


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def demo_client(demo_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_url}/v1", api_key="none", max_retries=0) as client:
        yield client


# Chat.


def test_a_chat_completion_is_created(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": QUESTION}])
    message = completion.choices[0].message
    assert (message.content, completion.choices[0].finish_reason) == (SAID, "stop")
    assert message.model_extra is not None
    assert message.model_extra["reasoning"] == message.model_extra["reasoning_content"] == THOUGHT


def test_a_chat_completion_is_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], stream_options={"include_usage": True}
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        completion = stream.get_final_completion()
    assert "".join(pieces) == completion.choices[0].message.content == SAID
    assert len(pieces) > 5
    assert completion.usage is not None
    assert completion.usage.completion_tokens > len(pieces)


def test_a_chat_completion_is_parsed(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], response_format=City
    )
    assert completion.choices[0].message.parsed == City(**CITY)


def test_a_chat_with_tools_goes_on_after_the_results(client: openai.OpenAI, scripted: ScriptedGptOss) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[NESTED])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "4 C, rain"}]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=[NESTED])
    assert second.choices[0].message.content == SAID
    assert THOUGHT in scripted.shown[-1]
    assert "4 C, rain" in scripted.shown[-1]


# Responses.


def test_a_response_is_created(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input=QUESTION, instructions="Be terse.")
    assert (response.output_text, response.status) == (SAID, "completed")
    assert [item.type for item in response.output] == ["reasoning", "message"]


def test_a_response_is_streamed(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=QUESTION) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert "".join(pieces) == response.output_text == SAID
    assert len(pieces) > 5


def test_a_response_is_parsed(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=MODEL, input=QUESTION, text_format=City)
    assert response.output_parsed == City(**CITY)


def test_a_response_with_tools_goes_on_after_the_results(client: openai.OpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": QUESTION}]
    first = client.responses.create(model=MODEL, input=history, tools=[FLAT])
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    history += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "4 C, rain"}]
    assert client.responses.create(model=MODEL, input=history, tools=[FLAT]).output_text == SAID


def test_a_response_goes_on_where_another_ended(client: openai.OpenAI, scripted: ScriptedGptOss) -> None:
    first = client.responses.create(model=MODEL, input=QUESTION, tools=[FLAT])
    (call,) = [item for item in first.output if item.type == "function_call"]
    second = client.responses.create(
        model=MODEL,
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "4 C, rain"}],
        tools=[FLAT],
    )
    assert second.output_text == SAID
    assert QUESTION in scripted.shown[-1]
    assert client.responses.retrieve(first.id).output == first.output
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, previous_response_id=first.id, input="And Rome?")


# Everything else.


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert client.models.retrieve(model.id) == model


def test_many_tasks_may_ask_at_once(url: str) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            asked = [client.responses.create(model=MODEL, input=QUESTION) for _ in range(5)]
            return [response.output_text for response in await asyncio.gather(*asked)]

    assert asyncio.run(main()) == [SAID] * 5


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"n": 2}, "n"),
        ({"temperature": -1}, "temperature"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"typ": 1}}}},
            "schema",
        ),
    ],
)
def test_what_cannot_be_done_is_a_typed_error_that_names_its_place(
    client: openai.OpenAI, fields: Any, place: str
) -> None:
    request: Any = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(openai.BadRequestError, match=place):
        client.chat.completions.create(**request | fields)


def test_a_wrong_key_is_a_typed_error() -> None:
    with listening(ScriptedGptOss(), api_key="right") as url:
        for key, expected in (("wrong", openai.AuthenticationError), ("right", None)):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                if expected is None:
                    assert client.models.list().data
                else:
                    with pytest.raises(expected):
                        client.models.list()


# The demo.


def test_the_demo_answers_and_calls(demo_client: openai.OpenAI) -> None:
    response = demo_client.responses.create(
        model=MODEL, input="How many layers does gpt-oss-20b have?", reasoning={"effort": "low"}, temperature=0
    )
    assert "24" in response.output_text
    called = demo_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[NESTED],
        tool_choice="required",
        temperature=0,
    )
    assert called.choices[0].finish_reason == "tool_calls"


def test_the_demo_writes_the_form_that_is_asked_for(demo_client: openai.OpenAI) -> None:
    completion = demo_client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Oslo has 4 degrees."}],
        response_format=City,
        reasoning_effort="low",
        max_completion_tokens=2000,
        temperature=0,
    )
    assert isinstance(completion.choices[0].message.parsed, City)
    with demo_client.responses.stream(
        model=MODEL,
        input="Oslo has 4 degrees.",
        text_format=City,
        reasoning={"effort": "low"},
        tools=[FLAT],
        temperature=0,
    ) as stream:
        response = stream.get_final_response()
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls or isinstance(response.output_parsed, City)
