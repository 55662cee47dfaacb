"""Whatever fails or dies while something is saved: the old content or the new one, never a part of it.

``tests/convert/test_safety.py`` does the same to conversions; the long run of both, with every call failing and
every kill, is ``tests/benchmarks/trust_faults.py``.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gptoss_mlx
from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.errors import FileWriteError, GptOssError, NotEnoughDisk
from gptoss_mlx.files import write as files
from gptoss_mlx.harmony import Message
from tests import ROOT
from tests.files.faults import NEW, OLD, Save
from tests.hub.fake_hub import serving
from tests.hub.faults import FAULTS, SURVIVED, Downloads, die, fail

CHAT = chatfile.ChatContent(messages=(Message.user("new" * 10_000),))


@pytest.fixture
def chat(tmp_path: Path) -> Save:
    """A chat that is saved over a shorter one."""
    path = tmp_path / "chat.json"
    short = chatfile.ChatContent(messages=(Message.user("old"),))
    return Save(path, lambda: chatfile.write(path, short), lambda: chatfile.write(path, CHAT))


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NotEnoughDisk), (errno.EIO, FileWriteError)])
def test_an_error_at_any_call_leaves_the_old_chat_or_the_new_one(
    number: int, kind: type[GptOssError], chat: Save
) -> None:
    outcomes = list(chat.failures(fail(number), kind))
    # Only the sync of the directory comes after the rename: it is opened and synced.
    assert outcomes == [OLD] * (len(outcomes) - 2) + [NEW] * 2
    assert len(outcomes) >= 5


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_call_leaves_the_old_chat_or_the_new_one(after: bool, chat: Save) -> None:
    outcomes = list(chat.kills(after=after))
    assert outcomes == sorted(outcomes, reverse=True)
    assert set(outcomes) == {OLD, NEW}
    assert len(outcomes) >= 5


def test_prompt_caches_are_saved_as_safely() -> None:
    """In a process of its own: forks of one that has used MLX cannot use it."""
    command = [sys.executable, "-m", "tests.benchmarks.trust_faults", "prompt-caches"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for fault in ("ENOSPC", "EIO", "EROFS", "killed"):
        for which in (OLD, NEW):
            assert f"{fault}: {which}" in ended.stdout


def leftover(directory: Path, name: str = ".chat.json.abcd1234.gptoss.tmp") -> Path:
    path = directory / name
    path.write_text("half")
    return path


def test_a_temporary_file_that_somebody_writes_is_no_leftover(tmp_path: Path) -> None:
    with files.atomic_file(tmp_path / "chat.json") as first:
        first.write(b"first")
        files.write_text(tmp_path / "chat.json", "second")
        files.write_text(tmp_path / "other.json", "other")
    assert (tmp_path / "chat.json").read_text() == "first"
    assert {left.name for left in tmp_path.iterdir()} == {"chat.json", "other.json"}


def test_saving_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        leftover(tmp_path)
        os.mkfifo(tmp_path / ".fifo.abcd1234.gptoss.tmp")
        files.write_text(tmp_path / "chat.json", "new")
        files.private_file(tmp_path / "history")
        files.sync_directory(tmp_path)
        (tmp_path / ".fifo.abcd1234.gptoss.tmp").unlink()
    assert len(os.listdir("/dev/fd")) == before


def test_only_own_leftovers_are_removed(tmp_path: Path) -> None:
    kept = [
        ".chat.json.abcd1234.tmp",
        ".chat.json.gptoss.tmp",
        "chat.json.abcd1234.gptoss.tmp",
        ".x.ABCD1234.gptoss.tmp",
    ]
    for name in kept:
        leftover(tmp_path, name)
    (tmp_path / "target").write_text("precious")
    (tmp_path / ".link.abcd1234.gptoss.tmp").symlink_to(tmp_path / "target")
    (tmp_path / ".directory.abcd1234.gptoss.tmp").mkdir()
    os.mkfifo(tmp_path / ".fifo.abcd1234.gptoss.tmp")
    before = {path.name for path in tmp_path.iterdir()}
    gone = leftover(tmp_path)
    files.write_text(tmp_path / "chat.json", "")
    assert not gone.exists()
    assert {path.name for path in tmp_path.iterdir()} == before | {"chat.json"}
    assert (tmp_path / "target").read_text() == "precious"


def test_without_locks_nothing_is_taken_for_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    kept = leftover(tmp_path)
    files.write_text(tmp_path / "chat.json", "new")
    assert kept.exists()
    assert (tmp_path / "chat.json").read_text() == "new"


@pytest.mark.parametrize("how", ["locked", "removed"])
def test_a_temporary_file_taken_for_a_leftover_is_replaced(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking, another process may have locked it, or removed it already."""
    make = os.open
    thefts: list[str] = []

    def stolen(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = make(path, flags, mode)
        if flags & os.O_EXCL and not thefts:
            thefts.append(path.name)
            if how == "removed":
                os.unlink(path)
            else:
                fcntl.flock(make(path, os.O_RDONLY), fcntl.LOCK_EX)
        return descriptor

    monkeypatch.setattr(os, "open", stolen)
    files.write_text(tmp_path / "chat.json", "new")
    assert (tmp_path / "chat.json").read_text() == "new"
    assert [left.name for left in tmp_path.iterdir()] == ["chat.json"]
    assert len(thefts) == 1


def test_a_file_to_append_to_is_its_owners_alone_and_never_behind_a_link(tmp_path: Path) -> None:
    made = files.private_file(tmp_path / "history")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    made.write_text("kept")
    made.chmod(0o644)
    assert files.private_file(made).read_text() == "kept"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(made)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "missing/history"):
        with pytest.raises(FileWriteError):
            files.private_file(tmp_path / name)


def test_a_fifo_that_somebody_reads_is_no_private_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "history", 0o644)
    reader = os.open(tmp_path / "history", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(FileWriteError, match="is not a regular file"):
            files.private_file(tmp_path / "history")
    finally:
        os.close(reader)
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o644


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_that_is_cut_short_is_found_whole_or_not_at_all(fault: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (source / name).write_bytes(name.encode() * 1000)
    expected = {path.name: path.read_bytes() for path in source.iterdir()}
    with serving("someone/model", source) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "")  # and what it was, afterwards
        downloads = Downloads("someone/model", hub.url, tmp_path / "cache", expected)
        for at in (3, 9, 21):  # each of some sixty moments: in the long run
            assert downloads.attempt(at, FAULTS[fault]) in (-signal.SIGKILL, 1, SURVIVED)
            assert downloads.state() in ("nothing", "everything")
            shutil.rmtree(tmp_path / "cache")
        assert downloads.attempt(None, die) == 0
        assert downloads.state() == "everything"


# Who may change the disk.

WRITES = re.compile(
    r"(?:os|shutil)\.(?:write|fsync|fdatasync|rename|replace|renames|mkdir|makedirs|unlink|remove|rmdir|rmtree|"
    r"move|copy\w*|link|symlink|truncate|chmod)|os\.open|tempfile\.\w+|.*\.(?:write_text|write_bytes|touch|mkdir|"
    r"unlink|rmdir|rename|symlink_to|hardlink_to)|(?:mx|np|numpy|torch)\.save\w*|(?:.*\.)?save_(?:file|safetensors|gguf)|json\.dump|"
    r"FileHistory"
)
ALLOWED = {
    # Into the file that atomic_file opened.
    "cache/file.py": {"mx.save_safetensors"},
    # What a measurement needs meanwhile, and nobody else reads.
    "benchmark/kernels.py": {"tempfile.TemporaryDirectory"},
    "cli/bench.py": {"tempfile.TemporaryDirectory"},
    # The one writer itself.
    "files/write.py": None,
    # What reads: os.open, read-only.
    "files/read.py": {"os.open"},
    "convert/readers.py": {"os.open"},
    # A conversion streams its shards into a staging directory of files.atomic_directory, and syncs them.
    "convert/uncached.py": {"os.open", "os.write"},
    # Without a name, gone when it is closed.
    "convert/compare.py": {"tempfile.TemporaryFile"},
    # A sample of 64 MB, deleted at once, measures the disk.
    "convert/destination.py": {"target.parent.mkdir", "path.unlink", "tempfile.TemporaryDirectory"},
    # The Hub's own cache: a directory for files.write_text.
    "hub/downloads.py": {"reference.parent.mkdir", "write_text"},
    # An empty marker whose time is what it says.
    "hub/models.py": {"marker.parent.mkdir", "marker.touch", "_marker(name).unlink"},
    # Runs in the interpreter of the user's choice: its pipes, and an empty input for the model's code.
    "tools/python/driver.py": {"os.fdopen", "os.open", "os.write"},
    # Old results of tools, beyond what is kept.
    "tools/limit.py": {"path.unlink"},
    # Deleting a model or a chat, when asked to.
    "cli/models.py": {"shutil.rmtree"},
    "cli/chat/saved.py": {"path.unlink"},
    # The directory of the settings file, for files.write_text.
    "cli/settings.py": {"path.parent.mkdir"},
    # What was typed, appended to a file that files.private_file made; output to a closed pipe goes nowhere.
    "cli/chat/input.py": {"path.parent.mkdir", "FileHistory"},
    "cli/errors.py": {"os.open"},
    # Nowhere: a panic of tiktoken is an error, and its text is discarded.
    "tokenizer.py": {"os.open"},
    # A checkpoint that `doctor --full` makes and reads.
    "cli/doctor.py": {"tempfile.TemporaryDirectory"},
}


def calls_that_write(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        mode = next((ast.unparse(argument) for argument in node.args[-1:]), "")
        if WRITES.fullmatch(called) or (called.endswith("open") and re.fullmatch(r"'[rbt+]*[wax+][rbt+]*'", mode)):
            found.add(called)
    return found


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """What users run: all but the demo's training."""
    # cli and convert are links, which rglob does not follow.
    for path in [*package.rglob("*.py"), *(package / "cli").rglob("*.py"), *(package / "convert").rglob("*.py")]:
        name = str(path.relative_to(package))
        if not name.startswith("demo/"):
            yield name, path


def test_everything_that_saves_goes_through_the_one_writer() -> None:
    offenders = {}
    for name, path in modules(Path(gptoss_mlx.__file__).parent):
        allowed = ALLOWED.get(name, set())
        if allowed is not None:
            writes = calls_that_write(path) - {
                "write_text",
                "write_bytes",
                "write.write_text",
                "write.write_bytes",
            }
            if writes - allowed:
                offenders[name] = writes - allowed
    assert not offenders


# Who reads what a stranger may have written.

READS = re.compile(r"open|.*\.(?:read_bytes|read_text|open)|(?:mx|np|numpy)\.load|tarfile\..*|zipfile\..*")
READERS = {
    # After checkpoint.py read and checked the file's header.
    "cache/file.py": {"path.open", "mx.load"},
    "model/weights.py": {"mx.load"},
    # A method of a parser.
    "cli/screen/markdown.py": {"self._parser.open"},
    # What the package brings with it, and what MLX wrote a moment ago.
    "benchmark/conversation.py": {"resources.files(__package__).joinpath('chat.json').read_text"},
    "benchmark/kernels.py": {"path.read_text"},
    # Reads the end of a file of ours, checked before, to append to it.
    "files/write.py": {"file.open"},
    # The tags of an installed wheel.
    "cli/mac.py": {"metadata.distribution('mlx-metal').read_text"},
}
# Methods of our own of that name open no file.
OWN = {"Checkpoint.open", "os.open", "self._open"}


def calls_that_read(path: Path) -> set[str]:
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    }
    return {called for called in calls if READS.fullmatch(called)} - OWN


def test_everything_that_reads_goes_through_the_one_reader() -> None:
    package = Path(gptoss_mlx.__file__).parent
    found = {name: calls_that_read(path) for name, path in modules(package) if name != "files/read.py"}
    assert {name: calls for name, calls in found.items() if calls} == READERS
