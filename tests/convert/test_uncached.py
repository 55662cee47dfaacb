"""Files written past the cache have the right content, wherever sectors and buffers end."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.convert import uncached
from gptoss_mlx.convert.uncached import UncachedFile

BUFFER = uncached._BUFFER_BYTES
SECTOR = 512


class System:
    """The ``os`` module with another ``write``."""

    def __init__(self, write: Any) -> None:
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@pytest.fixture
def content() -> bytes:
    return random.Random(0).randbytes(2 * BUFFER + 3 * SECTOR + 17)


def written(path: Path, parts: Iterator[bytes] | list[bytes]) -> bytes:
    file = UncachedFile(path)
    try:
        for part in parts:
            file.write(memoryview(part))
        file.finish()
    finally:
        file.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    "size", [0, 1, SECTOR - 1, SECTOR, SECTOR + 1, BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER, 2 * BUFFER + SECTOR]
)
def test_files_of_any_size(size: int, content: bytes, tmp_path: Path) -> None:
    assert written(tmp_path / "file", [content[:size]]) == content[:size]


def test_parts_of_any_size(content: bytes, tmp_path: Path) -> None:
    rng = random.Random(1)

    def parts() -> Iterator[bytes]:
        begin = 0
        while begin < len(content):
            end = begin + rng.choice([0, 1, 7, SECTOR, 65_536, BUFFER, BUFFER + 1])
            yield content[begin:end]
            begin = end

    assert written(tmp_path / "file", parts()) == content


@pytest.mark.parametrize("most", [1_000_000, BUFFER // 2])
def test_a_write_that_takes_only_a_part_is_continued(
    most: int, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncached, "os", System(lambda descriptor, view: os.write(descriptor, view[:most])))
    assert written(tmp_path / "file", [content]) == content


def test_a_filesystem_that_refuses_it_only_when_written_to(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0

    def write(descriptor: int, view: memoryview) -> int:
        nonlocal refused
        if file._direct:
            refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return os.write(descriptor, view)

    monkeypatch.setattr(uncached, "os", System(write))
    file = UncachedFile(tmp_path / "file")
    direct = file._direct
    file.write(memoryview(content))
    file.finish()
    file.close()
    assert refused == direct
    assert (tmp_path / "file").read_bytes() == content


def test_a_filesystem_without_it(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncached, "_leave_cache", lambda descriptor: False)
    assert written(tmp_path / "file", [content]) == content


def test_any_other_refusal_is_an_error(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(descriptor: int, view: memoryview) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(uncached, "os", System(write))
    with pytest.raises(OSError, match="Input/output"):
        written(tmp_path / "file", [content])


def test_a_disk_that_takes_nothing_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncached, "os", System(lambda descriptor, view: 0))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        written(tmp_path / "file", [b"x"])


def test_without_memory_for_a_buffer_no_file_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="Cannot allocate"):
        UncachedFile(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_second_interruption_closes_no_file_under_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(**options: bool) -> None:
        raise KeyboardInterrupt

    file = UncachedFile(tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setattr(file._thread, "shutdown", interrupt)
        with pytest.raises(KeyboardInterrupt), closing(file):
            raise KeyboardInterrupt
    os.fstat(file._descriptor)
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file._descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux tells what its cache holds")
def test_the_cache_holds_none_of_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = UncachedFile(path)
    if not file._direct:
        pytest.skip("this filesystem writes through the cache only")
    file.write(memoryview(content))
    file._settle()
    with path.open("rb") as reader:
        assert resident(reader.fileno(), 2 * BUFFER) == 0
        assert reader.read() == content[: 2 * BUFFER]
        assert resident(reader.fileno(), 2 * BUFFER) > 0
    file.finish()
    file.close()


def resident(descriptor: int, size: int) -> int:
    """The number of a file's pages in the cache, from mincore(2)."""
    with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
        states = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), states) == 0
    return sum(state & 1 for state in states)
