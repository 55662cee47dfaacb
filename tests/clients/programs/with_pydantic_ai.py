"""pydantic-ai: a tool loop, a stream and a typed result, over chat and over Responses."""

import asyncio

import pydantic
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

QUESTION = "How warm is it in Oslo?"


class Place(pydantic.BaseModel):
    city: str
    celsius: int


def get_weather(city: str) -> str:
    """Get the weather."""
    return f"4 C and rain in {city}"


async def streamed(agent: Agent) -> list:
    async with agent.run_stream_events(QUESTION) as stream:
        return [event async for event in stream]


for name, kind in {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}.items():
    model = kind("gpt-oss")
    agent = Agent(model, instructions="Be terse.", tools=[get_weather])
    result = agent.run_sync(QUESTION)
    assert "4 C" in result.output, result.output
    parts = [part.part_kind for message in result.all_messages() for part in message.parts]
    assert {"thinking", "tool-call", "tool-return", "text"} <= set(parts), parts
    print(f"{name}: tool loop with thinking")

    again = agent.run_sync("And now?", message_history=result.all_messages())
    assert again.output, again
    print(f"{name}: the next turn")

    events = asyncio.run(streamed(agent))
    assert "4 C" in events[-1].result.output, events[-1]
    assert len(events) > 20
    print(f"{name}: streamed tool loop")

    typed = Agent(model, output_type=Place)
    assert typed.run_sync(QUESTION).output == Place(city="Oslo", celsius=4)
    print(f"{name}: typed result")
