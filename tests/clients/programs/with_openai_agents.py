"""openai-agents: a tool loop, a stream and a typed result, over chat and over Responses."""

import asyncio

import pydantic
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

QUESTION = "How warm is it in Oslo?"


class City(pydantic.BaseModel):
    city: str
    celsius: int


@function_tool
def get_weather(city: str) -> str:
    """Get the weather."""
    return f"4 C and rain in {city}"


async def main() -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI()
    for name, kind in {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}.items():
        model = kind(model="gpt-oss", openai_client=client)
        agent = Agent(name="Weather", instructions="Be terse.", tools=[get_weather], model=model)
        result = await Runner.run(agent, QUESTION)
        assert "4 C" in result.final_output, result.final_output
        assert "tool_call_output_item" in [item.type for item in result.new_items]
        print(f"{name}: tool loop")

        streamed = Runner.run_streamed(agent, QUESTION)
        kinds = [event.type async for event in streamed.stream_events()]
        assert "4 C" in streamed.final_output, streamed.final_output
        assert kinds.count("raw_response_event") > 10
        print(f"{name}: streamed tool loop")

        typed = Agent(name="Typed", output_type=City, model=model)
        assert (await Runner.run(typed, QUESTION)).final_output == City(city="Oslo", celsius=4)
        print(f"{name}: typed result")


asyncio.run(main())
