"""A user's script that uses everything: it runs, and it passes mypy and pyright in strict mode."""

# pyright: strict

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Literal, TypedDict

import pydantic

import gptoss_mlx as gptoss
from gptoss_mlx import errors

BRIEF = gptoss.SamplingParams(
    temperature=0.7, top_p=0.95, top_k=40, min_p=0.01, seed=1, max_tokens=40, stop=("\n\n",)
)


class Sum(pydantic.BaseModel):
    left: int = pydantic.Field(ge=0, le=99)
    right: int = pydantic.Field(ge=0, le=99)


class City(TypedDict):
    name: Literal["Oslo", "Rome"]


def weather(city: Literal["Oslo", "Rome"], days: int = 1) -> dict[str, int]:
    """The weather.

    Args:
        city: where.
        days: from today.
    """
    return {"degrees": 4 * days if city == "Oslo" else 20}


async def clock() -> str:
    """The time."""
    await asyncio.sleep(0)
    return "12:00"


def described(event: gptoss.Event) -> str:
    """Every kind of event."""
    match event:
        case gptoss.Progress(done=done, total=total):
            return f"{done}/{total}"
        case gptoss.Thinking(delta=delta) | gptoss.Preamble(delta=delta) | gptoss.Text(delta=delta):
            return delta
        case gptoss.ToolCall(name=name, arguments=arguments):
            return f"{name}({arguments})"
        case gptoss.ToolResult(name=name, output=output, error=error):
            return f"{name}: {output} {error}"
        case gptoss.Done(reply=reply):
            return reply.finish_reason


def ask(model: gptoss.GptOss) -> None:
    """One question, in every form."""
    reply: gptoss.Reply = model.ask("Who are you?", effort="low", instructions="Be terse.", sampling=BRIEF)
    usage: gptoss.Usage = reply.usage
    timings: gptoss.Timings = reply.timings
    print(reply.text, reply.thinking, reply.tool_calls, reply.messages, reply.finish_reason, reply.repairs)
    print(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens)
    print(timings.first_token, timings.prefill, timings.decode, reply.to_dict())
    options: gptoss.AnswerOptions = {"logprobs": True, "max_thinking_tokens": 20}
    with model.stream("Who are you?", sampling=BRIEF, **options) as stream:
        for event in stream:
            print(event.type, described(event), event.to_dict())
        logprobs: tuple[gptoss.TokenLogprob, ...] = stream.reply.logprobs or ()
        print(sum(entry.logprob for entry in logprobs))
    with model.stream("Who are you?", sampling=BRIEF) as stream:
        for delta in stream.text:
            print(delta, end="")
        stream.cancel()
    tokens: list[int] = model.tokenizer.encode("Once")
    generation: gptoss.Generation = model.generate(tokens, BRIEF)
    print(model.tokenizer.decode(list(generation)), model.config.num_hidden_layers)


def ask_for_a_form(model: gptoss.GptOss) -> None:
    """Structured answers."""
    answer = model.ask("What is 1+2?", schema=Sum, max_thinking_tokens=0).parsed
    assert isinstance(answer, Sum)
    assert model.ask("Where?", schema=City, max_thinking_tokens=0).parsed["name"] in ("Oslo", "Rome")
    assert model.ask("Where?", schema={"type": "boolean"}, max_thinking_tokens=0).parsed in (True, False)
    assert len(model.ask("A word", regex="[a-z]{3}", max_thinking_tokens=0).parsed) == 3
    assert model.ask("Yes or no?", choices=["yes", "no"], max_thinking_tokens=0).parsed in ("yes", "no")
    try:
        model.ask("A word", regex="[a-z]{300}", sampling=BRIEF, max_thinking_tokens=0)
    except gptoss.OutputError as error:
        print(error.text)
    try:
        model.ask("Sure?", schema={"not": {}})
    except errors.SchemaError as error:
        print(error)


def ask_as_people_type(model: gptoss.GptOss) -> None:
    """Sampling by name, typed replies and messages as other clients have them."""
    reply = model.ask("What is 1+2?", schema=Sum, max_thinking_tokens=0, temperature=0, seed=1, stop_loops=True)
    total: int = reply.parsed.left + reply.parsed.right
    restored = gptoss.Reply.from_dict(reply.to_dict())
    print(total, restored.text)
    messages = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Who are you?"}]
    print(model.ask(messages=messages, max_tokens=20, stop="\n").text)
    chat = model.chat(messages=messages, temperature=0.5)
    typed: gptoss.Reply[Sum] = chat.send(schema=Sum, max_thinking_tokens=0, logit_bias={17: -5})
    print(typed.parsed.left, chat.to_openai())
    with model.stream("What is 1+2?", schema=Sum, max_thinking_tokens=0) as stream:
        print(stream.finish().parsed.left, stream.reply.parsed.right)
    place: str = chat.retry(schema=City, max_thinking_tokens=0).parsed["name"]
    with chat.stream_edit(0, "Which?", schema=tuple[Literal["Oslo"]], max_thinking_tokens=0) as places:
        print(place, places.finish().parsed[0].upper())
    unsure = model.ask("Or none?", schema=Literal["yes", "no"], max_thinking_tokens=0).parsed
    print({"yes": 1, "no": 0}[unsure])
    entries = model.ask("Yes?", choices=["yes"], max_thinking_tokens=0, top_logprobs=2).logprobs or ()
    print([(entry.channel, [other.text for other in entry.top_logprobs]) for entry in entries])
    message: gptoss.Message = gptoss.Message.user("hi")
    try:
        model.chat(messages=[message]).send(top_p=0)
    except gptoss.InvalidRequest as error:
        print(error)


def talk(model: gptoss.GptOss, path: Path) -> None:
    """A conversation with tools."""

    def veto(call: gptoss.ToolCall) -> gptoss.ToolCall | str | None:
        return None if call.name.endswith("clock") else dataclasses.replace(call, arguments='{"city": "Oslo"}')

    def soften(call: gptoss.ToolCall, result: gptoss.ToolResult) -> gptoss.ToolResult | str | None:
        return f"{call.name} says {result.output}"

    lamp = gptoss.Tool(name="lamp", description="Whether it is on.")
    chat: gptoss.Chat = model.chat(
        instructions="Be terse.",
        effort="medium",
        tools=[weather, clock, lamp, {"name": "door", "parameters": {"type": "object", "properties": {}}}],
        sampling=BRIEF,
        date="2026-01-02",
        before_call=veto,
        after_call=soften,
        max_steps=2,
    )
    chat.send("How warm is Rome?", tool_choice="weather", max_thinking_tokens=0)
    assert "functions.weather says" in chat.messages[2].text
    reply = chat.send("Is the lamp on?", tool_choice="lamp", max_thinking_tokens=0)
    assert reply.finish_reason == "tool_calls"
    chat.send_results(*["yes" for _ in chat.pending_calls], tool_choice="none")
    twin = chat.fork()
    twin.retry(effort="low", tool_choice="none")
    twin.edit(0, "How warm is Oslo?", tool_choice="none")
    chat.effort = "high"
    print(chat.undo(), chat.context_used, chat.context_limit, [entry.tokens for entry in chat.trace()])
    chat.save(path)
    again = model.load_chat(path, tools=[weather], keep_readable=True)
    assert [message.text for message in again.messages] == [message.text for message in chat.messages]


async def wait(model: gptoss.GptOss, path: Path) -> None:
    """The same verbs for asyncio."""
    shared = gptoss.AsyncGptOss(model)
    first, second = await asyncio.gather(
        shared.ask("Yes or no?", choices=["yes"], max_thinking_tokens=0), shared.ask("Hello", sampling=BRIEF)
    )
    print(first.parsed, second.text)
    async with shared.stream("Who are you?", sampling=BRIEF) as stream:
        async for event in stream:
            print(described(event))
    async with shared.stream("Who are you?", sampling=BRIEF) as stream:
        async for delta in stream.text:
            print(delta, end="")
    chat: gptoss.AsyncChat = shared.chat(tools=[clock], sampling=BRIEF, max_steps=2)
    await chat.send("What time is it?", tool_choice="clock", max_thinking_tokens=0)
    await chat.retry()
    await chat.edit(0, "And now?")
    await (await chat.fork()).save(path)
    loaded = await shared.load_chat(path, tools=[clock])
    print(loaded.chat.messages)
    events: gptoss.AsyncStream = loaded.stream("Hello", effort="low")
    print((await events.finish()).text)
    typed: gptoss.Reply[Sum] = await shared.ask("What is 1+2?", schema=Sum, max_thinking_tokens=0)
    async with loaded.stream("What is 1+2?", schema=Sum, max_thinking_tokens=0) as sums:
        print(typed.parsed.left, (await sums.finish()).parsed.right)
    again = await loaded.retry(schema=City, max_thinking_tokens=0)
    print(again.parsed["name"])
    async for token in shared.generate([1, 2, 3], BRIEF):
        print(token)


def main(directory: Path) -> None:
    """All of it, on the embedded model."""
    with gptoss.load("demo", dtype="float32", download=False) as model:
        ask(model)
        ask_for_a_form(model)
        ask_as_people_type(model)
        talk(model, directory / "chat.json")
        thread = threading.Thread(target=lambda: model.ask("Hello", sampling=BRIEF))
        thread.start()
        asyncio.run(wait(model, directory / "other.json"))
        thread.join()
    try:
        model.ask("Hello")
    except errors.ModelClosed as error:
        print(error)


if __name__ == "__main__":
    main(Path.cwd())
