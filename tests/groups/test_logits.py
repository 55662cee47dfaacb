"""What a group computes is what one machine computes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from gptoss_mlx.convert import convert_checkpoint
from tests import DEMO
from tests.groups.launched import launch
from tests.groups.shapes import DIVISIBLE, write_divisible

TENSOR_TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The five shapes as released, and one of them converted, exactly and with dense layers in 8 bits."""
    home = tmp_path_factory.mktemp("divisible")
    released = write_divisible(home)
    converted: dict[str, Path] = {}
    shutil.copy(DEMO / "tokenizer.json", released["wide_heads"])
    for dense in ("bf16", "q8"):
        convert_checkpoint(released["wide_heads"], home / dense, dense=dense)
        converted[dense] = home / dense
    return released | converted


@pytest.mark.parametrize(
    ("machines", "names"), [(2, (*DIVISIBLE, "bf16", "q8")), (3, DIVISIBLE), (4, ("odd", "q8"))]
)
@pytest.mark.parametrize("split", ["pipeline", "tensor"])
def test_logits_are_those_of_one_machine(
    split: str, machines: int, names: Iterable[str], checkpoints: dict[str, Path]
) -> None:
    check(machines, split, "plain", {name: checkpoints[name] for name in names})


@pytest.mark.parametrize("split", ["pipeline", "tensor"])
def test_compiled_logits_are_those_of_one_machine(split: str, checkpoints: dict[str, Path]) -> None:
    check(2, split, "compiled", {name: checkpoints[name] for name in ("odd", "q8")})


def check(machines: int, split: str, compiled: str, checkpoints: Mapping[str, Path]) -> None:
    """Compares the logits of each checkpoint."""
    command = (sys.executable, "-m", "tests.groups.logits", split, compiled, *map(str, checkpoints.values()))
    compared = [json.loads(line) for line in launch(machines, *command).splitlines()]
    assert [each["name"] for each in compared] == list(checkpoints)
    limit = 0.0 if split == "pipeline" else TENSOR_TOLERANCE
    assert all(each["distance"] <= limit and each["same"] for each in compared), compared
