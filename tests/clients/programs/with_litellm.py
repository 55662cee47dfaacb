"""litellm: chat with a tool loop and a stream, and Responses."""

import json

import litellm

QUESTION = [{"role": "user", "content": "How warm is it in Oslo?"}]
MODEL = "openai/gpt-oss"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "Get the weather.", "parameters": PARAMETERS}

message = litellm.completion(MODEL, QUESTION).choices[0].message
assert "4 C" in message.content, message
assert message.reasoning_content, message
print("chat: answer with thinking")

tools = [{"type": "function", "function": TOOL}]
message = litellm.completion(MODEL, QUESTION, tools=tools).choices[0].message
(call,) = message.tool_calls
assert json.loads(call.function.arguments) == {"city": "Oslo"}, call
result = {"role": "tool", "tool_call_id": call.id, "content": "4 C, rain"}
message = litellm.completion(MODEL, [*QUESTION, message, result], tools=tools).choices[0].message
assert "4 C" in message.content, message
print("chat: tool loop")

pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(MODEL, QUESTION, stream=True)]
assert "4 C" in "".join(pieces), pieces
print("chat: stream")

response = litellm.responses(input="How warm is it in Oslo?", model=MODEL)
assert "4 C" in response.output[-1].content[0].text, response
print("responses: answer")

kinds = [event.type for event in litellm.responses(input="How warm is it?", model=MODEL, stream=True)]
assert kinds[-1] == "response.completed", kinds
print("responses: stream")
