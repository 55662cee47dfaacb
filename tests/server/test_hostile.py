"""No request makes the server fail, keep what is over, or take what was not offered."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from gptoss_mlx.server import create_app, question, run, service
from tests.server.apis import APIS, CHAT, MESSAGES, Api
from tests.server.hostile import RAW, changed_request, connected, http, leave_early, malformed_body
from tests.server.scripted import ScriptedGptOss, answer, endless, think, turn
from tests.server.serving import in_process, listening


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something comes to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def workers() -> int:
    """The threads beside those that asyncio keeps for later work."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Fails a test in which anything was logged as an error."""
    caplog.set_level(logging.ERROR)
    return caplog


def test_a_changed_body_is_answered_or_refused_with_its_place(quiet: pytest.LogCaptureFixture) -> None:
    rng = random.Random(0)
    refused = 0
    with in_process(
        ScriptedGptOss(respond=lambda prompt: turn(think("Hm."), answer('{"city": "Oslo"}')))
    ) as client:
        for _ in range(200):
            request = changed_request(rng)
            reply = client.post(
                request.api.path, content=request.body, headers={"content-type": "application/json"}
            )
            assert reply.status_code in (200, 400, 404, 413), (reply.text[:500], request.body[:3000])
            if reply.status_code != 200:
                assert request.api.error(reply.json())
                refused += 1
    assert refused > 50
    assert quiet.records == []


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_body_that_is_no_object_is_refused(api: Api, quiet: pytest.LogCaptureFixture) -> None:
    rng = random.Random(1)
    with in_process(ScriptedGptOss(respond=lambda prompt: turn(answer("Yes.")))) as client:
        for _ in range(60):
            body = malformed_body(rng)
            reply = client.post(api.path, content=body, headers={"content-type": "application/json"})
            assert reply.status_code in (200, 400, 413), (reply.text[:500], body[:200])
            if reply.status_code != 200:
                assert api.error(reply.json())
    assert quiet.records == []


def test_broken_http_leaves_the_server_alive(quiet: pytest.LogCaptureFixture) -> None:
    with listening(ScriptedGptOss(respond=lambda prompt: turn(answer("Yes.")))) as url:
        for name, sent in RAW.items():
            with connected(url, seconds=0.3) as connection:
                try:
                    connection.sendall(sent)
                    status = connection.recv(100)
                except (TimeoutError, ConnectionError, BrokenPipeError):
                    status = b""  # it waits for more, or has closed the connection
            assert not status.startswith(b"HTTP/1.1 5"), (name, status)
        with connected(url) as connection:
            connection.sendall(http("/v1/models", method="GET"))
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert quiet.records == []


@pytest.mark.parametrize("name", ["a foreign host", "two hosts", "a foreign origin"])
def test_another_site_is_refused(name: str) -> None:
    with listening(ScriptedGptOss()) as url, connected(url) as connection:
        connection.sendall(RAW[name])
        assert connection.recv(100).startswith(b"HTTP/1.1 4")


def test_nothing_stays_of_clients_that_go_away(quiet: pytest.LogCaptureFixture) -> None:
    model = ScriptedGptOss(respond=lambda prompt: endless(), pause=0.001)
    rng = random.Random(2)
    with listening(model) as url:
        requests = [
            http(api.path, json.dumps(api.body(api.user("Go"), (), None) | {"stream": stream}).encode())
            for api in APIS
            for stream in (True, False)
        ]
        leave_early(url, rng, requests[0])
        assert eventually(lambda: model.running == 0)
        threads, files = workers(), len(os.listdir("/dev/fd"))
        for _ in range(40):
            leave_early(url, rng, rng.choice(requests))
        assert eventually(lambda: model.running == 0), "a generation goes on"
        gc.collect()
        assert eventually(lambda: len(os.listdir("/dev/fd")) <= files), "connections stay open"
        assert eventually(lambda: workers() <= threads), "threads stay"
    assert quiet.records == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_client_that_goes_away_stops_its_generation(api: Api, stream: bool) -> None:
    model = ScriptedGptOss(endless(), pause=0.002)
    with listening(model) as url:
        with connected(url) as connection:
            body = json.dumps(api.body(api.user("Go"), (), None) | {"stream": stream}).encode()
            connection.sendall(http(api.path, body))
            assert eventually(lambda: model.running == 1)
        assert eventually(lambda: model.running == 0, 3)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"input": "hi", "metadata": {"a": [1, 1e400]}}', "metadata.a[1] is a number that is too large"),
        (b'{"input": "hi", "metadata": {"a": ' + b"9" * 400 + b".5}}", "metadata.a is a number that is too large"),
        (b'{"input": [' + b"{}," * 300_000 + b"{}]}", "more than 262,144 lists and objects"),
    ],
)
def test_a_body_that_fills_the_memory_or_that_no_json_can_repeat_is_refused(body: bytes, says: str) -> None:
    with in_process(ScriptedGptOss()) as client:
        refused = client.post("/v1/responses", content=body)
    assert refused.status_code == 400
    assert says in refused.json()["error"]["message"]


def test_what_a_kept_response_repeats_of_its_request_counts(quiet: pytest.LogCaptureFixture) -> None:
    app = create_app(ScriptedGptOss(respond=lambda prompt: turn(answer("Yes."))))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for _ in range(3):
            done = client.post("/v1/responses", json={"input": "hi", "metadata": {"a": "x" * 2**20}})
            assert done.status_code == 200
    assert app.state.service.responses._used > 3 * 2**20


def test_a_refusal_that_is_about_no_field_names_none() -> None:
    with in_process(ScriptedGptOss()) as client:
        refused = client.post("/v1/responses", json={"input": "hi", "previous_response_id": "resp_1"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, None)


def test_what_is_ignored_is_noted_in_short() -> None:
    question.ignore_once("a" * 100_000)
    assert max(map(len, question._ignored)) < 200


def test_text_with_the_ends_of_lines_is_one_line_of_a_stream() -> None:
    with in_process(ScriptedGptOss(turn(answer("one\u2028two\x85three")))) as client:
        sent = client.post("/v1/responses", json={"input": "hi", "stream": True})
    assert not set("\u2028\u2029\x85") & set(sent.text)
    assert "one\\u2028two\\u0085three" in sent.text


@pytest.mark.parametrize("name", ["a line without end", "many headers"])
def test_headers_that_are_too_long_are_refused_before_they_have_come(name: str) -> None:
    with listening(ScriptedGptOss()) as url, connected(url) as connection:
        connection.sendall(RAW[name].removesuffix(b"\r\n"))
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
        with contextlib.suppress(ConnectionError):  # it is closed, and some of what was sent is never read
            while connection.recv(1000):
                pass


@pytest.mark.parametrize("sent", [b"", b"POST /v1/resp", http("/health", method="GET") + b"GET /he"])
def test_a_request_that_does_not_come_closes_its_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_REQUEST_SECONDS", 0.1)
    with listening(ScriptedGptOss()) as url, connected(url) as connection:
        connection.sendall(sent)
        while connection.recv(1000):
            pass


def test_a_body_that_does_not_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_BODY_SECONDS", 0.1)
    with listening(ScriptedGptOss()) as url, connected(url) as connection:
        connection.sendall(http("/v1/responses", b"{", content_length="100"))
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_server_that_ends_refuses_the_body_that_it_reads(quiet: pytest.LogCaptureFixture) -> None:
    with listening(ScriptedGptOss()) as url:
        connection = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10)
        connection.sendall(http("/v1/responses", b"{", content_length="100"))
        time.sleep(0.2)
    with connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 503")
    assert quiet.records == []


def test_a_slow_client_does_not_keep_others_waiting() -> None:
    with listening(ScriptedGptOss(respond=lambda prompt: turn(answer("Yes.")))) as url:
        slow = http(CHAT.path, b"{}", content_length="1000")
        with connected(url) as first, connected(url) as second, connected(url) as third:
            first.sendall(slow[:10])
            second.sendall(slow)
            body = json.dumps(MESSAGES.body(MESSAGES.user("Go"), (), None)).encode()
            third.sendall(http(MESSAGES.path, body))
            assert third.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_nothing_loses_its_place_and_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_mlx.server.replies._STALLED_SECONDS", 0.3)
    monkeypatch.setattr(run, "_REQUEST_SECONDS", 0.3)
    model, lost = ScriptedGptOss(endless(" and so on" * 200)), threading.Event()
    with listening(model) as url, connected(url) as connection:
        end = run._Connection.connection_lost

        def ended(self: run._Connection, error: Exception | None) -> None:
            end(self, error)
            lost.set()

        monkeypatch.setattr(run._Connection, "connection_lost", ended)
        body = json.dumps(CHAT.body(CHAT.user("Go"), (), None) | {"stream": True}).encode()
        connection.sendall(http(CHAT.path, body))
        assert eventually(lambda: model.running == 1)
        assert eventually(lambda: model.running == 0, 30)
        assert lost.wait(30)
