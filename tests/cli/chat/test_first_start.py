"""What holds before a model is loaded: which one is meant, what settings may say, where may be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gptoss_mlx.cli.app import app
from gptoss_mlx.cli.settings import explain_settings, load_settings
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.errors import ConversionError, FileWriteError, InvalidRequest
from gptoss_mlx.hub import models as hub
from tests.convert.sources import write_layout


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's settings and models but these."""
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "models"))
    monkeypatch.setenv("GPTOSS_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def gptoss(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


# Which model is meant.


def test_without_a_name_the_best_of_what_is_here_is_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.default_model() is None
    hub.mark_used(hub.resolve("demo"))
    assert hub.default_model() == "demo"
    monkeypatch.setattr(hub, "cached_snapshot", lambda repo_id: home if repo_id.endswith("120b") else None)
    assert hub.default_model() == "120b"
    source = write_layout("hf", home / "source", num_hidden_layers=1)
    for name in ("first", "second"):
        convert_checkpoint(source, hub.converted_path(name), dense="bf16")
        hub.mark_used(name)
    os.utime(hub.data_directory() / ".used" / "first", (2e9, 2e9))
    assert hub.default_model() == "first"


def test_a_model_that_was_deleted_was_never_used(home: Path) -> None:
    source = write_layout("hf", home / "source", num_hidden_layers=1)
    for _ in range(2):
        convert_checkpoint(source, hub.converted_path("mine"), dense="bf16")
        assert [model.last_used for model in hub.list_converted()] == [None]
        hub.mark_used("mine")
        assert gptoss("models", "rm", "--yes", "mine").exit_code == 0


# Settings.


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("temperature = 500", "temperature is 500.0; a number from 0 to 100"),
        ("temperature = nan", "temperature is nan"),
        ("top_p = 0", "top_p is 0"),
        ("seed = -3", "seed is -3"),
        ("max_tokens = 0", "max_tokens is 0"),
        ("kv_bits = 4", "kv_bits is 4; 8 is needed"),
        ('effort = "extreme"', "one of low, medium, high is needed"),
        ('temperature = "warm"', "a number is needed"),
        ("model = 20", "text is needed"),
        ("[x", "mend it, or delete the file"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_place(line: str, says: str, home: Path) -> None:
    (home / "config.toml").write_text(line + "\n")
    with pytest.raises(InvalidRequest, match=r"config\.toml") as caught:
        explain_settings()
    assert says in str(caught.value)
    done = gptoss("config", "show")
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())


def test_a_flag_overrides_what_the_file_says_and_is_checked_alike(home: Path) -> None:
    (home / "config.toml").write_text("temperature = 0.5\nkv_bits = 8\n")
    assert load_settings(temperature=0.0).temperature == 0
    assert load_settings().kv_bits == 8
    with pytest.raises(InvalidRequest, match="--top-p is 2"):
        load_settings(top_p=2.0)


# Where things are written.


def test_a_plan_is_refused_where_the_conversion_would_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_layout("hf", home / "source", num_hidden_layers=1)
    done = gptoss("convert", str(source), str(home / "no" / "out"), "--dry-run")
    assert (done.exit_code, "does not exist; create it first" in done.stderr) == (3, True)
    for to in ("hf", "mlx-lm"):
        with pytest.raises(ConversionError, match="name a destination"):
            convert_checkpoint(source, to=to)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for destination in (home / "out", None):
        with pytest.raises(FileWriteError, match="no permission to write"):
            convert_checkpoint(source, destination)


def test_the_doctor_finds_places_that_cannot_be_written_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptoss_mlx.cli import doctor

    assert {state for state, _, _ in doctor._places()} == {"ok"}
    (home / "config.toml").write_text("temperature = 500\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    findings = list(doctor._places())
    assert [state for state, _, _ in findings] == ["bad"] * 5
    assert f"no permission to write in {home}" in findings[0][1]


def test_an_export_to_mlx_lm_says_what_it_is_when_loaded(home: Path) -> None:
    source = write_layout("hf", home / "source", num_hidden_layers=1)
    for dense in ("bf16", "q8"):
        convert_checkpoint(source, home / dense, dense=dense, to="mlx-lm")
        done = gptoss("run", "-m", str(home / dense), "hi")
        assert done.exit_code == 3
        assert "is mlx-lm's, layer by layer; re-pack it first: gptoss convert" in " ".join(done.stderr.split())


# The process.


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_may_be_closed(closed: str, home: Path) -> None:
    command = f'exec "$0" -m gptoss_mlx.cli run -m demo --max-tokens 2 hello {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr, "bug" in done.stderr) == (0, False, False)


def test_what_info_gives_as_data_is_numbers() -> None:
    architecture = json.loads(gptoss("info", "20b", "--json").stdout)["architecture"]
    assert architecture["layers"] == 24
    assert {type(value) for value in architecture.values()} == {int}
