"""langchain-openai: a tool loop, a stream and a typed result, over chat and over Responses."""

import pydantic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

QUESTION = "How warm is it in Oslo?"


class City(pydantic.BaseModel):
    """A city and its temperature."""

    city: str
    celsius: int


@tool
def get_weather(city: str) -> str:
    """Get the weather."""
    return f"4 C and rain in {city}"


for name, responses in {"chat": False, "responses": True}.items():
    model = ChatOpenAI(model="gpt-oss", use_responses_api=responses)
    with_tools = model.bind_tools([get_weather])
    messages = [HumanMessage(QUESTION), with_tools.invoke([HumanMessage(QUESTION)])]
    (call,) = messages[-1].tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"}), call
    messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    assert "4 C" in with_tools.invoke(messages).text
    print(f"{name}: tool loop")

    pieces = [chunk.text for chunk in model.stream(QUESTION)]
    assert "4 C" in "".join(pieces), pieces
    assert len(pieces) > 5
    print(f"{name}: stream")

    for method in ("json_schema", "function_calling"):
        typed = model.with_structured_output(City, method=method).invoke(QUESTION)
        assert typed == City(city="Oslo", celsius=4), typed
        print(f"{name}: typed result by {method}")
