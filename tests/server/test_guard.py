"""Who may ask: keys, hosts, origins, sizes, and how many at a time."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from gptoss_mlx.server.guard import MAX_BODY
from tests.server.apis import APIS, CHAT, MESSAGES, Api
from tests.server.hostile import connected, http
from tests.server.scripted import ScriptedGptOss, answer, endless, turn
from tests.server.serving import in_process, listening
from tests.server.test_hostile import eventually

ASKED: Any = {"messages": [{"role": "user", "content": "Hi"}]}


def model() -> ScriptedGptOss:
    return ScriptedGptOss(respond=lambda prompt: turn(answer("Yes.")))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"x-api-key": "righ"}, 401),
        ({"Authorization": "Bearer ä"}, 401),
        ({"Authorization": "Bearer right"}, 200),
        ({"x-api-key": "right"}, 200),
    ],
)
def test_a_request_without_the_key_is_refused(headers: dict[str, str], status: int) -> None:
    sent = {name.encode(): value.encode() for name, value in headers.items()}
    with in_process(model(), api_key="right") as client:
        assert client.post(CHAT.path, json=ASKED, headers=sent).status_code == status
        assert client.get("/v1/models", headers=sent).status_code == status
        assert client.get("/health").status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def refuse(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return False

    monkeypatch.setattr("hmac.compare_digest", refuse)
    with in_process(model(), api_key="right") as client:
        assert client.get("/v1/models", headers={"x-api-key": "right"}).status_code == 401
    assert compared == [(b"right", b"right")]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "", "["]
)
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    with in_process(model()) as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code == 403
    with in_process(model(), hosts=None, api_key="k") as client:
        answered = client.get("/v1/models", headers={"Host": host, "x-api-key": "k"})
        assert answered.status_code == 200


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "127.0.0.7:1", "[::1]:8080", "mac.local:8080"])
def test_the_names_of_this_machine_are_answered(host: str) -> None:
    with in_process(model(), hosts=("mac.local",)) as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_a_page_of_the_web_may_ask_only_if_it_is_named() -> None:
    page = {"Origin": "http://localhost:3000"}
    with in_process(model()) as client:
        assert client.post(CHAT.path, json=ASKED, headers=page).status_code == 403
        own = {"Origin": "http://127.0.0.1:8080"}
        assert client.post(CHAT.path, json=ASKED, headers=own).status_code == 200
    with in_process(model(), origins=["http://localhost:3000"], api_key="k") as client:
        asked = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = client.options(CHAT.path, headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://localhost:3000"
        answered = client.post(CHAT.path, json=ASKED, headers=page | {"x-api-key": "k"})
        assert answered.headers["access-control-allow-origin"] == "http://localhost:3000"
        other = client.options(CHAT.path, headers=asked | {"Origin": "http://evil.example"})
        assert other.status_code == 403


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_body_that_is_too_large_is_refused(api: Api, chunked: bool) -> None:
    with in_process(model()) as client:
        body = b"[" * (MAX_BODY + 1)
        content: Any = (body[at : at + 2**20] for at in range(0, len(body), 2**20)) if chunked else body
        refused = client.post(api.path, content=content)
    assert refused.status_code == 413
    assert "MiB" in api.error(refused.json())


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@pytest.mark.parametrize(
    "body", [b"", b"[1]", b'{"a": NaN}', b"{" + b'"a":{' * 500, b"[" * 5000, b'"\\ud800"', b"\xff"]
)
def test_a_body_that_is_not_json_is_refused_in_the_words_of_the_api(api: Api, body: bytes) -> None:
    with in_process(model()) as client:
        refused = client.post(api.path, content=body)
    assert refused.status_code == 400
    assert "body" in api.error(refused.json())


def test_many_messages_and_tools_are_refused() -> None:
    with in_process(model()) as client:
        messages = [{"role": "user", "content": ""}] * 20_001
        assert "messages" in CHAT.error(client.post(CHAT.path, json={"messages": messages}).json())
        tools = [{"name": f"f{n}", "input_schema": {"type": "object"}} for n in range(1025)]
        asked = MESSAGES.body(MESSAGES.user("Hi"), (), None) | {"tools": tools}
        assert "tools" in MESSAGES.error(client.post(MESSAGES.path, json=asked).json())


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_full_queue_answers_when_to_come_back(api: Api) -> None:
    endless_model = ScriptedGptOss(respond=lambda prompt: endless(), pause=0.002)
    body = json.dumps(api.body(api.user("Go"), (), None) | {"stream": True}).encode()
    with listening(endless_model, max_waiting=2) as url, connected(url) as first, connected(url) as second:
        first.sendall(http(api.path, body))
        second.sendall(http(api.path, body))
        assert eventually(lambda: endless_model.running >= 1)
        second.recv(10)
        with connected(url) as third:
            third.sendall(http(api.path, body))
            refused = third.recv(4000)
        assert refused.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 5" in refused.lower()
        first.close()

        def answered() -> bool:
            with connected(url) as again:
                again.sendall(http(api.path, body))
                return again.recv(15).startswith(b"HTTP/1.1 200")

        assert eventually(answered)


def test_no_request_can_choose_a_model() -> None:
    served = model()
    with in_process(served) as client:
        for name in ("120b", "/etc", "https://example.com/a/b"):
            assert client.post(CHAT.path, json={**ASKED, "model": name}).json()["model"] == "scripted"
        assert client.get("/v1/models/120b").status_code == 404
    assert threading.active_count() < 50
