"""Homes of users for the tests of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import gptoss_mlx
from tests.cli import fake_gptoss


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody who never started the program."""
    for name in [name for name in os.environ if name.startswith("GPTOSS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def home(user: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a model that says what it is told."""
    monkeypatch.setattr(gptoss_mlx, "load", fake_gptoss.load, raising=False)
    return user
