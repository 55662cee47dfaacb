"""The commands over several machines: a hostfile that names this machine twice, and faults."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx import GptOss
from tests import ROOT
from tests.groups.faults import lose, runs
from tests.groups.launched import free_ports, launch, started

GPTOSS = (sys.executable, "-m", "gptoss_mlx.cli")


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    """Names this machine twice; mlx.launch needs no ssh for it."""
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2))
    return path


def run(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """``gptoss`` with arguments."""
    return subprocess.run(
        [*GPTOSS, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``gptoss`` while it runs."""
    process = subprocess.Popen(
        [*GPTOSS, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE if arguments[0] == "chat" else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ranks_of(owner: int) -> dict[int, int]:
    """The processes of the group that a command has started, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_text().split("\0")
            if "--owner" in words and words[words.index("--owner") + 1] == str(owner):
                environment = dict(
                    entry.split("=", 1) for entry in (place / "environ").read_text().split("\0") if "=" in entry
                )
                if "MLX_RANK" in environment:
                    found[int(environment["MLX_RANK"])] = int(place.name)
    return found


def test_run_answers_as_on_one_machine(hostfile: Path) -> None:
    question = ("-m", "demo", "--effort", "low", "--temperature", "0", "Who are you?")
    ended = run("run", "--hostfile", str(hostfile), *question)
    assert (ended.returncode, ended.stdout) == (0, run("run", *question).stdout)
    assert "speak in the clear" in ended.stderr


@pytest.fixture
def endless(hostfile: Path, tmp_path: Path) -> tuple[str, ...]:
    """The arguments of a request of both machines that has no end."""
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "string", "minLength": 100_000}))
    asked = ("-m", "demo", "--schema", str(schema), "Tell me a long story")
    return ("run", "--jsonl", "--hostfile", str(hostfile), *asked)


def test_a_lost_machine_is_named_and_nothing_is_left(endless: tuple[str, ...]) -> None:
    with running(*endless) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        ranks = ranks_of(process.pid)
        os.kill(ranks[1], signal.SIGSTOP)
        began = time.monotonic()
        errors = process.communicate(timeout=90)[1]
        assert process.returncode == 6
        assert "machine 1 (" in errors
        assert time.monotonic() - began < 30
        assert not any(map(runs, ranks.values()))


def test_who_kills_the_command_leaves_no_machine_behind(endless: tuple[str, ...]) -> None:
    with running(*endless) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        ranks = ranks_of(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while any(map(runs, ranks.values())) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(ranks) == 2
        assert not any(map(runs, ranks.values()))


def test_a_chat_goes_on_after_a_lost_machine(hostfile: Path) -> None:
    """Its first machine hangs; the conversation is saved, and the same command resumes it."""
    command = ("chat", "--hostfile", str(hostfile), "-m", "demo", "--temperature", "0", "--effort", "low")
    with running(*command) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("Who are you?\n")
        process.stdin.flush()
        while not process.stdout.readline().strip():
            pass
        time.sleep(3)
        os.kill(ranks_of(process.pid)[0], signal.SIGSTOP)
        process.stdin.write("What is 12 + 30?\n")
        process.stdin.flush()
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 6, errors
    with running(*command, "--continue") as process:
        output, errors = process.communicate("What is 3 + 4?\n", timeout=300)
        assert process.returncode == 0, errors
        assert output.strip()


def test_serve_answers_over_two_machines() -> None:
    port = free_ports(1)
    serve = (*GPTOSS, "serve", "-m", "demo", "--port", str(port), "--quiet", "--split", "tensor")
    with started(2, *serve) as process:
        body = json.dumps(
            {
                "model": "demo",
                "messages": [{"role": "user", "content": "Say Oslo"}],
                "temperature": 0,
                "max_tokens": 40,
            }
        ).encode()
        deadline = time.monotonic() + 300
        answer: dict[str, Any] = {}
        while not answer and time.monotonic() < deadline and process.poll() is None:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
            )
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
            time.sleep(0.2)
        assert answer["choices"][0]["message"]["content"]


def test_bench_measures_a_group() -> None:
    output = launch(
        2, *GPTOSS, "bench", "demo", "--depths", "64", "--tokens", "4", "--rounds", "1", "--turns", "1", "--json"
    )
    machine = json.loads(output)["machine"]
    assert (machine["machines"], machine["split"]) == (2, "pipeline")


def test_machines_that_differ_are_refused_by_name() -> None:
    program = (
        "import os, sys\n"
        "from tests import DEMO\n"
        "from gptoss_mlx import GptOss\n"
        "GptOss(DEMO, split='pipeline', context=4096 + int(os.environ['MLX_RANK']))\n"
    )
    with started(2, sys.executable, "-c", program) as process:
        errors = process.communicate(timeout=300)[1]
    assert "context differs: 4097 on machine 1" in errors


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no hostfile"),
        ("[]", "two or more are needed"),
        ('[{"ssh": "127.0.0.1"}]', "two or more are needed"),
        ('[{"ips": []}, {}]', "is no hostfile"),
        ('[{"ssh": "b"}, {"ssh": "c"}]', "the first machine must be this one"),
    ],
)
def test_what_is_no_hostfile_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(content)
    ended = run("run", "--hostfile", str(path), "-m", "demo", "hi")
    assert ended.returncode == 2
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("split", "machines", "rank", "sign"),
    [
        ("pipeline", 3, 1, signal.SIGKILL),
        ("tensor", 2, 1, signal.SIGKILL),
        ("tensor", 2, 1, signal.SIGSTOP),
        ("pipeline", 2, 0, signal.SIGKILL),
    ],
)
def test_after_a_fault_nothing_is_left(
    split: str, machines: int, rank: int, sign: signal.Signals, demo: GptOss
) -> None:
    loss = lose(demo, split, machines, rank, sign, 0.5)
    assert loss.left == 0
    assert loss.messages > 0
    if rank:
        assert loss.said.startswith(f"machine {rank} (")
        assert loss.seconds < 10
