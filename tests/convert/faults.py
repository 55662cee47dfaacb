"""Makes the system fail, or the process die, at a chosen moment of a conversion.

The modules that write see the ``os`` module through :class:`FaultyOs`, which counts their calls. As a program it
lets processes convert into PLACE/N/out, one after another, each of which kills itself at the N-th call:

    python -m tests.convert.faults kill SOURCE PLACE N [N ...] [--after] [--force] [--calls NAME ...]

or lets several convert into PLACE/out at once, and prints how each of them ended:

    python -m tests.convert.faults race SOURCE PLACE PROCESSES

All are forks of this process, which never uses MLX itself: starting Python and importing MLX takes a hundred times
as long as such a small conversion.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptoss_mlx.convert import convert_checkpoint, destination, uncached
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.files import write as files
from tests.forks import begin, end_of, in_fork

__all__ = ["CALLS", "FaultyOs", "faulty"]

CALLS = ("write", "fsync", "rename", "replace", "open", "mkdir")


class FaultyOs:
    """The ``os`` module, with a fault at one of the calls that change the disk."""

    def __init__(
        self, at: int | None, happens: Callable[[], None], calls: tuple[str, ...], *, after: bool
    ) -> None:
        self.count = 0
        self._at, self._happens, self._calls, self._after = at, happens, calls, after

    def fdopen(self, descriptor: int, mode: str) -> Any:
        """A file whose writes are counted like the others."""
        if mode != "wb" or "write" not in self._calls:
            return os.fdopen(descriptor, mode)
        return io.BufferedWriter(_Counted(descriptor, self))

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        if name not in self._calls:
            return value

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            mine = self.count
            if mine == self._at and not self._after:
                self._happens()
            result = value(*arguments, **options)
            if mine == self._at and self._after:
                self._happens()
            return result

        return counted


class _Counted(io.RawIOBase):
    """A file that is written through a :class:`FaultyOs`."""

    def __init__(self, descriptor: int, system: FaultyOs) -> None:
        self._descriptor, self._system = descriptor, system

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        written: int = self._system.write(self._descriptor, data)
        return written

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


@contextlib.contextmanager
def faulty(
    at: int | None,
    happens: Callable[[], None],
    calls: tuple[str, ...] = CALLS,
    *,
    after: bool = False,
) -> Iterator[FaultyOs]:
    """Gives the writing modules a faulty ``os``, and a small buffer, so that a small conversion writes often."""
    replaced = FaultyOs(at, happens, calls, after=after)
    modules: tuple[Any, ...] = (files, uncached, destination)
    buffer = uncached._BUFFER_BYTES
    for module in modules:
        module.os = replaced
    uncached._BUFFER_BYTES = 4096
    try:
        yield replaced
    finally:
        for module in modules:
            module.os = os
        uncached._BUFFER_BYTES = buffer


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Prints a line for each process: its exit status and its error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["kill", "race"])
    parser.add_argument("source", type=Path)
    parser.add_argument("place", type=Path)
    parser.add_argument("numbers", type=int, nargs="+")
    parser.add_argument("--after", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--calls", nargs="+", default=CALLS)
    options = parser.parse_args()
    if options.what == "race":
        together = time.monotonic() + 0.2
        children = [begin(lambda: _explained(_race, options, together)) for _ in range(options.numbers[0])]
        for child in children:
            _print_line(f"ended {end_of(child)}")
    for number in options.numbers if options.what == "kill" else ():
        _print_line(f"ended {in_fork(lambda at=number: _explained(_convert_until, options, at))}")  # type: ignore[misc]


def _explained(work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    except GptOssError as error:
        _print_line(str(error))
        raise


def _print_line(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # at once: several processes share the stream


def _race(options: argparse.Namespace, together: float) -> None:
    time.sleep(max(0.0, together - time.monotonic()))
    convert_checkpoint(options.source, options.place / "out", dense="q8")


def _convert_until(options: argparse.Namespace, at: int) -> None:
    place = options.place / str(at)
    place.mkdir(parents=True, exist_ok=True)
    with faulty(at, _die, tuple(options.calls), after=options.after):
        convert_checkpoint(options.source, place / "out", dense="q8", force=options.force)


if __name__ == "__main__":
    main()
