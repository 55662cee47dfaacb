"""The program run in this process, and a chat of given lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.cli.app import app
from gptoss_mlx.harmony import Message

__all__ = ["Run", "asked_in", "gptoss", "said_by"]


@dataclass
class Run:
    """What a run of the program left behind."""

    stdout: str
    stderr: str
    returncode: int


def gptoss(*arguments: str, stdin: str | bytes = "") -> Run:
    """The program in this process: its start-up is not what these tests are about."""
    result = CliRunner().invoke(app, arguments, input=stdin)
    return Run(result.stdout, result.stderr, result.exit_code)


def said_by(*commands: str) -> str:
    """The last line on standard error of a chat of these lines."""
    done = gptoss("chat", "-m", "demo", stdin="".join(f"{command}\n" for command in commands))
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def asked_in(path: Path) -> list[Message]:
    """The questions of a saved chat."""
    return [message for message in chatfile.read(path).messages if message.author.role == "user"]
