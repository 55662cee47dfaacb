"""``gptoss run --batch``: every request of a file has one answer, however often the command is interrupted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.api import GptOss
from gptoss_mlx.errors import FileWriteError, InvalidRequest
from gptoss_mlx.files.write import appended
from gptoss_mlx.server import batch, create_app
from gptoss_mlx.server.batch import BatchRequest, answered_ids, answers, read_requests

CHAT = "/v1/chat/completions"


def line(custom_id: str = "a", url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "What is 2+3?"}], "max_tokens": 12, "temperature": 0}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked | body}


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answered(model: GptOss, requests: list[BatchRequest]) -> dict[str, dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        return [answer async for answer in answers(create_app(model), requests, model.parallel)]

    return {answer["custom_id"]: answer["response"] for answer in asyncio.run(read())}


def test_each_request_is_answered_once_by_the_endpoint_that_it_names(demo: GptOss, tmp_path: Path) -> None:
    chats = [line(f"chat {n}") for n in range(7)]
    others = [
        {**line("response", "/v1/responses"), "body": {"input": "hi", "max_output_tokens": 9}},
        line("streamed", stream=True),
        line("wrong", temperature="hot"),
        line("elsewhere", "/v1/embeddings"),
    ]
    found = answered(demo, read_requests(written(tmp_path / "in.jsonl", *chats, *others)))
    assert len(found) == 11
    statuses = {name: response["status_code"] for name, response in found.items()}
    assert statuses.pop("wrong") == 400
    assert statuses.pop("elsewhere") == 404
    assert set(statuses.values()) == {200}
    assert {found[f"chat {n}"]["body"]["object"] for n in range(7)} == {"chat.completion"}
    assert found["response"]["body"]["object"] == "response"
    assert found["streamed"]["body"]["object"] == "chat.completion"
    assert "temperature" in found["wrong"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no requests"),
        ("{", "line 1"),
        ('{"custom_id": 3}', "line 1: custom_id is 3"),
        (json.dumps(line()) + "\n\n" + json.dumps({**line("b"), "method": "GET"}), "line 3: method"),
        (json.dumps(line()) + "\n" + json.dumps(line()), "line 2: custom_id is 'a', as of a line before"),
        (json.dumps(line("\ud800")), "line 1"),
        ('{"custom_id": "a", "url": "/", "body": ' + "[" * 9000 + "]" * 9000 + "}", "line 1"),
    ],
)
def test_a_line_that_is_no_request_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=message):
        read_requests(path)


def test_a_file_that_is_too_large_or_no_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(201 * 2**20)
    for path in (tmp_path / "large", tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidRequest, match=path.name):
            read_requests(path)


def test_what_was_answered_is_known_and_a_line_cut_short_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert answered_ids(path) == set()
    done = {"custom_id": "a", "response": {"status_code": 200, "body": {}}}
    path.write_text(json.dumps(done) + "\n" + '{"custom_id": "b", "resp')
    assert answered_ids(path) == {"a"}
    with appended(path) as file:
        file.write(json.dumps(done | {"custom_id": "b"}).encode() + b"\n")
    assert answered_ids(path) == {"a", "b"}


def test_answers_may_be_more_than_requests_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"custom_id": "a", "response": {"status_code": 200, "body": "long" * 100}}
    monkeypatch.setattr(batch, "_MAX_BYTES", 100)
    assert answered_ids(written(tmp_path / "out.jsonl", done)) == {"a"}


def test_an_unexpected_error_is_the_answer_of_one_request(
    demo: GptOss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gptoss_mlx.server.app.read_responses", failing)
    lines = [line("a"), line("broken", "/v1/responses"), line("b")]
    found = answered(demo, read_requests(written(tmp_path / "in.jsonl", *lines)))
    assert {name: each["status_code"] for name, each in found.items()} == {"a": 200, "broken": 500, "b": 200}


def test_two_processes_do_not_write_one_file_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with appended(path) as file:
        file.write(b"{}\n")
        file.flush()
        with pytest.raises(FileWriteError, match="another process writes it"), appended(path):
            pass
    assert path.read_bytes() == b"{}\n"


def test_a_file_of_something_else_is_not_appended_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--output"):
        answered_ids(written(tmp_path / "notes", {"note": 1}))
