"""``gptoss run``: where the question comes from, and the forms of the answer."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import gptoss
from tests.cli.pty_session import FAKE


def test_the_answer_alone_is_on_standard_output(home: Path) -> None:
    done = gptoss("run", "-m", "demo", "think", "3")
    assert (done.stdout, done.returncode) == ("think 3\n", 0)
    assert done.stderr == "step 0, step 1, step 2 of it\n"
    assert gptoss("run", "-m", "demo", "--think", "hide", "think 3").stderr == ""


def test_questions_come_from_pipes_and_files_too(home: Path) -> None:
    (home / "a.txt").write_text("content ``` of a")
    done = gptoss("run", "-m", "demo", "-f", str(home / "a.txt"), "why?", stdin="piped\n")
    assert done.stdout == "File a.txt:\n\n````\ncontent ``` of a\n````\n\npiped\n\nwhy?\n"


def test_what_is_piped_is_text(home: Path) -> None:
    for command in ("run", "chat"):
        done = gptoss(command, "-m", "demo", stdin=b"caf\xe9\n")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "error: standard input: is not UTF-8 text" in done.stderr


def test_json_is_one_object_and_jsonl_the_events(home: Path) -> None:
    reply = json.loads(gptoss("run", "-m", "demo", "--json", "think 2").stdout)
    assert (reply["text"], reply["finish_reason"]) == ("think 2", "stop")
    assert gptoss("run", "-m", "demo", "--json", "--effort", "HIGH", "think 2").returncode == 0
    lines = gptoss("run", "-m", "demo", "--jsonl", "think 2").stdout.splitlines()
    kinds = [kind for kind, _ in itertools.groupby(json.loads(line)["type"] for line in lines)]
    assert kinds == ["progress", "thinking", "text", "done"]


def test_escapes_do_not_pass_a_pipe_either(home: Path) -> None:
    question = "a\x1b]0;t\x07b\x9b31m"
    assert gptoss("run", "-m", "demo", stdin=question).stdout == "a␛]0;t␇b<U+009B>31m\n"
    for form in ("--json", "--jsonl"):
        assert not set("\x1b\x07\x9b") & set(gptoss("run", "-m", "demo", form, stdin=question).stdout)


def test_an_answer_follows_a_schema(user: Path) -> None:
    (user / "schema.json").write_text('{"type": "boolean"}')
    done = gptoss("run", "-m", "demo", "-e", "low", "--schema", str(user / "schema.json"), "Is 3 more than 2?")
    assert (done.stdout in ("true\n", "false\n"), done.returncode) == (True, 0)
    (user / "schema.json").write_text('["no object"]')
    done = gptoss("run", "-m", "demo", "--schema", str(user / "schema.json"), "q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = gptoss("run", "-m", "demo", "--schema", str(user / "missing"), "q")
    assert done.stderr == f"error: {user / 'missing'}: No such file or directory\n"


def test_a_cut_answer_says_so_on_standard_error(user: Path) -> None:
    command = ("run", "-m", "demo", "-e", "low", "--seed", "1", "--think", "hide", "Hello", "--max-tokens")
    done = gptoss(*command, "24")
    assert (done.returncode, done.stderr) == (
        0,
        "the answer is cut off at 24 tokens (finish_reason: length); raise --max-tokens\n",
    )
    assert done.stdout.strip()


def test_an_answer_in_a_preamble_is_on_standard_output(home: Path) -> None:
    done = gptoss("run", "-m", "demo", "aside we go")
    assert (done.stdout, done.stderr, done.returncode) == ("aside we go\n", "", 0)


@pytest.mark.parametrize("question", ["silent 3", "silent 0"])
@pytest.mark.parametrize("form", [(), ("--think", "hide"), ("--json",)])
def test_a_reply_without_an_answer_is_reported(home: Path, question: str, form: tuple[str, ...]) -> None:
    done = gptoss("run", "-m", "demo", *form, question)
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1] == "no answer: the model wrote no text (finish_reason: stop)"
    assert done.stdout == "" or json.loads(done.stdout)["finish_reason"] == "stop"


@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
def test_no_text_ends_with_exit_code_5(user: Path, form: tuple[str, ...]) -> None:
    done = gptoss("run", "-m", "demo", "--think", "hide", "--max-tokens", "3", "Hello", *form)
    assert done.returncode == 5
    assert done.stderr == "no answer at 3 tokens (finish_reason: length); raise --max-tokens\n"
    assert bool(done.stdout) == bool(form)


def test_a_temperature_that_gives_noise_is_remarked_on(home: Path) -> None:
    for command in ("run", "chat"):
        done = gptoss(command, "-m", "demo", "--temperature", "2.5", stdin="hi\n")
        assert (done.returncode, done.stdout) == (0, "hi\n")
        assert "temperature 2.5: above 2 answers are mostly noise; use 1\n" in done.stderr
        assert "noise" not in gptoss(command, "-m", "demo", "--temperature", "2", stdin="hi\n").stderr


def test_standard_input_that_does_not_end_is_named_on_standard_error(home: Path) -> None:
    with subprocess.Popen(
        [*FAKE, "run", "-m", "demo", "why?"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert b"waiting for the end of standard input" in process.stderr.readline()
        out, err = process.communicate(b"piped", timeout=60)
        assert (process.returncode, out, err) == (0, b"piped\n\nwhy?\n", b"")


def test_a_question_that_is_not_utf8_is_named(home: Path) -> None:
    done = gptoss("run", "-m", "demo", os.fsdecode(b"caf\xe9"))
    assert (done.returncode, done.stderr) == (2, "error: the question is not UTF-8 text: caf\ufffd\n")
