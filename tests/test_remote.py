"""Chats with a model on a server equal chats with the same model in this process."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gptoss_mlx as gptoss
from gptoss_mlx.errors import GptOssError, InvalidRequest, OutputError
from gptoss_mlx.events import Done, Event
from gptoss_mlx.remote import RemoteModel, connect
from tests.server.scripted import ScriptedGptOss, answer, call, endless, say, think, turn
from tests.server.serving import listening


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedGptOss, RemoteModel]]:
    model = ScriptedGptOss(pause=0.001)
    with listening(model) as url, connect(url) as remote:
        yield model, remote


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[gptoss.GptOss, str]]:
    with gptoss.load("demo") as model, listening(model) as url:
        yield model, url


def deltas(events: list[Event]) -> list[tuple[str, Any]]:
    return [(event.type, getattr(event, "delta", None)) for event in events if event.type != "progress"]


def test_a_chat_on_a_server_is_the_chat_here(demo: tuple[gptoss.GptOss, str]) -> None:
    model, url = demo
    options: Any = {"instructions": "Be terse.", "effort": "low", "date": "2026-11-26", "temperature": 0}
    here = model.chat(**options)
    with connect(url) as remote:
        there = remote.chat(**options)
        for question in ("What is 12+30?", "Who are you?", "And 7-3?"):
            with here.stream(question) as stream:
                expected = list(stream)
            with there.stream(question) as stream:
                events = list(stream)
            assert deltas(events) == deltas(expected)
            assert there.messages == here.messages
            assert isinstance(events[-1], Done)
            assert events[-1].reply.usage.completion_tokens == stream.reply.usage.completion_tokens
            assert events[-1].reply.usage == there_usage(expected)
        assert there.retry(effort="high").text == here.retry(effort="high").text
        assert there.edit(0, "What is 2+3?").text == here.edit(0, "What is 2+3?").text
        twin = there.fork()
        assert (twin.undo(), twin.messages) == ("What is 2+3?", ())
        assert there.context_used > 0
        assert (there.context_limit, remote.name) == (model.context_limit, "demo")


def there_usage(events: list[Event]) -> Any:
    """The usage of a chat here; the chat there finds the same prompt computed by it."""
    assert isinstance(events[-1], Done)
    usage = events[-1].reply.usage
    return type(usage)(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.prompt_tokens - 1,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def test_a_chat_is_saved_and_goes_on_with_either_model(demo: tuple[gptoss.GptOss, str], tmp_path: Path) -> None:
    model, url = demo
    with connect(url) as remote:
        chat = remote.chat(temperature=0)
        chat.send("Who are you?")
        chat.save(tmp_path / "chat.json")
        here = model.load_chat(tmp_path / "chat.json", temperature=0)
        there = type(chat).load(remote, tmp_path / "chat.json", temperature=0)  # type: ignore[arg-type]
        assert here.send("What is 2+3?").text == there.send("What is 2+3?").text


def test_a_schema_is_enforced_there(demo: tuple[gptoss.GptOss, str]) -> None:
    with connect(demo[1]) as remote:
        reply = remote.chat().send("Are you sure?", schema={"type": "boolean"}, temperature=0)
    assert reply.parsed in (True, False)


def test_preambles_are_told_from_answers(scripted: tuple[ScriptedGptOss, RemoteModel]) -> None:
    model, remote = scripted
    model.queue(turn(think("Hm."), say("First."), answer("Then.")))
    with remote.chat().stream("Hi") as stream:
        kinds = {event.type for event in stream}
    assert kinds == {"thinking", "preamble", "text", "done"}
    assert (stream.reply.thinking, stream.reply.text) == ("Hm.", "Then.")


def test_a_cancelled_answer_stays_as_far_as_it_came(scripted: tuple[ScriptedGptOss, RemoteModel]) -> None:
    model, remote = scripted
    model.queue(endless(), turn(answer("Yes.")))
    chat = remote.chat()
    with chat.stream("Go") as stream:
        next(stream)
        threading.Timer(0.05, stream.cancel).start()
        reply = stream.finish()
    assert reply.finish_reason == "cancelled"
    assert chat.messages[-1].text == reply.text != ""
    deadline = time.monotonic() + 3
    while model.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.running == 0
    assert chat.send("And?").text == "Yes."


def test_what_needs_the_model_here_says_so(scripted: tuple[ScriptedGptOss, RemoteModel]) -> None:
    model, remote = scripted
    model.queue(turn(answer("Yes.")))
    chat = remote.chat(max_tokens=9)
    chat.send("Hi")
    for refused in (chat.trace, chat.prefill):
        with pytest.raises(InvalidRequest, match="needs a model that is loaded on this machine"):
            refused()
    assert len(chat.messages) == 2


@pytest.mark.parametrize(
    "option", [{"choices": ["yes", "no"]}, {"regex": "[0-9]+"}, {"max_thinking_tokens": 3}, {"logprobs": True}]
)
def test_an_option_that_the_server_cannot_take_is_refused(
    option: dict[str, Any], scripted: tuple[ScriptedGptOss, RemoteModel]
) -> None:
    chat = scripted[1].chat()
    with pytest.raises(InvalidRequest, match="needs a model that is loaded on this machine"):
        chat.send("Hi", **option)
    assert not chat.messages


def test_all_sampling_options_are_sent(scripted: tuple[ScriptedGptOss, RemoteModel]) -> None:
    model, remote = scripted
    model.queue(turn(answer("Yes.")))
    remote.chat().send("Hi", repetition_penalty=1.5, logit_bias={5: -3.0})
    assert model.samplings[-1].repetition_penalty == 1.5
    assert model.samplings[-1].logit_bias == {5: -3.0}


def test_a_form_that_is_cut_short_is_an_error_as_here(demo: tuple[gptoss.GptOss, str]) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 50}
    with connect(demo[1]) as remote, pytest.raises(OutputError, match="raise max_tokens"):
        remote.chat().send("Count.", schema=schema, max_tokens=30)


@pytest.mark.parametrize("status", [b"200 OK", b"500 Oops"])
def test_a_server_that_breaks_off_is_named(status: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def break_off() -> None:
            connection, _ = listener.accept()
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 " + status + b"\r\ncontent-length: 100\r\n\r\n{")
            time.sleep(0.2)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets it
            connection.close()

        thread = threading.Thread(target=break_off)
        thread.start()
        with pytest.raises(GptOssError, match=url):
            connect(url)
        thread.join()


def test_tools_run_here(demo: tuple[gptoss.GptOss, str]) -> None:
    def get_weather(city: str) -> str:
        """Get the weather."""
        return "rain"

    model, url = demo
    options: Any = {"tools": [get_weather], "effort": "medium", "temperature": 0}
    here = model.chat(**options)
    with connect(url) as remote:
        there = remote.chat(**options)
        for question in ("What is the weather in Oslo?", "Who are you?", "What is the weather in Rome?"):
            expected, reply = here.send(question), there.send(question)
            assert (reply.text, reply.thinking, reply.tool_calls) == (
                expected.text,
                expected.thinking,
                expected.tool_calls,
            )
            assert reply.usage.completion_tokens == expected.usage.completion_tokens
    assert [message.text for message in there.messages] == [message.text for message in here.messages]


def test_calls_that_are_left_to_the_caller_go_on(scripted: tuple[ScriptedGptOss, RemoteModel]) -> None:
    model, remote = scripted
    model.queue(turn(think("Look."), call("lamp")), turn(answer("It is on.")), turn(answer("Still.")))
    lamp = {"name": "lamp", "parameters": {"type": "object"}}
    chat = remote.chat(tools=[lamp])
    assert chat.send("Is it on?").finish_reason == "tool_calls"
    assert [pending.name for pending in chat.pending_calls] == ["functions.lamp"]
    assert chat.send_results("on").text == "It is on."
    assert "Look." in model.shown[1]
    assert chat.send("And now?").text == "Still."
    assert "functions.lamp to=assistant<|channel|>commentary<|message|>on<|end|>" in model.shown[2]


def test_a_call_that_runs_here_is_cancelled(scripted: tuple[ScriptedGptOss, RemoteModel]) -> None:
    model, remote = scripted
    model.queue(turn(call("wait")))

    async def wait() -> str:
        await asyncio.sleep(60)
        return "done"

    with remote.chat(tools=[wait]).stream("Go") as stream:
        threading.Timer(0.3, stream.cancel).start()
        assert stream.finish().finish_reason == "cancelled"


def test_errors_are_the_servers(scripted: tuple[ScriptedGptOss, RemoteModel]) -> None:
    model, remote = scripted
    with pytest.raises(InvalidRequest, match="context"):
        remote.chat().send("word " * 140_000)
    model.queue(*[turn(call("f"))] * 100)
    assert remote.chat().send("Hi").text == ""
    with listening(ScriptedGptOss(), api_key="right") as url:
        with pytest.raises(InvalidRequest, match="GPTOSS_API_KEY"):
            connect(url, api_key="wrong")
        assert connect(url, api_key="right").name == "scripted"


@pytest.mark.parametrize("url", ["mac-studio", "ftp://a", "http://", "http://a:99999", "http://[", ""])
def test_a_url_is_one_or_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="one such as http"):
        connect(url)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(GptOssError, match="does gptoss serve run there"):
        connect("http://127.0.0.1:9")


class _Strange(http.server.BaseHTTPRequestHandler):
    """Answers every request with the same text."""

    content = b""
    models = json.dumps({"data": [{"id": "a"}]}).encode()

    def do_GET(self) -> None:
        self._send(self.models)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.content)

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"data: [DONE]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"type": "response.output_text.delta", "delta": "x"}\n\n',
        b'data: {"type": "response.output_item.added", "item": 3}\n\n',
        b'data: {"type": "response.failed", "response": {"error": 3}}\n\n',
        b'data: {"type": "response.completed", "response": null}\n\n',
        b'data: {"type": 3, "item": {}}\n\n' * 1000,
    ],
)
def test_a_server_that_answers_anything_at_all_ends_in_one_error_or_an_answer(content: bytes) -> None:
    handler = type("Handler", (_Strange,), {"content": content})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chat = connect(f"http://127.0.0.1:{server.server_port}").chat()
        with contextlib.suppress(GptOssError):
            assert chat.send("Hi").text in ("", "x")
        server.shutdown()


def test_no_mlx_is_loaded_for_a_model_on_a_server(demo: tuple[gptoss.GptOss, str]) -> None:
    program = (
        "import sys; from gptoss_mlx.remote import connect; "
        f"print(connect({demo[1]!r}).chat(effort='low').send('Who are you?').text); "
        "assert not [name for name in sys.modules if name.startswith('mlx')]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
