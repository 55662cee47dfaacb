"""``gptoss info``: the precision that ``convert`` takes here, what it downloads, and the disk it needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gptoss_mlx.cli.app import app
from gptoss_mlx.config import RELEASED, ModelConfig
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import choose_precision
from gptoss_mlx.memory.sizes import weight_bytes
from tests.convert.sources import write_layout
from tests.memory.machines import mac


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without models."""
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def info(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["info", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("memory", "dense", "loses", "disk"),
    [
        (24, "bf16", "nothing; 'gptoss verify 20b --against 20b' reports 0", "27.5 GB"),
        (18, "q8", "are rounded to 8 bits; 'gptoss verify 20b --against 20b' measures it", "25.8 GB"),
        (16, "q4", "are rounded to 4 bits; 'gptoss verify 20b --against 20b' measures it", "24.9 GB"),
    ],
)
def test_info_says_what_convert_takes_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, memory: int, dense: str, loses: str, disk: str
) -> None:
    monkeypatch.setattr(DeviceInfo, "current", classmethod(lambda cls: mac(memory)))
    said = info("20b").partition("gptoss convert 20b, on this machine")[2]
    rows = dict(re.findall(r"^  (\S.*?)  +(.*)$", said, re.M))
    assert rows["dense layers"] == dense
    assert rows["reason"] == choose_precision(RELEASED["20b"], mac(memory)).reason
    assert rows["loses"].endswith(loses)
    assert {"3.71 GB", "2.57 GB", "1.96 GB"} <= set(re.findall(r"\S+ GB", rows["read for a token"]))
    assert rows["download"] == f"13.8 GB; the source and its conversion take {disk}"


def test_a_source_that_is_here_is_not_downloaded(home: Path) -> None:
    source = write_layout("hf", home / "source", num_hidden_layers=1)
    content = json.loads(info(str(source), "--json"))["convert"]
    assert (content["dense"], content["losses"], content["bytes_to_download"]) == ("bf16", [], 0)
    assert content["bytes_on_disk"] == 2 * weight_bytes(ModelConfig.from_directory(source))
    assert "nothing; the source and its conversion" in info(str(source))


def test_a_conversion_is_not_converted_again(home: Path) -> None:
    convert_checkpoint(write_layout("hf", home / "source", num_hidden_layers=1), home / "converted")
    for reference in (str(home / "converted"), "demo"):
        assert "convert" not in json.loads(info(reference, "--json"))
