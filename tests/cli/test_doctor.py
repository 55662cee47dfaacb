"""What ``gptoss doctor`` finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptoss_mlx.cli import doctor


def test_the_doctor_finds_places_that_cannot_be_written_to(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_CONFIG", str(user / "config.toml"))
    assert {state for state, _, _ in doctor._places()} == {"ok"}
    (user / "config.toml").write_text("temperature = 500\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    findings = list(doctor._places())
    assert [state for state, _, _ in findings] == ["bad"] * 5
    assert f"no permission to write in {user}" in findings[0][1]
