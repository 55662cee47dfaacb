"""How long ``gptoss --help`` and the prompt take, against a bare Typer application with the same commands.

python -m tests.benchmarks.cli_startup

The promises are 1.25 times a bare Typer's ``--help``, and 0.5 s. Modules are compiled beforehand, as they are
whenever a program was started once.

Two runs on two hyperthreads of an x86-64 machine, 2026-11-21: ``--help`` 1.17 and 1.15 times (362 and 260 ms of
processor time); the prompt after 365 to 411 ms in the median, 451 ms at the slowest.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cli.pty_session import Person

ROUNDS = 15

BARE = """
import typer
app = typer.Typer(help="Run OpenAI's gpt-oss on your Mac.", no_args_is_help=True)
def command(a: str = "", b: int = 0, c: float = 0.0): "Do something."
for name in "chat run models info doctor convert verify bench config".split():
    app.command(name)(command)
app()
"""
GPTOSS = [sys.executable, "-m", "gptoss_mlx.cli"]
OURS = "from gptoss_mlx.cli.__main__ import main; main()"


def help_seconds(code: str) -> float:
    """CPU time of one ``--help``: other things that run on the machine count less than in wall time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, "--help"], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prompt_seconds(home: Path, *model: str) -> float:
    """From the command to the prompt."""
    began = time.perf_counter()
    person = Person([*GPTOSS, "chat", *model], home)
    person.wait_for("›")
    seconds = time.perf_counter() - began
    person.leave()
    return seconds


def main() -> None:
    """Measure in turns, so that both see the same machine; report medians."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as home:
        prompt_seconds(Path(home), "-m", "demo")
    bare, ours = zip(*((help_seconds(BARE), help_seconds(OURS)) for _ in range(ROUNDS)), strict=True)
    a, b = statistics.median(bare), statistics.median(ours)
    print(f"--help: bare Typer {a * 1e3:.0f} ms, gptoss {b * 1e3:.0f} ms, {b / a:.2f} times")
    with tempfile.TemporaryDirectory() as home:
        model = Path(home) / "models" / "mine"
        model.parent.mkdir()
        subprocess.run([*GPTOSS, "convert", "demo", str(model)], capture_output=True, check=True)
        for name, arguments in (("named", ("-m", "demo")), ("by default", ())):
            prompts = [prompt_seconds(Path(home), *arguments) for _ in range(ROUNDS // 3)]
            median, slowest = statistics.median(prompts) * 1e3, max(prompts) * 1e3
            print(f"prompt, model {name}: median {median:.0f} ms, slowest {slowest:.0f} ms")


if __name__ == "__main__":
    main()
