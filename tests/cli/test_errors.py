"""Errors, interrupts and closed streams become one line and an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gptoss_mlx
from gptoss_mlx import errors
from gptoss_mlx.cli import errors as edge
from tests import ROOT
from tests.cli.program import gptoss
from tests.cli.pty_session import FAKE


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "-m", "nothing-here", "x"), 3, "gptoss convert"),
        (("run", "x"), 3, "--model demo"),
        (("chat",), 3, "--model demo"),
        (("run", "-m", "demo"), 2, "no question"),
        (("run", "-m", "demo", "-e", "huge", "x"), 2, "low, medium, high"),
        (("run", "-m", "demo", "-f", "/no/such\x1b[31m", "x"), 2, "␛[31m"),
        (("run", "-m", "demo", "--json", "--jsonl", "x"), 2, "only one can"),
        (("run", "--nonsense\x1b[31m"), 2, "No such option: --nonsense"),
        (("no\u202esuch",), 2, "No such command"),
        (("run", "--seed", "x\x1b", "q"), 2, "--seed"),
        (("convert",), 2, "Missing argument"),
        (("what is it?",), 2, "gptoss run 'what is it?'"),
        (("what", "is", "it", "-e", "low"), 2, "gptoss run 'what is it'"),
        (("chatt", "-m", "demo"), 2, "Did you mean 'chat'? See"),
        (("bench", "--against", "vllm"), 2, "mlx-lm"),
        (("chat", "-r", "-c"), 2, "only one can"),
        (("chat", "--resume", "abc"), 1, "--list"),
        (("models", "rm", "demo"), 3, "not a converted model"),
        (("info", "/tmp"), 3, "config.json"),
    ],
)
def test_errors_are_one_line_with_a_remedy_and_a_code(
    home: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = gptoss(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_ends_quietly(home: Path) -> None:
    pipe = f"{' '.join(FAKE)} run -m demo --jsonl 'think 20000' | head -1"
    done = subprocess.run(pipe, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_an_interrupt_ends_a_run_with_130(home: Path) -> None:
    with subprocess.Popen(
        [*FAKE, "run", "-m", "demo", "think 100000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "GPTOSS_FAKE_DELAY": "0.01"},
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.read(4) == "step"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)  # the answer would take a quarter of an hour
        assert process.returncode == edge.INTERRUPTED


def test_an_interrupt_while_the_program_is_imported_ends_it_with_130() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
sys.argv = ["gptoss", "--help"]
from gptoss_mlx.cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (edge.INTERRUPTED, "", "")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"gptoss": "gptoss_mlx.cli.__main__:main"}


def test_an_interrupt_while_mlx_is_imported_ends_with_130(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ImportError("Encountered an error while initializing the extension.") from KeyboardInterrupt()

    monkeypatch.setattr(gptoss_mlx, "load", load)
    done = gptoss("run", "-m", "demo", "x")
    assert (done.returncode, done.stderr) == (edge.INTERRUPTED, "")


@pytest.mark.parametrize("busy", [False, True], ids=["alone", "beside a thread that imports MLX"])
def test_a_thread_that_may_be_inside_mlx_is_not_torn_down(busy: bool) -> None:
    code = f"""
import threading, time
from gptoss_mlx.cli import errors
if {busy}:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
threading._register_atexit(lambda: print("torn down"))
errors.leave(SystemExit(3))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (3, "" if busy else "torn down\n")


def test_every_error_has_the_code_that_the_readme_promises() -> None:
    assert edge.exit_code(errors.ConfigError("x")) == 3
    assert edge.exit_code(errors.DownloadError("x")) == 3
    assert edge.exit_code(errors.NotEnoughDisk("x")) == 4
    assert edge.exit_code(errors.FileWriteError("x")) == 4
    assert edge.exit_code(errors.InvalidRequest("x")) == 2
    assert edge.exit_code(KeyboardInterrupt()) == 130
    assert edge.exit_code(ValueError("x")) == 1
    assert "bug" in edge.error_line(ValueError("x"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_may_be_closed(closed: str, user: Path) -> None:
    command = f'exec "$0" -m gptoss_mlx.cli run -m demo --max-tokens 2 hello {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr, "bug" in done.stderr) == (5, False, False)
