"""instructor: a typed result in each of its modes, and a partial one while it streams."""

import instructor
import openai
import pydantic

QUESTION = [{"role": "user", "content": "How warm is it in Oslo?"}]


class City(pydantic.BaseModel):
    """A city and its temperature."""

    city: str
    celsius: int


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.RESPONSES_TOOLS):
    client = instructor.from_openai(openai.OpenAI(), mode=mode)
    city = client.create(model="gpt-oss", messages=QUESTION, response_model=City)
    assert (city.city, city.celsius) == ("Oslo", 4), city
    print(f"{mode.name}: typed result")

client = instructor.from_openai(openai.OpenAI(), mode=instructor.Mode.TOOLS)
*_, last = client.create_partial(model="gpt-oss", messages=QUESTION, response_model=City)
assert (last.city, last.celsius) == ("Oslo", 4), last
print("TOOLS: partial results")
