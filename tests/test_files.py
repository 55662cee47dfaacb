"""Saving: whole or not at all, for the right eyes, never through a link."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx import files
from gptoss_mlx.errors import FileWriteError, NotEnoughDisk


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    files.write_text(path, "old")
    files.write_text(path, "new ∑")
    assert path.read_text(encoding="utf-8") == "new ∑"
    assert names_in(tmp_path) == {"chat.json"}


def test_private_files_are_their_owners_alone(tmp_path: Path) -> None:
    files.write_text(tmp_path / "private", "", private=True)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "public", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o640


def test_private_directories_are_their_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    for name in ("open", "new/inner"):
        directory = files.private_directory(tmp_path / name)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_an_error_in_the_block_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    files.write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names_in(tmp_path) == {"chat.json"}


def test_links_and_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "directory").mkdir()
    with pytest.raises(FileWriteError, match="symbolic link"):
        files.write_text(tmp_path / "link", "new")
    with pytest.raises(FileWriteError, match="is a directory"):
        files.write_text(tmp_path / "directory", "new")
    with pytest.raises(FileWriteError, match="does not exist"):
        files.write_text(tmp_path / "missing" / "file", "new")
    assert (tmp_path / "target").read_text() == "old"


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NotEnoughDisk), (errno.EIO, FileWriteError)])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_when_the_system_refuses_the_old_file_stays(
    call: str, number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.json"
    files.write_text(path, "old")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(kind, match=r"chat\.json"):
        files.write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == {"chat.json"}


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with files.atomic_directory(target) as staging:
        (staging / "a").write_text("1")
        assert not target.exists()
    assert names_in(target) == {"a"}
    assert names_in(tmp_path) == {"model"}


def test_a_directory_is_replaced_only_on_purpose(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("")
    with pytest.raises(FileWriteError, match="exists"), files.atomic_directory(target):
        pytest.fail("the block must not run")
    with files.atomic_directory(target, replace=True) as staging:
        (staging / "new").write_text("")
    assert names_in(target) == {"new"}
    assert names_in(tmp_path) == {"model"}


def test_an_error_leaves_the_old_directory_and_no_partial_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("")
    with pytest.raises(RuntimeError), files.atomic_directory(target, replace=True) as staging:
        (staging / "new").write_text("")
        raise RuntimeError
    assert names_in(target) == {"old"}
    assert names_in(tmp_path) == {"model"}


def test_a_failed_rename_puts_the_old_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rename = tmp_path / "model", os.rename
    target.mkdir()
    (target / "old").write_text("")

    def refuse_the_second(source: Any, destination: Any) -> None:
        if ".partial" in str(source):
            raise OSError(errno.EIO, "input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", refuse_the_second)
    with pytest.raises(FileWriteError), files.atomic_directory(target, replace=True):
        pass
    assert names_in(target) == {"old"}
