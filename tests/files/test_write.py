"""Saving: completely or not at all, with the right permissions, never through a link."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.errors import FileWriteError, NotEnoughDisk
from gptoss_mlx.files import write as files


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
    before = os.umask(0o026)
    try:
        files.write_text(tmp_path / "text", "")
        files.write_bytes(tmp_path / "bytes", b"")
        with files.atomic_file(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    for name in ("text", "bytes", "file"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_until_it_is_whole_a_file_is_hidden_beside_its_target(tmp_path: Path) -> None:
    with files.atomic_file(tmp_path / "chat.json", private=True):
        (temporary,) = tmp_path.iterdir()  # the same disk, so that the rename is one step
        assert re.fullmatch(r"\.chat\.json\.[a-z0-9_]{8}\.gptoss\.tmp", temporary.name)
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_saving_never_touches_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The umask belongs to the process: a thread that changes it changes it for all."""
    before = os.umask(0o026)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", failing(errno.EPERM))
            files.write_text(tmp_path / "public", "")
        assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o640
    finally:
        os.umask(before)


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
    with pytest.raises(FileWriteError, match="symbolic link"):
        files.private_directory(tmp_path / "link")
    with pytest.raises(FileWriteError):
        files.private_directory(tmp_path / "target")
    for link in ("model", ".model.partial"):
        (tmp_path / link).symlink_to(tmp_path / "directory")
        with pytest.raises(FileWriteError, match="symbolic link"), files.atomic_directory(tmp_path / "model"):
            pytest.fail("the block must not run")
        (tmp_path / link).unlink()


def failing(number: int) -> Callable[..., None]:
    """A call that the system refuses."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.ENOSPC, NotEnoughDisk, "free some"),
        (errno.EDQUOT, NotEnoughDisk, "free some"),
        (errno.EACCES, FileWriteError, "no permission"),
        (errno.EROFS, FileWriteError, "no permission"),
        (errno.ENOENT, FileWriteError, "create it first"),
        (errno.EIO, FileWriteError, os.strerror(errno.EIO)),
    ],
)
def test_an_error_says_what_to_do(
    number: int, kind: type[Exception], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", failing(number))
    with pytest.raises(kind, match=remedy) as caught:
        files.write_text(tmp_path / "chat.json", "new")
    assert str(caught.value).startswith(f"{tmp_path / 'chat.json'}: ")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NotEnoughDisk), (errno.EIO, FileWriteError)])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_when_the_system_refuses_the_old_file_stays(
    call: str, number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.json"
    files.write_text(path, "old")

    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(kind, match=r"chat\.json"):
        files.write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == {"chat.json"}


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str | int]:
    """Records, in order, the inodes that were synced and the names that were renamed to."""
    calls: list[str | int] = []

    def renaming(real: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def rename(old: Any, new: Any) -> None:
            calls.append(Path(new).name)
            real(old, new)

        return rename

    monkeypatch.setattr(sys, "platform", "linux")  # where there is one call for it
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.fstat(descriptor).st_ino))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renaming(getattr(os, name)))
    return calls


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, noted: list[str | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.json"
    sizes: list[int] = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    files.write_text(path, "12345")
    assert sizes[0] == 5  # nothing was left in a buffer
    assert noted == [path.stat().st_ino, "chat.json", tmp_path.stat().st_ino]


def test_so_are_the_names_in_a_directory(tmp_path: Path, noted: list[str | int]) -> None:
    target, parent = tmp_path / "model", tmp_path.stat().st_ino
    for replace in (False, True):
        noted.clear()
        with files.atomic_directory(target, replace=replace):
            pass
        aside = [".model.replaced", parent] if replace else []
        assert noted == [target.stat().st_ino, *aside, "model", parent]


def test_a_mac_is_asked_for_more_than_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    full = 51  # F_FULLFSYNC, which Linux does not have
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("fcntl.F_FULLFSYNC", full, raising=False)
    monkeypatch.setattr(os, "fsync", calls.append)
    monkeypatch.setattr("fcntl.fcntl", lambda *arguments: calls.append(arguments))
    files.sync_descriptor(7)
    assert calls == [(7, full)]
    # Network shares and FAT do not support it.
    for number in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.ENODEV):
        calls.clear()
        monkeypatch.setattr("fcntl.fcntl", failing(number))
        files.sync_descriptor(7)
        assert calls == [7]
    monkeypatch.setattr("fcntl.fcntl", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.sync_descriptor(7)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_directory_that_cannot_be_synced_is_no_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number))
    files.sync_directory(tmp_path)
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    files.sync_directory(tmp_path)
    monkeypatch.setattr(os, "open", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.sync_directory(tmp_path)


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


def test_what_was_built_can_be_kept_and_built_elsewhere(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        files.atomic_directory(tmp_path / "model", staging=tmp_path / "staging", keep_on_error=True) as staging,
    ):
        (staging / "a").write_text("1")
        raise RuntimeError
    assert names_in(tmp_path) == {"staging"}
    with files.atomic_directory(tmp_path / "model", staging=tmp_path / "staging"):
        pass
    assert names_in(tmp_path / "model") == {"a"}


def test_what_an_earlier_replacing_left_goes(tmp_path: Path) -> None:
    for name in ("model", ".model.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("")
    with files.atomic_directory(tmp_path / "model", replace=True):
        pass
    assert names_in(tmp_path) == {"model"}
    assert not names_in(tmp_path / "model")


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


@pytest.mark.parametrize("error", [OSError(errno.EIO, "input/output error"), KeyboardInterrupt()])
def test_between_the_two_renames_the_old_directory_comes_back_too(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("")

    def interrupted(path: Path) -> None:
        if not target.exists():
            raise error

    monkeypatch.setattr(files, "sync_directory", interrupted)
    with pytest.raises((FileWriteError, KeyboardInterrupt)), files.atomic_directory(target, replace=True):
        pass
    assert names_in(target) == {"old"}
    assert names_in(tmp_path) == {"model"}
