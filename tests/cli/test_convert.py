"""What ``gptoss convert`` refuses, and what its exports say when they are loaded."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.errors import ConversionError, FileWriteError
from tests import DEMO
from tests.cli.program import gptoss
from tests.convert.sources import write_layout


def test_a_plan_is_refused_where_the_conversion_would_be(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_layout("hf", user / "source", num_hidden_layers=1)
    done = gptoss("convert", str(source), str(user / "no" / "out"), "--dry-run")
    assert (done.returncode, "does not exist; create it first" in done.stderr) == (3, True)
    for to in ("hf", "mlx-lm"):
        with pytest.raises(ConversionError, match="name a destination"):
            convert_checkpoint(source, to=to)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for destination in (user / "out", None):
        with pytest.raises(FileWriteError, match="no permission to write"):
            convert_checkpoint(source, destination)


def test_what_must_be_converted_first_says_so_and_then_answers(user: Path) -> None:
    convert_checkpoint(DEMO, user / "fine tune", experts="bf16", to="hf")
    refused = gptoss("run", "-m", str(user / "fine tune"), "hi")
    assert refused.returncode == 3
    command = " ".join(refused.stderr.split()).partition("convert it first: ")[2]
    assert command == shlex.join(["gptoss", "convert", str(user / "fine tune")])
    converted = gptoss(*shlex.split(command)[1:], str(user / "converted"))
    assert converted.returncode == 0, converted.stderr
    assert gptoss("run", "-m", str(user / "converted"), "hi").returncode == 0
