"""Whatever happens during a conversion, the target is never one that loads and is wrong.

The long run (200 random moments, every call) is ``tests/benchmarks/convert_interrupted.py``.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_mlx.convert import convert_checkpoint, verify_checkpoint
from gptoss_mlx.errors import ConversionError, FileWriteError, GptOssError, NotEnoughDisk
from tests import ROOT
from tests.convert.faults import CALLS, faulty
from tests.convert.sources import write_layout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint."""
    return write_layout("hf", tmp_path_factory.mktemp("source") / "hf", num_hidden_layers=1)


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of its conversion."""
    target = tmp_path_factory.mktemp("expected") / "out"
    convert_checkpoint(source, target, dense="q8")
    return _contents(target)


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _count_calls(source: Path, target: Path, calls: tuple[str, ...] = CALLS) -> int:
    with faulty(None, lambda: None, calls) as system:
        convert_checkpoint(source, target, dense="q8")
    return system.count


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(("number", "first"), [(errno.ENOSPC, 1), (errno.EIO, 2), (errno.EROFS, 3)])
def test_an_error_of_the_disk_at_any_call_leaves_nothing_half_done(
    number: int, first: int, source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    calls = _count_calls(source, tmp_path / "count")
    assert calls > 30
    completed = 0
    for at in range(first, calls + 1, 3):  # the long run has each error at every call
        place = tmp_path / str(at)
        place.mkdir()
        with faulty(at, lambda: _fail(number)), pytest.raises(GptOssError) as caught:
            convert_checkpoint(source, place / "out", dense="q8")
        assert "\n" not in str(caught.value)
        assert number != errno.ENOSPC or isinstance(caught.value, NotEnoughDisk)
        left = {path.name for path in place.iterdir()}
        assert left <= {"out"}
        if left:  # only a failure after the rename leaves the complete result
            completed += 1
            assert _contents(place / "out") == expected
    assert completed <= 2


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_sync_and_rename(
    after: bool, source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    calls = ("fsync", "rename")
    moments = range(1, _count_calls(source, tmp_path / "count", calls) + 1)
    where = [str(source), str(tmp_path), *map(str, moments)]
    ends = _processes("kill", *where, *(["--after"] if after else []), "--calls", *calls)
    assert ends == [f"ended {-signal.SIGKILL}"] * len(moments)
    for at in moments:
        _check_after_kill(source, tmp_path / str(at) / "out", expected)


def _processes(*arguments: str) -> list[str]:
    """The lines that ``tests.convert.faults`` prints."""
    command = [sys.executable, "-m", "tests.convert.faults", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def _check_after_kill(source: Path, target: Path, expected: dict[str, bytes]) -> None:
    """Asserts that the target is complete or absent, and that a rerun is byte-identical and removes remains."""
    if target.exists():
        assert _contents(target) == expected
        convert_checkpoint(source, target, dense="q8", force=True)
    else:
        convert_checkpoint(source, target, dense="q8")
    assert _contents(target) == expected
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_killed_while_replacing_the_old_target_comes_back(
    source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    target = tmp_path / "1" / "out"
    target.parent.mkdir()
    convert_checkpoint(source, target, dense="bf16")
    old = _contents(target)
    _processes("kill", str(source), str(tmp_path), "1", "--force", "--after", "--calls", "rename")
    assert not target.exists()  # between the two renames
    with pytest.raises(ConversionError, match="exists"):
        convert_checkpoint(source, target, dense="q8")
    assert _contents(target) == old
    convert_checkpoint(source, target, dense="q8", force=True)
    assert _contents(target) == expected


def test_ctrl_c_removes_what_was_written(source: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with faulty(20, interrupt, ("write",)), pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, tmp_path / "out", dense="q8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [2, 8])
def test_of_several_processes_one_wins(
    processes: int, source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    printed = _processes("race", str(source), str(tmp_path), str(processes))
    ends = sorted(line for line in printed if line.startswith("ended"))
    messages = [line for line in printed if not line.startswith("ended")]
    assert ends == ["ended 0"] + ["ended 1"] * (processes - 1)
    assert len(messages) == processes - 1
    for message in messages:
        assert "another conversion to it is running" in message or "exists" in message
    assert _contents(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_that_cannot_be_taken_is_a_typed_error(source: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / ".out.lock").symlink_to(elsewhere)
    with pytest.raises(FileWriteError, match="out: cannot be written"):
        convert_checkpoint(source, tmp_path / "out", dense="q8")
    assert elsewhere.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_the_source_is_never_written_to(source: Path, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.iterdir()}
    convert_checkpoint(source, tmp_path / "out", dense="q8")
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.iterdir()} == before


def test_verify_accepts_what_was_just_written(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "out", dense="q8")
    assert verify_checkpoint(tmp_path / "out").ok
