"""Destinations: what may not be written is refused before anything is written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from gptoss_mlx.convert import convert_checkpoint, verify_checkpoint
from gptoss_mlx.errors import (
    ConversionError,
    FileWriteError,
    InvalidRequest,
    ModelNotFound,
    NotEnoughDisk,
)
from tests.convert.sources import expect_refusal, write_layout


def test_an_existing_destination_is_not_touched(sources: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    expect_refusal(sources["hf"], target, ConversionError, "exists; --force replaces it")
    expect_refusal(
        sources["hf"], target, ConversionError, "is not a checkpoint, so it is not replaced", force=True
    )
    assert (target / "mine.txt").read_text() == "mine"


def test_force_replaces_a_checkpoint(sources: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(sources["hf"], tmp_path / "out", dense="bf16")
    report = convert_checkpoint(sources["hf"], tmp_path / "out", dense="q4", force=True)
    assert report.dense == "q4"
    assert verify_checkpoint(tmp_path / "out").ok
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_destination_in_the_source_is_refused_and_the_reverse(tmp_path: Path) -> None:
    source = write_layout("hf", tmp_path / "outer" / "source")
    expect_refusal(source, source / "out", ConversionError, "is inside the source")
    expect_refusal(source, source, ConversionError, "exists|is inside the source")
    (tmp_path / "outer" / "config.json").write_text("{}")
    expect_refusal(source, tmp_path / "outer", ConversionError, "contains the source", force=True)


def test_a_second_name_of_the_source_is_no_place_for_its_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second name, as mounts and case-insensitive filesystems give; resolving the path does not reveal it."""
    source = write_layout("hf", tmp_path / "real" / "source")
    (tmp_path / "second").symlink_to(tmp_path / "real")
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: path.absolute())
    second = tmp_path / "second" / "source"
    expect_refusal(source, second, ConversionError, "is inside the source", force=True)
    expect_refusal(source, second / "out", ConversionError, "is inside the source")
    assert (source / "config.json").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "x/.."])
def test_a_destination_needs_a_name(
    name: str, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expect_refusal(sources["hf"], Path(name), ConversionError, "by its own name", force=True)


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a\0b", "x" * 300])
def test_what_no_path_can_be_isexpect_refusal(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    for source, destination in ((sources["hf"], name), (name, tmp_path / "out")):
        with pytest.raises(InvalidRequest, match=r"no such user|NUL|name is too long"):
            convert_checkpoint(source, destination)


def test_remains_that_cannot_be_removed_are_named(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".out.partial").mkdir()

    def refuse(path: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    expect_refusal(sources["hf"], tmp_path / "out", FileWriteError, "no permission to write there")


def test_a_destination_without_parent_isexpect_refusal(sources: dict[str, Path], tmp_path: Path) -> None:
    expect_refusal(sources["hf"], tmp_path / "no" / "out", ConversionError, "does not exist; create it first")


def test_a_full_disk_is_noticed_first(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_mlx.hub.downloads.free_space", lambda place: 1000)
    expect_refusal(sources["hf"], tmp_path / "out", NotEnoughDisk, "MB are needed and 1.00 kB are free")


def test_what_is_not_here_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    expect_refusal(str(tmp_path / "nothing"), tmp_path / "out", ModelNotFound, "no such directory")


def test_options_out_of_range_are_named(sources: dict[str, Path], tmp_path: Path) -> None:
    expect_refusal(sources["hf"], tmp_path / "out", ConversionError, "dense is 'q5'", dense="q5")
    expect_refusal(sources["hf"], tmp_path / "out", ConversionError, "target is 'gguf'", to="gguf")
    expect_refusal(sources["hf"], tmp_path / "out", ConversionError, "leave it out", to="hf", dense="q8")
