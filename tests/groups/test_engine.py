"""A group answers as one machine does, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.checkpoints import write_random_checkpoint
from tests.groups.launched import launch
from tests.groups.shapes import DIVISIBLE

PROGRAM = (sys.executable, "-m", "tests.groups.engine")


def answers(output: str) -> dict[str, Any]:
    """What the program found, by the kind of request."""
    lines = [json.loads(line) for line in output.splitlines()]
    return {line["name"]: line["found"] for line in lines}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The answers of one machine."""
    ended = subprocess.run([*PROGRAM, "alone"], cwd=ROOT, capture_output=True, text=True, timeout=90, check=True)
    return answers(ended.stdout)


@pytest.mark.parametrize(("split", "machines"), [("pipeline", 2), ("tensor", 2), ("pipeline", 3)])
def test_every_request_is_answered_as_by_one_machine(split: str, machines: int, alone: dict[str, Any]) -> None:
    found = answers(launch(machines, *PROGRAM, split))
    refusals, seeded = found.pop("refusals"), found.pop("seeded")
    assert len(refusals) == 2
    assert {name: value for name, value in alone.items() if name != "seeded"} == found
    assert seeded[0] == seeded[1]
    # Where one machine has all logits, it draws as if it were alone.
    assert split == "tensor" or seeded == alone["seeded"]


@pytest.mark.parametrize(("split", "machines"), [("pipeline", 4), ("tensor", 2)])
def test_rows_that_join_and_leave_have_the_tokens_that_one_machine_gives(
    split: str, machines: int, tmp_path: Path
) -> None:
    """In a pipeline of four each machine has layers of one kind."""
    directory = write_random_checkpoint(tmp_path / "full_first", **DIVISIBLE["full_first"])
    program = (sys.executable, "-m", "tests.groups.schedules")
    found = json.loads(launch(machines, *program, split, str(directory), "0", "2"))
    assert found["wrong"] == []
    assert found["most_rows"] > 2
    assert found["tokens"] > 100


def test_one_machine_under_the_launcher_is_one_machine(alone: dict[str, Any]) -> None:
    assert answers(launch(1, *PROGRAM, "alone")) == alone
