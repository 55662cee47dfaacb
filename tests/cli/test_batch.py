"""``gptoss run --batch``: the answers of a file, and what cannot be combined with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.cli.batch import Batch, answer_batch
from gptoss_mlx.cli.settings import load_settings
from gptoss_mlx.engine.runner import ModelRunner
from gptoss_mlx.errors import GptOssError, NotEnoughMemory
from tests.cli.program import gptoss


def requests(path: Path, count: int) -> Path:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
    lines = [{"custom_id": str(n), "url": "/v1/chat/completions", "body": body} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_same_command_goes_on_with_what_has_no_answer(home: Path, tmp_path: Path) -> None:
    answers = tmp_path / "in.answers.jsonl"
    for count in (3, 5, 5):
        done = gptoss("run", "-m", "demo", "--batch", str(requests(tmp_path / "in.jsonl", count)))
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines()[-1] == f"{count} of {count} requests answered: {answers}"
        found = [json.loads(line) for line in answers.read_text().splitlines()]
        assert sorted(answer["custom_id"] for answer in found) == [str(n) for n in range(count)]
        assert {answer["response"]["status_code"] for answer in found} == {200}


def test_what_may_pass_is_no_answer_and_is_asked_again(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(requests=requests(tmp_path / "in.txt", 3), output=None, parallel=2)
    full, generate = iter([True, False, False, False]), ModelRunner.generate

    def failing(self: ModelRunner, *arguments: Any, **named: Any) -> Any:
        if next(full):
            raise NotEnoughMemory("the memory ran out")
        return generate(self, *arguments, **named)

    monkeypatch.setattr(ModelRunner, "generate", failing)
    with pytest.raises(GptOssError, match=r"1 more failed \(the memory ran out\); the same command"):
        answer_batch(batch, load_settings(model="demo"))
    assert len(batch.answers.read_text().splitlines()) == 2
    answer_batch(batch, load_settings(model="demo"))
    assert batch.answers == tmp_path / "in.txt.answers.jsonl"
    assert len(batch.answers.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--batch", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--batch", "nowhere.jsonl", "hi"), "leave the other options out"),
        (("--batch", "nowhere.jsonl", "--temperature", "0"), "leave the other options out"),
        (("--batch", "nowhere.jsonl", "--seed", "0"), "leave the other options out"),
        (("--output", "answers.jsonl", "hi"), "--output is for --batch"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(arguments: tuple[str, ...], says: str, home: Path) -> None:
    done = gptoss("run", "-m", "demo", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
