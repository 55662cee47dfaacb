"""Long results are shortened for the model, and whole in a file that they name."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from gptoss_mlx.events import ToolCall, ToolResult
from gptoss_mlx.tools import limit as limiting
from gptoss_mlx.tools.limit import ResultLimit
from tests.chat.scripted import ScriptedModel

CALL = ToolCall(name="functions.../evil name", arguments="{}")


def shortened(limit: ResultLimit, text: str) -> str | None:
    return limit(CALL, ToolResult(name=CALL.name, output=text))


def test_head_and_tail_are_kept_and_the_whole_is_in_the_named_file(tmp_path: Path) -> None:
    text = "".join(f"{number:09}\n" for number in range(10_000))
    output = shortened(ResultLimit(tmp_path / "results", characters=1000), text)
    assert output is not None
    assert output.startswith(text[:500])
    assert output.endswith(text[-500:])
    assert len(output) < 1400
    named = re.search(r"99,000 characters are left out here; the whole result is in (.*) …\]", output)
    assert named is not None
    path = Path(named[1])
    assert path.parent == tmp_path / "results"
    assert path.read_text() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_result_that_fits_is_left_alone(tmp_path: Path) -> None:
    limit = ResultLimit(tmp_path / "results", characters=1000)
    assert shortened(limit, "x" * 1000) is None
    assert not (tmp_path / "results").exists()


def test_the_oldest_files_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "_MOST_FILES", 3)
    limit = ResultLimit(tmp_path, characters=10)
    for number in range(7):
        shortened(limit, str(number) * 100)
    assert {path.read_text()[0] for path in tmp_path.iterdir()} == {"4", "5", "6"}
    monkeypatch.setattr(limiting, "_MOST_BYTES", 150)
    shortened(limit, "7" * 100)
    assert {path.read_text()[0] for path in tmp_path.iterdir()} == {"7"}


def test_a_file_that_cannot_be_written_loses_no_answer(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("no directory")
    output = shortened(ResultLimit(tmp_path / "results", characters=10), "x" * 100)
    assert output is not None
    assert "could not be written" in output


def test_the_model_reads_the_shortened_result_and_its_thinking_before(tmp_path: Path) -> None:
    calls = "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
    model = ScriptedModel(
        calls + "<|constrain|>json<|message|>{}<|call|>",
        calls.replace("I look", "I look again") + "<|constrain|>json<|message|>{}<|call|>",
        "<|channel|>final<|message|>Done.<|return|>",
    )
    tool = {"name": "f", "function": lambda: "x" * 100_000}
    model.chat(tools=[tool], after_call=ResultLimit(tmp_path, characters=1000)).send("Go")
    assert "I look.<|end|>" in model.shown[2]
    assert "I look again.<|end|>" in model.shown[2]
    assert len(model.shown[2]) < 6000
