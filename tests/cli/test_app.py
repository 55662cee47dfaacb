"""The subcommands and their flags, and what is imported for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import gptoss


def test_numbers_are_converted_and_checked(home: Path) -> None:
    numbers = ("--seed", "3", "--temperature", "0.5", "--top-p", "1", "--max-tokens", "9")
    assert gptoss("chat", "-m", "demo", *numbers, stdin="hi\n").stdout == "hi\n"
    for name in ("--seed", "--temperature"):
        done = gptoss("chat", "-m", "demo", name, "x")
        assert (done.returncode, name in done.stderr) == (2, True)


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from gptoss_mlx.cli.app import app
try:
    app(["--help"])
except SystemExit:
    pass
heavy = "mlx mlx_lm transformers numpy huggingface_hub tiktoken prompt_toolkit pydantic".split()
assert not [name for name in heavy if name in sys.modules], [name for name in heavy if name in sys.modules]
assert not [name for name in sys.modules if name.startswith("gptoss_mlx.harmony")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", ["-m demo --effort low", "-m mine", ""])
def test_a_chat_imports_nothing_heavy_before_its_prompt(user: Path, arguments: str) -> None:
    model = user / "models" / "mine"
    model.mkdir(parents=True)
    (model / "manifest.json").touch()
    code = f"""
import sys
from gptoss_mlx.cli import app
from gptoss_mlx.cli.chat import loop
def talk(*_):
    heavy = "mlx numpy huggingface_hub tiktoken pydantic pydantic_core markdown_it pygments".split()
    assert not [name for name in heavy if name in sys.modules], [name for name in heavy if name in sys.modules]
    print("asked nothing heavy")
    return 0
loop.talk = talk
sys.argv = "gptoss chat {arguments}".split()
app.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "asked nothing heavy\n"), done.stderr


@pytest.mark.parametrize(
    "command",
    ["", *["chat", "run", "models", "info", "doctor", "convert", "verify", "bench", "config"], "config show"],
)
def test_help_shows_no_type_after_a_flag(user: Path, command: str) -> None:
    shown = gptoss(*command.split(), "--help")
    assert shown.returncode == 0
    assert "--help" in shown.stdout
    assert "bool" not in shown.stdout
