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
            name=name,
            path=Path("/path"),
            nbytes=10**9,
            last_used=None,
            converted=True,
        )
        for name in ("q8", "bf16", "a longer one")
    ]
    monkeypatch.setattr(models, "list_models", lambda: listed)
    rows = gptoss("models").stdout.splitlines()
    for column in ("GB", "never used", "/path"):
        assert len({row.index(column) for row in rows}) == 1


def test_models_of_all_origins_are_listed_with_their_forms_and_answer(user: Path) -> None:
    convert_checkpoint("demo", hub.converted_path("mine"), dense="q8")
    studio = user / ".lmstudio" / "models" / "lmstudio-community" / "gpt-oss-MLX"
    studio.parent.mkdir(parents=True)
    convert_checkpoint("demo", studio, dense="q4", experts="q8", to="mlx-lm")
    cache = user / "hub" / "models--someone--gpt-oss"
    for name in ("snapshots", "refs"):
        (cache / name).mkdir(parents=True)
    convert_checkpoint("demo", cache / "snapshots" / ("0" * 40), to="mlx-lm")
    (cache / "refs" / "main").write_text("0" * 40)
    other = studio.with_name("no-gpt-oss")
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    listed = {line.split()[0]: line.split()[3] for line in gptoss("models").stdout.splitlines()}
    assert listed == {
        "mine": "mxfp4+q8",
        "demo": "mxfp4+bf16",
        "someone/gpt-oss": "mxfp4+bf16",
        "lmstudio:lmstudio-community/gpt-oss-MLX": "q8+q4",
    }
    for name in (*listed, str(studio)):
        answer = gptoss("run", "-m", name, "--temperature", "0", "--effort", "low", "What is 2+3?")
        assert answer.returncode == 0, answer.stderr
        assert "5" in answer.stdout


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
