"""What ``gptoss convert`` refuses, and what its exports say when they are loaded."""

from __future__ import annotations

import os
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


def test_an_export_to_mlx_lm_says_what_it_is_when_loaded(user: Path) -> None:
    for dense in ("bf16", "q8"):
        convert_checkpoint(DEMO, user / dense, dense=dense, to="mlx-lm")
        done = gptoss("run", "-m", str(user / dense), "hi")
        assert done.returncode == 3
        assert "it first: gptoss convert" in " ".join(done.stderr.split())
