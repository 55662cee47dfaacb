"""The public names, and what an answer can be asked for, on the embedded model."""

from __future__ import annotations

import asyncio
import dataclasses
import doctest
import inspect
import json
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import pydantic
import pytest

import gptoss_mlx as gptoss
from gptoss_mlx.api import GptOss
from gptoss_mlx.chat.stream import Stream
from gptoss_mlx.cli.chat.run import _show_json
from gptoss_mlx.cli.screen.terminal import Terminal
from gptoss_mlx.errors import InvalidRequest, OutputError
from gptoss_mlx.events import Done, Event, Text, TokenLogprob, ToolCall, ToolResult
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.structured.guide import Guide, GuidePlan
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO, ROOT, user_script
from tests.chat.scripted import ScriptedModel
from tests.server.serving import listening

PUBLIC = """
AnswerOptions AsyncChat AsyncGptOss AsyncStream BatchReply CacheFileError Chat ChatFileError CheckpointError
ConfigError
ContextFull ConversionError Done DownloadError Effort Event FileWriteError Generation GptOss GptOssError
HarmonyError InvalidRequest MachineLost Message ModelClosed ModelConfig ModelNotFound NotEnoughDisk NotEnoughMemory
OutputError ParseError Preamble ProcessForked Progress RenderError Reply SamplingParams SchemaError Stream Text
Thinking Timings TokenLogprob Tokenizer TokenizerError Tool ToolCall ToolError ToolResult Usage __version__ load
load_async
""".split()  # noqa: SIM905

SAMPLING = "sampling temperature top_p top_k min_p repetition_penalty seed max_tokens stop stop_loops logit_bias"
OF_CHAT = "instructions effort date tools before_call after_call max_steps"
OF_ANSWER = "schema regex choices max_thinking_tokens tool_choice logprobs top_logprobs logits_processor"
SETTINGS = f"{OF_CHAT} {SAMPLING}"
ANSWER = f"{OF_ANSWER} {SAMPLING}"
REQUEST = f"{OF_CHAT} {OF_ANSWER} {SAMPLING}"
SIGNATURES = {
    "load": "reference dtype download kv_bits context max_cache_bytes split adapter parallel",
    "load_async": "reference dtype download kv_bits context max_cache_bytes split adapter parallel",
    "GptOss.ask": f"self prompt messages {REQUEST}",
    "GptOss.stream": f"self prompt messages {REQUEST}",
    "GptOss.batch": f"self questions {REQUEST}",
    "GptOss.chat": f"self messages {SETTINGS}",
    "GptOss.load_chat": f"self path keep_readable {SETTINGS}",
    "GptOss.generate": "self tokens sampling boundaries guide logprobs top_logprobs logits_processor",
    "GptOss.prefill": "self tokens boundaries",
    "GptOss.prefill_when_idle": "self tokens boundaries",
    "GptOss.cached_length": "self tokens",
    "GptOss.clear_caches": "self",
    "GptOss.save_cache": "self path tokens",
    "GptOss.load_cache": "self path",
    "GptOss.close": "self",
    "Chat": f"model messages title {SETTINGS}",
    "Chat.send": f"self text effort {ANSWER}",
    "Chat.stream": f"self text effort {ANSWER}",
    "Chat.send_results": f"self results {ANSWER}",
    "Chat.stream_results": f"self results {ANSWER}",
    "Chat.retry": f"self effort {ANSWER}",
    "Chat.stream_retry": f"self effort {ANSWER}",
    "Chat.edit": f"self index text {ANSWER}",
    "Chat.stream_edit": f"self index text {ANSWER}",
    "Chat.prefill": "self",
    "Chat.continue_stream": "self",
    "Chat.undo": "self",
    "Chat.fork": f"self {SETTINGS}",
    "Chat.save": "self path",
    "Chat.save_cache": "self path",
    "Chat.load_cache": "self path",
    "Chat.tokens_to_prefill": "self effort",
    "Chat.trace": "self",
    "Stream.finish": "self",
    "Stream.cancel": "self",
    "AsyncGptOss.ask": f"self prompt messages {REQUEST}",
    "AsyncGptOss.stream": f"self prompt messages {REQUEST}",
    "AsyncGptOss.batch": f"self questions {REQUEST}",
    "AsyncGptOss.chat": f"self messages {SETTINGS}",
    "AsyncGptOss.load_chat": f"self path keep_readable {SETTINGS}",
    "AsyncGptOss.generate": "self tokens sampling boundaries guide logprobs top_logprobs logits_processor",
    "AsyncGptOss.close": "self",
    "AsyncChat": "chat",
    "AsyncChat.send": f"self text effort {ANSWER}",
    "AsyncChat.stream": f"self text effort {ANSWER}",
    "AsyncChat.send_results": f"self results {ANSWER}",
    "AsyncChat.stream_results": f"self results {ANSWER}",
    "AsyncChat.retry": f"self effort {ANSWER}",
    "AsyncChat.stream_retry": f"self effort {ANSWER}",
    "AsyncChat.edit": f"self index text {ANSWER}",
    "AsyncChat.stream_edit": f"self index text {ANSWER}",
    "AsyncChat.continue_stream": "self",
    "AsyncChat.fork": f"self {SETTINGS}",
    "AsyncChat.save": "self path",
    "AsyncStream.finish": "self",
    "AsyncStream.aclose": "self",
    "Tool": "name description parameters function check declared_name namespace builtin",
    "SamplingParams": SAMPLING.removeprefix("sampling "),
}
OPTIONS = set(OF_ANSWER.split())
DOCTESTED = """
aio api chat.batch chat.chat chat.options chat.stream chat.transcript config engine.engine engine.generation
errors events
harmony.messages model.transformer sampling structured.constraint structured.effort structured.validator
tokenizer tools.tool tools.toolbox
""".split()  # noqa: SIM905


def test_the_public_names_are_these() -> None:
    assert sorted(gptoss.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(gptoss, name) is not None
    assert set(gptoss.AnswerOptions.__annotations__) == OPTIONS


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signatures_are_these(name: str) -> None:
    found: Any = gptoss
    for part in name.split("."):
        found = getattr(found, part)
    assert " ".join(inspect.signature(found).parameters) == SIGNATURES[name]


DOCUMENTED = [
    name for name in PUBLIC if inspect.isclass(getattr(gptoss, name)) or inspect.isfunction(getattr(gptoss, name))
]


def public_members(value: Any) -> dict[str, Any]:
    """The methods and properties of a class, those that it inherits from the library included."""
    classes = [part for part in getattr(value, "__mro__", ()) if part.__module__.startswith("gptoss_mlx")]
    found = {key: member for part in reversed(classes) for key, member in vars(part).items() if key[0] != "_"}
    found = {key: getattr(member, "__func__", member) for key, member in found.items()}
    return {key: part for key, part in found.items() if inspect.isroutine(part) or isinstance(part, property)}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_everything_public_is_documented(name: str) -> None:
    value = getattr(gptoss, name)
    for member in (value, *public_members(value).values()):
        assert inspect.getdoc(member), member


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_stands_in_an_example(name: str) -> None:
    value = getattr(gptoss, name)
    members = public_members(value)
    documented = [inspect.getdoc(member) or "" for member in (value, *members.values())]
    parser = doctest.DocTestParser()
    sources = "".join(example.source for text in documented for example in parser.get_examples(text))
    assert sources
    absent = [key for key, member in members.items() if f".{key}" not in sources]
    assert absent == []


@pytest.mark.parametrize("name", DOCTESTED)
def test_the_examples_run(name: str, demo: GptOss, tmp_path: Path) -> None:
    given = {"gptoss": gptoss, "model": demo, "directory": tmp_path}
    result = doctest.testmod(import_module(f"gptoss_mlx.{name}"), extraglobs=given)
    assert result.attempted
    assert not result.failed


def test_the_readme_runs(
    demo: GptOss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 14
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with listening(demo) as url:
        for block in blocks:
            # The real model is not here. The bound is for a demonstration model that does not come to an end.
            here = block.replace('"20b"', '"demo"').replace('load("demo")', 'load("demo", context=1024)')
            here = here.replace('load("demo", ', 'load("demo", dtype="float32", ')
            here = here.replace("http://127.0.0.1:8080", url)
            here = here.replace("openai/gpt-oss-20b", str(DEMO)).replace("--iters 200", "--iters 1")
            exec(compile(here, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "tokens to compute at high effort\n" in shown
    assert "of 3 right" in shown


def test_the_script_that_uses_everything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user_script.main(tmp_path)
    assert "the model was closed" in capsys.readouterr().out
    assert (tmp_path / "chat.json").exists()


def test_jsonl_is_what_the_library_gives(capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> Stream:
        call = "<|channel|>commentary to=functions.lamp <|constrain|>json<|message|>{}<|call|>"
        first = "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant" + call
        then = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>On.<|return|>"
        lamp = {"name": "lamp", "function": lambda: "on", "parameters": {"type": "object"}}
        return ScriptedModel(first, then).chat(tools=[lamp]).stream("Is it on?")

    _show_json(told(), Terminal(sys.stdout), each=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [event.to_dict() for event in told()]
    for done in (lines[-1], events[-1]):
        del done["reply"]["timings"]
    assert lines == events
    assert {line["type"] for line in lines} == {"thinking", "preamble", "tool_call", "tool_result", "text", "done"}


class Sum(pydantic.BaseModel):
    left: int = pydantic.Field(ge=0, le=99)
    right: int = pydantic.Field(ge=0, le=99)
    sure: bool


BRIEF = SamplingParams(seed=3, max_tokens=200)


def sampling(seed: int) -> SamplingParams:
    return SamplingParams(seed=seed, max_tokens=200)


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_of_a_schema_is_its_object(demo: GptOss, seed: int) -> None:
    reply = demo.ask("What is 12+30?", schema=Sum, sampling=sampling(seed), max_thinking_tokens=8)
    assert isinstance(reply.parsed, Sum)
    assert Sum.model_validate_json(reply.text) == reply.parsed
    assert not reply.repairs
    assert reply.usage.reasoning_tokens <= 8
    json.dumps(reply.to_dict())


def test_only_the_final_answer_has_the_form(demo: GptOss) -> None:
    reply = demo.ask("What is 12+30?", regex="[0-9]{1,4}", sampling=BRIEF, max_thinking_tokens=20)
    assert re.fullmatch("[0-9]{1,4}", reply.parsed)
    assert reply.thinking
    assert [message.channel for message in reply.messages][-1] == "final"


def test_the_model_is_told_the_schema() -> None:
    model = ScriptedModel('<|channel|>final<|message|>{"left": 1, "right": 2, "sure": true}<|return|>')
    model.config = type("Config", (), {"vocab_size": model.tokenizer.size, "max_position_embeddings": 4096})()
    chat = model.chat(instructions="Be terse.")
    assert chat.send("hi", schema=Sum).parsed == Sum(left=1, right=2, sure=True)
    assert "# Instructions\n\nBe terse.\n\n# Response Formats\n\n## Sum\n\n" in model.shown[0]


def test_an_answer_that_was_cut_short_raises_with_its_text(demo: GptOss) -> None:
    with pytest.raises(OutputError, match="raise max_tokens") as caught:
        demo.ask("Hi", regex="[a-z]{500}", max_thinking_tokens=0, sampling=SamplingParams(seed=1, max_tokens=12))
    assert re.fullmatch("[a-z]+", caught.value.text)


def test_the_thinking_budget_closes_the_analysis(demo: GptOss) -> None:
    for budget in (0, 1, 5):
        reply = demo.ask("What is 12+30?", max_thinking_tokens=budget, sampling=BRIEF)
        assert reply.usage.reasoning_tokens <= budget
        assert reply.text
        assert not reply.repairs


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """The weather."""
    return f"4 degrees in {city}"


async def later(city: Literal["Oslo", "Rome"]) -> str:
    """The weather."""
    await asyncio.sleep(0)
    return f"5 degrees in {city}"


@pytest.mark.parametrize("choice", ["required", "weather", "later"])
def test_a_call_that_has_to_be_is_made_with_valid_arguments(demo: GptOss, choice: str) -> None:
    chat = demo.chat(tools=[weather, later], sampling=BRIEF, max_steps=1)
    reply = chat.send("How warm is it?", tool_choice=choice, max_thinking_tokens=5)
    (call,) = reply.tool_calls
    assert choice in ("required", call.name.removeprefix("functions."))
    assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")
    assert "degrees in" in reply.messages[-1].text


def test_no_call_is_made_where_none_may_be(demo: GptOss) -> None:
    chat = demo.chat(tools=[weather], sampling=BRIEF)
    reply = chat.send("What is the weather in Oslo?", tool_choice="none", max_thinking_tokens=10)
    assert not reply.tool_calls
    assert reply.text


def test_hooks_see_and_change_what_is_called() -> None:
    call = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
    model = ScriptedModel(call, "<|channel|>final<|message|>Cold.<|return|>")
    chat = model.chat(
        tools=[weather],
        before_call=lambda call: dataclasses.replace(call, arguments='{"city": "Oslo"}'),
        after_call=lambda call, result: f"{result.output}!",
    )
    with chat.stream("How warm is Rome?") as stream:
        (result,) = [event for event in stream if isinstance(event, ToolResult)]
    assert result.output == "4 degrees in Oslo!"


def test_the_loop_ends_after_max_steps() -> None:
    call = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
    reply = ScriptedModel(call, call, call).chat(tools=[weather], max_steps=2).send("How warm is Rome?")
    assert (len(reply.tool_calls), reply.finish_reason) == (2, "tool_calls")


@pytest.mark.parametrize("guided", [False, True])
def test_logprobs_are_those_of_the_logits(demo: GptOss, guided: bool) -> None:
    chat = demo.chat(sampling=SamplingParams(temperature=1.0, seed=5, max_tokens=12))
    options: Any = {"max_thinking_tokens": 1000} if guided else {}
    prompts: list[list[int]] = []
    original = demo.generate

    def noted(prompt: list[int], *rest: Any, **named: Any) -> Any:
        prompts.append(prompt)
        return original(prompt, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "generate", noted)
        reply = chat.send("What is 12+30?", logprobs=True, **options)
    assert reply.logprobs is not None
    tokens = [entry.token for entry in reply.logprobs]
    assert len(tokens) == reply.usage.completion_tokens
    logits = demo.transformer(mx.array([[*prompts[0], *tokens]]))[0, len(prompts[0]) - 1 : -1]
    expected = mx.take_along_axis(
        logits - mx.logsumexp(logits, axis=-1, keepdims=True), mx.array(tokens)[:, None], axis=-1
    )
    values: Any = expected[:, 0].tolist()
    for entry, value in zip(reply.logprobs, values, strict=True):
        assert isinstance(entry, TokenLogprob)
        assert entry.logprob == pytest.approx(value, abs=2e-3)


def follow(guide: Guide, choose: str) -> list[int]:
    """The tokens up to where a guide leaves a choice, after the header that begins with ``choose``."""
    tokens: list[int] = []
    while isinstance(allowed := guide.allowed(), int) and len(tokens) < 40:
        guide.advance(allowed)
        tokens.append(allowed)
    return tokens


def test_a_spent_budget_leaves_one_way() -> None:
    tokenizer = Tokenizer.from_directory(DEMO)
    guide = Guide(GuidePlan(max_thinking_tokens=0), tokenizer, tokenizer.size)
    assert tokenizer.decode(follow(guide, "")) == "<|channel|>final<|message|>"
    allowed = guide.allowed()
    assert not isinstance(allowed, int)
    special = {name for name, token in tokenizer.special.items() if allowed[token]}
    assert special == {"<|return|>"}


def test_forced_tokens_are_all_the_model_gets_to_say() -> None:
    tokenizer = Tokenizer.from_directory(DEMO)
    constraint = Constraint.from_choices(["yes"])
    guide = Guide(GuidePlan(constraint=constraint, max_thinking_tokens=0), tokenizer, tokenizer.size + 62)
    follow(guide, "")
    for _ in range(8):
        allowed = guide.allowed()
        assert not isinstance(allowed, int)
        token = int(allowed.nonzero()[0][-1])
        if token == tokenizer.special["<|return|>"]:
            break
        guide.advance(token)
    else:
        pytest.fail("no end")


def test_asyncio_streams_and_runs_async_tools_in_its_own_loop(demo: GptOss) -> None:
    loops = []

    async def where() -> str:
        """Where."""
        loops.append(asyncio.get_running_loop())
        return "here"

    async def main() -> list[Event]:
        model = gptoss.AsyncGptOss(demo)
        chat = model.chat(tools=[where], sampling=BRIEF, max_steps=1)
        async with chat.stream("Where?", tool_choice="where", max_thinking_tokens=2) as stream:
            events = [event async for event in stream]
        assert loops == [asyncio.get_running_loop()]
        assert stream.reply.tool_calls == (ToolCall(name="functions.where", arguments=events_call(events)),)
        return events

    events = asyncio.run(main())
    assert isinstance(events[-1], Done)


def test_a_chat_outlives_the_loop_that_it_was_used_in() -> None:
    """Async tools run in the loop of the turn, and without one in a loop of their own."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def where() -> str:
        """Where."""
        loops.append(asyncio.get_running_loop())
        return "here"

    call = "<|channel|>commentary to=functions.where <|constrain|>json<|message|>{}<|call|>"
    scripts = (call, "<|channel|>final<|message|>There.<|return|>")
    chat = ScriptedModel(*scripts * 3).chat(tools=[where])

    async def main() -> asyncio.AbstractEventLoop:
        await gptoss.AsyncChat(chat).send("Where?")
        return asyncio.get_running_loop()

    first = asyncio.run(main())
    assert chat.send("Where?").text == "There."
    last = asyncio.run(main())
    assert [loop for loop in loops if loop in (first, last)] == [first, last]
    assert len(loops) == 3
    assert [message.text for message in chat.messages if message.role == "tool"] == ["here"] * 3


def test_a_stream_that_has_ended_says_the_same_again(demo: GptOss) -> None:
    form: dict[str, Any] = {"choices": ["yes"], "max_thinking_tokens": 0}

    async def main() -> None:
        stream = gptoss.AsyncGptOss(demo).stream("Yes?", **form)
        assert "".join([delta async for delta in stream.text]) == "yes"
        for _ in range(2):
            assert (await stream.finish()).text == stream.reply.text == "yes"
            assert [event async for event in stream] == []

    stream = demo.stream("Yes?", **form)
    assert "".join(stream.text) == "yes"
    assert stream.finish().text == "yes"
    assert list(stream) == []
    asyncio.run(main())


def test_a_stream_that_was_closed_ends_as_cancelled(demo: GptOss) -> None:
    async def main() -> None:
        stream = gptoss.AsyncGptOss(demo).stream("Hi", regex="[a-z]{100000}", max_thinking_tokens=0)
        async with stream:
            await anext(stream)
        assert (await stream.finish()).finish_reason == "cancelled"
        assert [event async for event in stream] == []
        unread = gptoss.AsyncGptOss(demo).stream("Hi")
        await unread.aclose()
        with pytest.raises(InvalidRequest, match="closed before it began"):
            await unread.finish()

    with demo.stream("Hi", regex="[a-z]{100000}", max_thinking_tokens=0) as stream:
        next(stream)
    assert stream.finish().finish_reason == "cancelled"
    asyncio.run(main())


def test_a_closed_stream_has_its_reply_once_its_tool_is_over() -> None:
    """Closing waits for no tool; who asks for the reply does."""
    begun, gate = threading.Event(), threading.Event()

    def slow() -> str:
        """Slow."""
        begun.set()
        assert gate.wait(60)
        return "done"

    call = "<|channel|>commentary to=functions.slow <|constrain|>json<|message|>{}<|call|>"
    chat = gptoss.AsyncChat(ScriptedModel(call).chat(tools=[slow]))

    async def main() -> None:
        stream = chat.stream("Go.")
        reading = asyncio.create_task(stream.finish())
        await asyncio.to_thread(begun.wait, 60)
        await stream.aclose()
        asking = asyncio.create_task(stream.finish())
        await asyncio.sleep(0)
        assert not asking.done()
        gate.set()
        assert (await asking).finish_reason == (await reading).finish_reason == "cancelled"

    asyncio.run(main())
    assert chat.chat.messages[-1].text == "done"


def test_a_stream_of_which_nothing_was_read_has_no_reply(demo: GptOss) -> None:
    for stream in (demo.stream("Hi"), gptoss.AsyncGptOss(demo).stream("Hi")):
        with pytest.raises(InvalidRequest, match=r"finish\(\)"):
            _ = stream.reply


def events_call(events: list[Event]) -> str:
    (call,) = [event for event in events if isinstance(event, ToolCall)]
    return call.arguments


def test_a_cancelled_task_gives_control_back_and_the_model_answers_the_next(demo: GptOss) -> None:
    async def main() -> None:
        model = gptoss.AsyncGptOss(demo)
        for _ in range(3):
            begun = asyncio.Event()

            async def ask(begun: asyncio.Event = begun) -> None:
                async with model.stream("Hi", regex="[a-z ]{100000}", max_thinking_tokens=0) as stream:
                    async for event in stream:
                        if isinstance(event, Text):
                            begun.set()

            task = asyncio.create_task(ask())
            await begun.wait()
            task.cancel()
            # Control is back long before the answer would have come to its end.
            with pytest.raises(asyncio.CancelledError):
                await task
            reply = await model.ask("Hi", choices=["a", "b"], max_thinking_tokens=0)
            assert reply.parsed in ("a", "b")

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name.startswith("gptoss-stream"):
            thread.join(60)
            assert not thread.is_alive()


def test_a_cancelled_prefill_computes_no_more(demo: GptOss) -> None:
    model, tokens = gptoss.AsyncGptOss(demo), demo.tokenizer.encode("The same sentence again. " * 20)
    chat = model.chat(instructions="Answer from this page. " * 20)

    async def cancelled(prefill: Awaitable[int]) -> None:
        begun, blocked = threading.Event(), threading.Event()

        def wait() -> bool:
            begun.set()
            return blocked.wait(60)

        before = demo._runner._worker.submit(wait)
        assert begun.wait(60)
        task = asyncio.ensure_future(prefill)
        while not demo._runner._worker._thread._requests:  # the one before it has begun
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        blocked.set()
        assert before.result(60)

    async def main() -> int:
        await cancelled(model.prefill(tokens))
        await cancelled(chat.prefill())
        assert demo._runner.call(lambda: demo._runner.store.entries) == ()
        return await model.prefill(tokens)

    demo.clear_caches()
    assert asyncio.run(main()) == len(tokens)


def test_several_tasks_are_answered_in_order() -> None:
    """One at a time: those that run together may end in another order than they began."""

    async def main() -> list[str]:
        model = await gptoss.load_async("demo", parallel=1)
        order: list[str] = []

        def noting(name: str) -> Callable[[mx.array, mx.array], mx.array]:
            def process(tokens: mx.array, logits: mx.array) -> mx.array:
                order.append(name)
                return logits

            return process

        streams = [model.stream("Hi", max_tokens=1, logits_processor=noting(name)) for name in "abcd"]
        for stream in streams:
            await stream.begin()
        await asyncio.gather(*(stream.finish() for stream in streams))
        await model.close()
        return order

    assert asyncio.run(main()) == list("abcd")
