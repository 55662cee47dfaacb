"""What ``gptoss info`` states of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.program import gptoss


def test_info_states_the_known_figures(user: Path) -> None:
    content: dict[str, Any] = json.loads(gptoss("info", "20b", "--json").stdout)
    assert content["parameters"]["total"] == 20_914_757_184
    parts = content["parameters"]
    assert parts["experts"] + parts["attention"] + parts["embedding_and_head"] == parts["total"]
    assert content["precisions"]["bf16"]["weight_bytes"] == 13_761_264_768
    assert "116,829,156,672" in gptoss("info", "120b").stdout


def test_what_info_gives_as_data_is_numbers() -> None:
    architecture = json.loads(gptoss("info", "20b", "--json").stdout)["architecture"]
    assert architecture["layers"] == 24
    assert {type(value) for value in architecture.values()} == {int}
