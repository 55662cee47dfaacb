"""Files that go with a question."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptoss_mlx import errors
from gptoss_mlx.cli.chat.attachments import read_file, split_files, with_files
from tests.cli.program import gptoss


def test_only_regular_files_are_opened(home: Path) -> None:
    os.mkfifo(home / "pipe")
    for path, says in (
        ("pipe", "is not a regular file"),
        ("", "is not a regular file"),
        ("no/such", "No such file"),
    ):
        done = gptoss("run", "-m", "demo", "-f", str(home / path), "q")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    for text, says in (("/dev/zero", "regular"), ("~nobody-here/x", "no such user"), ("a\0b", "NUL")):
        with pytest.raises(errors.InvalidRequest, match=says):
            read_file(Path(text))


def test_files_cannot_close_their_own_fence(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text("```\n````")
    assert "`````\n```\n````\n`````" in with_files("q", [read_file(path)])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.InvalidRequest, match="UTF-8"):
        read_file(path)


def test_files_and_question_are_found_again_in_the_text_that_was_sent(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\n\n```\ntwo\n")
    (tmp_path / "b").write_text("")
    files = [read_file(tmp_path / name) for name in ("a.py", "b")]
    assert [file.summary for file in files] == ["[a.py · 4 lines]", "[b · 1 line]"]
    for question in ("why?", "```\ncode\n```\n\nFile x:", ""):
        found, rest = split_files(with_files(question, files))
        assert [(file.name, file.text) for file in found] == [(file.name, file.text) for file in files]
        assert rest == question
    assert split_files("File x:\n\n```\nnever closed") == ([], "File x:\n\n```\nnever closed")


def test_a_name_that_is_not_utf8_can_be_sent(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("content")
    assert with_files("q", [read_file(path)]) == "File caf?.txt:\n\n```\ncontent\n```\n\nq"
