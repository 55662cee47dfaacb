"""``gptoss serve`` as a process, and ``chat`` and ``run`` with ``--url``."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_mlx.cli.machines import ended_first
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO
from tests.cli.program import gptoss
from tests.server.scripted import ScriptedGptOss, answer, think, turn
from tests.server.serving import listening

COMMAND = (sys.executable, "-m", "gptoss_mlx.cli", "serve", "-m", "demo", "--port", "0")


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and its port once it is ready."""
    process = subprocess.Popen(
        [*COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"demo answers at http://127\.0\.0\.1:(\d+) \(context: [\d,]+ tokens\)$", line)
        assert found, line
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_within_a_second_and_running_answers_in_order(number: int, code: int) -> None:
    special = Tokenizer.from_directory(DEMO).special
    never = {str(special[name]): -100 for name in ("<|return|>", "<|end|>", "<|call|>", "<|endoftext|>")}
    asked = {"stream": True, "messages": [{"role": "user", "content": "Tell me"}], "logit_bias": never}
    with serving() as (process, port):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(asked))
            response = connection.getresponse()
            while b'"content": "' not in response.readline():
                pass
            began = time.monotonic()
            process.send_signal(number)
            rest = response.read().decode()
        assert process.wait(20) == code
        assert time.monotonic() - began < 3  # a second, and room for slow machines
        assert rest.endswith("data: [DONE]\n\n")
        assert "the server is ending" in rest
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_what_it_prints_is_what_its_root_shows() -> None:
    with serving() as (process, port):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", "/")
            shown = connection.getresponse().read().decode()
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        printed, log = process.stdout.read(), process.stderr.read()
    assert [line.strip() for line in printed.splitlines() if line.strip()] == [
        line.strip() for line in shown.splitlines()[1:] if line.strip()
    ]
    assert re.search(r"GET / status=200 seconds=[\d.]+$", log, re.MULTILINE)


def test_tools_that_the_owner_runs_are_not_started_again() -> None:
    with serving("--owner", str(os.getpid()), "--tools", "nowhere.py") as (_, port):
        assert port


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["[WARN] Node with rank 1 exited with code -9 ", "[WARN] Node with rank 0 exited with code 6"],
            "machine 1",
        ),
        (["[WARN] Node with rank 0 exited with code 6", "[WARN] Node with rank 2 was killed"], "machine 2"),
        (["[ring] Socket 3 was closed by the peer"], None),
    ],
)
def test_a_machine_that_the_launcher_saw_end_is_named(lines: list[str], said: str | None) -> None:
    assert ended_first(lines) == (said and f"{said} has ended")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--host", "0.0.0.0"],
            "--host 0.0.0.0 lets other machines ask; give --api-key KEY, or set GPTOSS_API_KEY",
        ),
        (["--host", "mac-studio.local"], "lets other machines ask"),
        (["--host", "203.0.113.7", "--api-key", "k"], "203.0.113.7 port 8080: "),
        (["--port", "70000"], "'--port'"),
        (["--effort", "maximal"], "--effort is 'maximal'"),
        (["-m", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(flags: list[str], message: str) -> None:
    done = gptoss("serve", *(["-m", "demo"] if "-m" not in flags else []), *flags)
    assert done.returncode in (2, 3)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_refused() -> None:
    with listening(ScriptedGptOss()) as url:
        port = url.rpartition(":")[2]
        done = gptoss("serve", "-m", "demo", "--port", port)
    assert done.returncode == 2
    assert f"127.0.0.1 port {port}: address already in use; choose others with --host and --port" in " ".join(
        done.stderr.split()
    )


def test_a_chat_with_a_server_is_a_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedGptOss(
        respond=lambda prompt: turn(think("Hm."), answer(f"Answer {prompt.count('Answer') + 1}."))
    )
    monkeypatch.setenv("GPTOSS_API_KEY", "right")
    with listening(model, api_key="right") as url:
        done = gptoss("chat", "--url", url, stdin="One?\nTwo?\n/retry high\n/undo\nThree?\n")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[:4] == ["Answer 1.", "Answer 2.", "Answer 2.", "Answer 2."]
        assert "Reasoning: high" in model.shown[-1]
        resumed = gptoss("chat", "--url", url, "--resume", stdin="Four?\n")
        assert "Answer 3." in resumed.stdout
        ran = gptoss("run", "--url", url, "--json", "Five?")
        assert json.loads(ran.stdout)["text"] == "Answer 1."
        refused = gptoss("chat", "--url", url, stdin="One?\n/trace\n")
        assert "needs a model that is loaded on this machine" in " ".join(refused.stderr.split())


def test_a_url_and_a_model_are_not_both_given() -> None:
    done = gptoss("run", "--url", "http://127.0.0.1:9", "-m", "demo", "Hi")
    assert (done.returncode, "leave one of them out" in done.stderr) == (2, True)


@pytest.mark.parametrize("option", [("--context", "100"), ("--kv-bits", "8"), ("--adapter", "place")])
def test_how_a_model_is_loaded_is_no_option_beside_a_url(option: tuple[str, str]) -> None:
    done = gptoss("run", "--url", "http://127.0.0.1:9", *option, "Hi")
    assert done.returncode == 2
    assert f"{option[0]}: the server at http://127.0.0.1:9 has loaded its model" in done.stderr


def test_several_machines_refuse_an_adapter(tmp_path: Path) -> None:
    done = gptoss("run", "--hostfile", str(tmp_path / "hosts.json"), "--adapter", "place", "-m", "demo", "Hi")
    assert (done.returncode, "merge it" in done.stderr) == (2, True)


def test_a_model_that_is_named_replaces_the_url_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_URL", "http://127.0.0.1:9")
    assert gptoss("run", "Hi").returncode == 1
    assert gptoss("run", "-m", "demo", "Who are you?").returncode == 0
    assert os.environ["GPTOSS_URL"]
