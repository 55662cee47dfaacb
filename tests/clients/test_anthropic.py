"""anthropic-python: messages, created and streamed, with tools, counted, and its typed errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import ToolParam

from tests.clients.conduct import SAID, THOUGHT
from tests.server.scripted import ScriptedGptOss
from tests.server.serving import listening

WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "Get the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
MODEL: Any = "gpt-oss"
QUESTION = "How warm is it in Oslo?"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def asked(**fields: Any) -> Any:
    """The arguments of a request."""
    thinking = {"type": "enabled", "budget_tokens": 1024}
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": MODEL, "max_tokens": 4096, "messages": messages, "thinking": thinking} | fields


def test_a_message_is_created(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**asked(system="Be terse."))
    assert [block.type for block in message.content] == ["thinking", "text"]
    thinking, text = message.content
    assert thinking.type == "thinking"
    assert text.type == "text"
    assert (thinking.thinking, text.text, message.stop_reason) == (THOUGHT, SAID, "end_turn")


def test_a_message_is_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**asked()) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert "".join(pieces) == SAID
    assert len(pieces) > 5
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.output_tokens > len(pieces)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_message_with_tools_goes_on_after_the_results(
    client: anthropic.Anthropic, scripted: ScriptedGptOss, stream: bool
) -> None:
    runs = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather.

        Args:
            city: where.
        """
        runs.append(city)
        return "4 C, rain"

    runner: Any = client.beta.messages.tool_runner(**asked(tools=[get_weather], stream=stream))
    message = runner.until_done()
    assert runs == ["Oslo"]
    assert message.content[-1].text == SAID
    assert THOUGHT in scripted.shown[-1]
    assert "4 C, rain" in scripted.shown[-1]


def test_tokens_are_counted_as_the_engine_counts_them(client: anthropic.Anthropic) -> None:
    fields = asked(system="Be terse.", tools=[WEATHER])
    usage = client.messages.create(**fields).usage
    del fields["max_tokens"]
    read = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert client.messages.count_tokens(**fields).input_tokens == read


def test_the_models_are_listed(client: anthropic.Anthropic) -> None:
    (model,) = client.models.list()
    assert model.id


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
                        ],
                    }
                ]
            },
            "messages",
        ),
    ],
)
def test_what_cannot_be_done_is_a_typed_error_that_names_its_place(
    client: anthropic.Anthropic, fields: Any, place: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=place):
        client.messages.create(**asked(**fields))


def test_a_key_may_be_sent_in_either_way() -> None:
    with listening(ScriptedGptOss(), api_key="right") as url:
        keys: list[Any] = [{"api_key": "right"}, {"auth_token": "right"}]
        for key in keys:
            with anthropic.Anthropic(base_url=url, max_retries=0, **key) as client:
                assert client.models.list().data
        with (
            anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0) as client,
            pytest.raises(anthropic.AuthenticationError),
        ):
            client.models.list()


def test_the_demo_answers(demo_url: str) -> None:
    with anthropic.Anthropic(base_url=demo_url, api_key="none", max_retries=0) as client:
        message = client.messages.create(
            **asked(messages=[{"role": "user", "content": "How many layers does gpt-oss-20b have?"}]),
            extra_body={"temperature": 0},
        )
    assert "24" in message.content[-1].text
