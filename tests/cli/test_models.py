"""The list of models, and their deletion."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gptoss_mlx.cli import models
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.hub import models as hub
from gptoss_mlx.hub.models import InstalledModel
from tests.cli.program import gptoss
from tests.cli.pty_session import Person
from tests.convert.sources import write_layout


def test_columns_of_models_stand_below_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        InstalledModel(
            name=precision,
            path=Path("/path"),
            nbytes=10**9,
            precision=precision,
            last_used=None,
            converted=True,
        )
        for precision in ("q8", "bf16", "a longer one")
    ]
    monkeypatch.setattr(models, "list_models", lambda: listed)
    rows = gptoss("models").stdout.splitlines()
    for column in ("GB", "never used", "/path"):
        assert len({row.index(column) for row in rows}) == 1


def test_a_model_that_was_deleted_was_never_used(user: Path) -> None:
    source = write_layout("hf", user / "source", num_hidden_layers=1)
    for _ in range(2):
        convert_checkpoint(source, hub.converted_path("mine"), dense="bf16")
        assert [model.last_used for model in hub.list_converted()] == [None]
        hub.mark_used("mine")
        assert gptoss("models", "rm", "--yes", "mine").returncode == 0


def test_a_path_that_does_not_fit_the_window_is_cut_with_a_sign(tmp_path: Path) -> None:
    person = Person([sys.executable, "-m", "gptoss_mlx.cli", "models"], tmp_path, width=60)
    person.wait_for("…")
    person.end()
    assert max(map(len, person.lines())) < 60
