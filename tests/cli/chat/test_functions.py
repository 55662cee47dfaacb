"""Functions of a file as tools in the terminal."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from gptoss_mlx.cli.chat.functions import read_functions
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.tools.python import RECIPES
from tests.cli.program import gptoss

FILE = '''
"""Tools of mine."""
import dataclasses
from json import dumps


@dataclasses.dataclass
class Place:
    name: str


def warmth(place: Place, digits: int = 0) -> str:
    """How warm it is."""
    return dumps([place.name, digits])


async def later() -> str:
    return "later"


def _hidden() -> None: ...
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_tools.py"
    path.write_text(FILE)
    return path


def test_the_functions_that_a_file_defines_are_its_tools(file: Path) -> None:
    assert [function.__name__ for function in read_functions(file)] == ["warmth", "later"]
    file.write_text(FILE + "__all__ = ['dumps', '_hidden']")
    assert [function.__name__ for function in read_functions(file)] == ["dumps", "_hidden"]
    assert [path.name for path in file.parent.iterdir()] == ["my_tools.py"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def f(:", "line 1: invalid syntax"),
        ("\n\n1/0", "line 3: ZeroDivisionError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("from json import dumps", "defines no function"),
        ("\0", "null bytes"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(content: str, reason: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=r"my_tools\.py") as refused:
        read_functions(file)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_one_line(home: Path) -> None:
    done = gptoss("run", "Hi", "-m", "demo", "--tools", str(home / "none.py"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_functions_run_under_the_rules(home: Path, file: Path) -> None:
    question = 'call warmth {"place": {"name": "Oslo"}}'
    words = ("run", question, "-m", "demo", "--tools", str(file))
    assert "no rule allows warmth" in gptoss(*words).stdout
    assert 'It says: ["Oslo", 0]' in gptoss(*words, "--allow", "warmth").stdout
    assert (
        "It says: later"
        in gptoss("run", "call later {}", "-m", "demo", "--tools", str(file), "--allow", "l*").stdout
    )


def test_python_without_a_command_is_refused_with_recipes(home: Path) -> None:
    for words in (("--python", ""), ("--python",)):
        done = gptoss("run", "Hi", "-m", "demo", *words)
        assert done.returncode == 2
        assert all(recipe in done.stderr for recipe in RECIPES)


def test_the_command_of_python_is_the_yes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"{shlex.quote(sys.executable)} -S"
    done = gptoss("run", "python 6*7", "-m", "demo", "--python", command)
    assert "It says: 42" in done.stdout
    monkeypatch.setenv("GPTOSS_DENY", "python")
    assert (
        "a rule of the user denies python" in gptoss("run", "python 6*7", "-m", "demo", "--python", command).stdout
    )
