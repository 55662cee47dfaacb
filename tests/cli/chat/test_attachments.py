"""Files that go with a question."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptoss_mlx import errors
from gptoss_mlx.cli.chat.attachments import read_file, with_files
from tests.cli.program import gptoss


def test_only_regular_files_are_opened(home: Path) -> None:
    os.mkfifo(home / "pipe")
    for path, says in (("pipe", "is no regular file"), ("", "is no regular file"), ("no/such", "No such file")):
        done = gptoss("run", "-m", "demo", "-f", str(home / path), "q")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    for text, says in (("/dev/zero", "regular"), ("~nobody-here/x", "no such user"), ("a\0b", "NUL")):
        with pytest.raises(errors.InvalidRequest, match=says):
            read_file(Path(text))


def test_files_cannot_close_their_own_fence(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text("```\n````")
    assert "`````\n```\n````\n`````" in with_files("q", [path])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.InvalidRequest, match="UTF-8"):
        with_files("q", [path])
