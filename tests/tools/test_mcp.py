"""Servers of MCP: their tools, and whatever they do to a client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.errors import InvalidRequest, ToolError
from gptoss_mlx.events import ToolCall, ToolResult
from gptoss_mlx.tools.mcp import MCPServers, transport
from gptoss_mlx.tools.mcp import connection as connecting
from gptoss_mlx.tools.mcp.results import result_text
from gptoss_mlx.tools.toolbox import ToolBox, ToolOutcome
from tests.chat.scripted import ScriptedModel

SERVER = str(Path(__file__).with_name("mcp_server.py"))
ANSWER = "<|channel|>final<|message|>Done.<|return|>"


def entry(mode: str = "plain", **more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-S", "-E", SERVER, mode], **more}


def servers(*modes: str, **options: Any) -> MCPServers:
    """Servers that are named by their modes."""
    return MCPServers({"mcpServers": {mode: entry(mode) for mode in modes or ("plain",)}}, **options)


def call(box: ToolBox, name: str, **arguments: Any) -> ToolOutcome:
    return box.call(f"functions.{name}", json.dumps(arguments))


def called(name: str, **arguments: Any) -> str:
    """A model's turn that calls a tool."""
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"


@pytest.fixture(scope="module")
def plain() -> Iterator[MCPServers]:
    with servers("plain") as started:
        yield started


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_GRACE_SECONDS", 0.2)


def test_tools_of_several_servers_live_side_by_side_and_come_back_under_their_own_names() -> None:
    content = {"mcpServers": {"one": entry(), "two.x": entry()}}
    with MCPServers(content) as started:
        box = ToolBox(started.tools)
        assert {"functions.one_echo", "functions.two_x_echo", "functions.one_dotted_name"} <= box.names
        tool = box.declared("functions.two_x_dotted_name")
        assert tool is not None
        assert tool.declared_name == "two_x.dotted.name"
        assert call(box, "one_echo", text="a").output == "a"
        assert call(box, "two_x_echo", text="b").output == "b"
        assert call(box, "one_pid").output != call(box, "two_x_pid").output


def test_the_model_calls_a_tool_and_answers_with_its_result(plain: MCPServers) -> None:
    model = ScriptedModel(called("plain_echo", text="4 C"), ANSWER)
    reply = model.chat(tools=plain.tools).send("How warm is it?")
    assert reply.text == "Done."
    assert "// Says it.\ntype plain_echo = (_: {\ntext: string,\n}) => any;" in model.shown[0]
    assert "functions.plain_echo to=assistant<|channel|>commentary<|message|>4 C<|end|>" in model.shown[1]


def test_tools_serve_asyncio_too() -> None:
    async def main() -> str:
        async with servers() as started:
            (echo,) = [tool for tool in started.tools if tool.declared_name == "plain.echo"]
            assert echo.function is not None
            return str(await echo.function(text="hi"))

    assert asyncio.run(main()) == "hi"


def test_failures_are_results_for_the_model(plain: MCPServers) -> None:
    box = ToolBox(plain.tools)
    outcomes = {name: call(box, f"plain_{name}") for name in ("fail", "refuse", "nonsense", "echo")}
    assert all(outcome.error for outcome in outcomes.values())
    assert outcomes["fail"].output == "Error: functions.plain_fail: it is broken"
    assert outcomes["refuse"].output == "Error: functions.plain_refuse: not with these arguments"
    assert "required property" in outcomes["echo"].output
    assert call(box, "plain_echo", text="on").output == "on"


def test_a_schema_of_the_server_does_not_judge_its_result(plain: MCPServers) -> None:
    assert call(ToolBox(plain.tools), "plain_dotted_name").output.strip() == '{"other": 1}'


def test_a_call_without_a_result_ends_in_time_and_the_server_is_told() -> None:
    with servers(call_seconds=0.2) as started:
        box = ToolBox(started.tools)
        outcome = call(box, "plain_wait", number=60)
        assert outcome.output == "Error: functions.plain_wait: no result in 0.2 s; the server was told to stop"
        assert call(box, "plain_cancelled").output == "1"


def test_progress_passes_through() -> None:
    lines: list[tuple[str, str]] = []
    with servers(on_progress=lambda tool, line: lines.append((tool, line))) as started:
        call(ToolBox(started.tools), "plain_progress", number=2)
    assert lines == [("functions.plain_progress", "1 of 2 step 1"), ("functions.plain_progress", "2 of 2 step 2")]


@pytest.mark.parametrize("in_loop", [False, True])
def test_cancelling_an_answer_cancels_the_call(plain: MCPServers, in_loop: bool) -> None:
    before = int(call(ToolBox(plain.tools), "plain_cancelled").output)
    model = ScriptedModel(called("plain_wait", number=60))
    chat = model.chat(tools=plain.tools)

    def read() -> list[Any]:
        with chat.stream("Wait") as stream:
            threading.Timer(0.2, stream.cancel).start()
            return list(stream)

    async def reading() -> list[Any]:
        return read()

    began = time.monotonic()
    events = asyncio.run(reading()) if in_loop else read()
    assert time.monotonic() - began < 30
    assert events[-1].reply.finish_reason == "cancelled"
    assert [event.output for event in events if isinstance(event, ToolResult)] == [
        "Error: functions.plain_wait: the call was cancelled"
    ]
    assert not chat.pending_calls
    until = time.monotonic() + 10
    while int(call(ToolBox(plain.tools), "plain_cancelled").output) == before and time.monotonic() < until:
        time.sleep(0.01)
    assert int(call(ToolBox(plain.tools), "plain_cancelled").output) == before + 1


def test_a_server_that_dies_is_said_and_started_again_once() -> None:
    notices: list[str] = []
    with servers("crashes", on_notice=notices.append) as started:
        tools = started.tools
        model = ScriptedModel(*[called("crashes_echo", text="x")] * 3, ANSWER)
        with model.chat(tools=tools).stream("Go") as stream:
            outputs = [event.output for event in stream if isinstance(event, ToolResult)]
        assert stream.reply.text == "Done."
        assert [output.partition("crashes_echo: ")[2] for output in outputs] == [
            "the server crashes ended during the call; it may have done a part of it",
            "the server crashes ended during the call; it may have done a part of it",
            "the server crashes failed: it ended",
        ]
        assert notices == [
            "crashes: the server ended; it is started again",
            "crashes: the server failed: it ended",
        ]
        started.turn_on("crashes")
        assert len(started.tools) > 3


def test_a_server_that_answers_again_may_die_again() -> None:
    with servers() as started:
        box = ToolBox(started.tools)
        for _ in range(3):
            assert "ended during the call" in call(box, "plain_die").output
            assert call(box, "plain_echo", text="back").output == "back"


def census() -> tuple[int, int, int]:
    """This process's children, open files, and threads for servers."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, check=False)
    names = [thread.name for thread in threading.enumerate()]
    threads = sum("waitpid" in name or name.startswith("gptoss-mcp") for name in names)
    return len(children.stdout.split()), len(os.listdir("/proc/self/fd")), threads


def settled_census(expected: tuple[int, int, int]) -> tuple[int, int, int]:
    until = time.monotonic() + 5
    while (found := census()) != expected and time.monotonic() < until:
        time.sleep(0.02)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_kills_and_cancellations_leave_no_process_thread_or_file() -> None:
    with servers() as started:  # what the event loops of this process keep
        started.wait()
    before = census()
    with servers() as started:
        box = ToolBox(started.tools)
        running = census()
        for _ in range(5):
            os.kill(int(call(box, "plain_pid").output), 9)
            call(box, "plain_echo", text="x")
            assert call(box, "plain_echo", text="y").output == "y"
        model = ScriptedModel(*[called("plain_wait", number=60)] * 5)
        for _ in range(5):
            with model.chat(tools=started.tools).stream("Wait") as stream:
                threading.Timer(0.02, stream.cancel).start()
                stream.finish()
        assert settled_census(running)[1:] == running[1:]
    assert settled_census(before) == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("mode", ["stubborn", "leaves"])
def test_a_server_that_will_not_end_is_killed_with_what_it_started(mode: str) -> None:
    with servers(mode) as started:
        leader = int(call(ToolBox(started.tools), f"{mode}_pid").output)
        assert settles(lambda: len(group(leader)) == 2)
    assert settles(lambda: not group(leader))  # a killed process ends a moment later


def settles(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether a condition comes true."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def group(leader: int) -> list[int]:
    """The living processes of a group."""
    found = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()]
    return [int(pid) for pid, leads, state in rows if int(leads) == leader and not state.startswith("Z")]


def test_a_server_that_says_nothing_fails_and_the_others_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("mcp.client.session.DISCOVER_TIMEOUT_SECONDS", 0.3)
    with servers("silent", "plain") as started:
        assert call(ToolBox(started.tools), "plain_echo", text="x").output == "x"
        silent = started.servers[0]
    assert silent.state == "failed"
    assert silent.reason


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("endless", "a message is longer than 1,048,576 bytes"),
        ("deep", "nested too deeply"),
        ("odd", "inputSchema.type Input should be 'object'"),
    ],
)
def test_a_message_that_cannot_be_read_closes_the_connection(
    mode: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_MESSAGE", 2**20)
    with servers(mode) as started:
        started.wait()
        assert started.servers[0].state == "failed"
        assert reason in started.servers[0].reason


def test_a_message_that_is_too_large_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_MESSAGE", 2**20)
    with servers() as started:
        box = ToolBox(started.tools)
        assert len(call(box, "plain_large", number=900_000).output) == 900_000
        assert "ended during the call" in call(box, "plain_large", number=1_100_000).output
        assert call(box, "plain_echo", text="x").output == "x"


def test_text_between_messages_and_standard_error_go_to_a_log_of_bounded_length() -> None:
    with servers("noisy") as started:
        assert call(ToolBox(started.tools), "noisy_echo", text="x").output == "x"
        until = time.monotonic() + 5
        while "eee" not in started.log("noisy") and time.monotonic() < until:
            time.sleep(0.01)
        assert 1000 < len(started.log("noisy")) <= 64 * 1024


def test_hostile_declarations_are_bounded_and_forge_nothing() -> None:
    with servers("hostile") as started:
        tools = started.tools
        box = ToolBox(tools)
        model = ScriptedModel(called("hostile_forge"), ANSWER)
        chat = model.chat(tools=tools)
        chat.send("Go")
        assert started.servers[0].read_only == {"hostile.forge"}
    assert 5 < len(tools) <= 256
    assert len(box.names) == len(tools)
    assert all(len(tool.name) <= 64 and len(tool.description) <= 4097 for tool in tools)
    assert all(len(tool.declared_name) <= 240 for tool in tools)
    assert all(len(json.dumps(tool.parameters)) < 33_000 for tool in tools)
    assert len(model.shown[0]) < 300_000
    honest = ScriptedModel(called("f"), ANSWER)
    honest.chat(tools=[{"name": "f", "parameters": {"type": "object"}, "function": lambda: "x"}]).send("Go")
    special = set(model.tokenizer.special.values())
    for honest_prompt, prompt in zip(honest.prompts, model.prompts, strict=True):
        assert [token for token in prompt if token in special] == [t for t in honest_prompt if t in special]


def test_servers_are_turned_off_and_on_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"one": entry(), "rests": entry(disabled=True)}}))
    with MCPServers.from_file(path) as started:
        assert {tool.declared_name.partition(".")[0] for tool in started.tools} == {"one"}
        started.turn_on("rests")
        started.turn_off("one")
        assert {tool.declared_name.partition(".")[0] for tool in started.tools} == {"rests"}
        assert [server.state for server in started.servers] == ["off", "ready"]
        path.write_text(json.dumps({"mcpServers": {"new": entry()}}))
        started.reload()
        assert {tool.declared_name.partition(".")[0] for tool in started.tools} == {"new"}
        path.write_text("{")
        with pytest.raises(InvalidRequest, match=r"mcp\.json"):
            started.reload()
        assert started.tools
        with pytest.raises(InvalidRequest, match="there is no server 'one'; there are new"):
            started.turn_on("one")
    with pytest.raises(InvalidRequest, match="do not run"):
        _ = started.tools


def test_a_server_gets_few_variables_and_those_of_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_ANOTHER", "s")
    monkeypatch.setenv("TOKEN_HERE", "t")
    content = {"mcpServers": {"p": entry(env={"GIVEN": "${env:TOKEN_HERE}"})}}
    with MCPServers(content) as started:
        box = ToolBox(started.tools)
        values = {name: call(box, "p_env", text=name).output for name in ("PATH", "SECRET_OF_ANOTHER", "GIVEN")}
    assert values == {"PATH": os.environ["PATH"], "SECRET_OF_ANOTHER": "unset", "GIVEN": "t"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "command or url"),
        ({"command": "a", "url": "http://b"}, "either command or url"),
        ({"command": 7}, "command is 7"),
        ({"command": "a\0b"}, "text is needed"),
        ({"command": "no-such-program"}, "no-such-program: there is no such program"),
        ({"command": "sh", "cwd": "/no/such/place"}, "no such program or directory"),
        ({"command": "a", "args": "b"}, "args is 'b'"),
        ({"command": "a", "env": {"B": 7}}, "env is not an object of texts"),
        ({"command": "a", "env": {"B": "${NOT_SET}"}}, "no such environment variable"),
        ({"url": "ftp://a"}, "one such as http"),
        ({"url": "http://a", "type": "sse"}, "streamable HTTP"),
        ("sh", "an object with command or url is needed"),
        ({"command": "sh", "args": ["-c", "exit 3"]}, ""),
    ],
)
def test_a_wrong_entry_is_one_failed_server(fields: Any, reason: str) -> None:
    with MCPServers({"mcpServers": {"wrong": fields}}) as started:
        assert started.tools == ()
        (server,) = started.servers
    assert server.state == "failed"
    assert reason in server.reason
    assert "\n" not in server.reason


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"mcpServers": []}', '{"mcpServers": {}, "mcpServers": {}}', "[" * 100_000, "\xff"],
)
def test_a_file_that_is_none_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidRequest, match=r"mcp\.json: ") as refused:
        MCPServers.from_file(path)
    assert "\n" not in str(refused.value)


def test_a_file_of_too_many_servers_or_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {str(number): entry() for number in range(65)}}))
    with pytest.raises(InvalidRequest, match="at most 64"):
        MCPServers.from_file(path)
    path.write_text(json.dumps({"mcpServers": {"a": entry(env={"A": "a" * 2**20})}}))
    with pytest.raises(InvalidRequest, match="larger than"):
        MCPServers.from_file(path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidRequest, match="regular file"):
        MCPServers.from_file(tmp_path / "fifo")


def test_without_the_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"pip install 'gptoss-mlx\[mcp\]'"):
        servers()


def test_a_veto_reaches_no_server(plain: MCPServers) -> None:
    model = ScriptedModel(called("plain_die"), ANSWER)

    def refuse(call: ToolCall) -> str:
        return "not now"

    reply = model.chat(tools=plain.tools, before_call=refuse).send("Go")
    assert reply.text == "Done."
    assert "not now" in model.shown[1]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\n\nb"),
        ([{"type": "image", "data": "AAAA", "mimeType": "image/png"}], "[image: image/png, 3 bytes, not shown]"),
        ([{"type": "audio", "data": "AAA=", "mimeType": "audio/wav"}], "[sound: audio/wav, 2 bytes, not shown]"),
        (
            [{"type": "resource_link", "uri": "file:///a", "name": "a", "description": "of b"}],
            "[resource file:///a: a, of b]",
        ),
        ([{"type": "resource", "resource": {"uri": "x:a", "text": "t"}}], "[resource x:a]\nt"),
        (
            [{"type": "resource", "resource": {"uri": "x:a", "blob": "AAAA", "mimeType": "a/b"}}],
            "[resource x:a: a/b, 3 bytes, not shown]",
        ),
    ],
)
def test_every_kind_of_content_is_text_for_the_model(content: Any, text: str) -> None:
    from mcp.types import CallToolResult

    assert result_text(CallToolResult.model_validate({"content": content})) == text


@pytest.mark.parametrize(
    ("content", "structured", "text"),
    [
        (['{"a": 1}'], {"a": 1}, '{"a": 1}'),
        (["4 C"], {"result": "4 C"}, "4 C"),
        (["1", "2"], {"result": [1, 2]}, "1\n\n2"),
        (["It is warm."], {"celsius": 4}, 'It is warm.\n\n{"celsius": 4}'),
        ([], {"a": "é"}, '{"a": "é"}'),
    ],
)
def test_structured_content_is_added_where_the_text_does_not_repeat_it(
    content: list[str], structured: dict[str, Any], text: str
) -> None:
    from mcp.types import CallToolResult

    blocks = [{"type": "text", "text": part} for part in content]
    result = CallToolResult.model_validate({"content": blocks, "structuredContent": structured})
    assert result_text(result) == text
