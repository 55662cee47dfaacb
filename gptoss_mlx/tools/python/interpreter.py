"""The interpreter of a command, started when it is needed: cells go in, bounded output comes out.

Whatever comes from it may be a stranger's: it ran the model's code.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from ...errors import ToolError
from .driver import GREETING, run

__all__ = ["Interpreter", "Output"]

_START_SECONDS: Final = 60.0
"""For the command to start an interpreter; a container may have to be fetched first."""
_INTERRUPT_SECONDS: Final = 5.0
_MAX_FRAME: Final = 8 * 2**20
_KEPT: Final = 2**20
"""Bytes of a cell's output that are kept of its beginning, and of its end."""
_MAX_FIGURES: Final = 16
_MAX_ERRORS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a cell printed, its exception included, and its figures."""

    text: str
    figures: tuple[bytes, ...] = ()


class Interpreter:
    """A Python interpreter that keeps its state from cell to cell. One thread at a time may use it; :meth:`kill`
    may come from any.

    Args:
        command: starts Python; ``-i`` is added, and a driver is sent to its standard input.
        seconds: the most time for a cell.
    """

    def __init__(self, command: Sequence[str], *, seconds: float = 120.0) -> None:
        self._command = [*command, "-i", "-q", "-u"]
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._frames: queue.Queue[tuple[bytes, bytes]] = queue.Queue(maxsize=64)
        self._errors = bytearray()

    def execute(self, code: str) -> Output:
        """Runs a cell.

        Raises:
            ToolError: the command cannot be started. An interpreter that dies is an output.
        """
        process = self._running()
        assert process.stdin is not None
        collected = _Collected()
        note = self._ended(collected) if self._write(process, {"code": code}) else _DIED
        if note:
            collected.add(f"\n{note}\n".encode())
        return Output(text=collected.text, figures=tuple(collected.figures))

    def kill(self) -> None:
        """Ends the interpreter, and what it started; the next cell starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the threads that read close the others
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, started if it does not run."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.kill()
        self._errors = bytearray()
        self._frames = queue.Queue(maxsize=64)
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                # A BLAS that is preloaded for MLX starts threads, and bubblewrap never begins with those.
                env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
            )
        except OSError as error:
            raise ToolError(f"{self._command[0]} cannot be started: {error.strerror or error}") from None
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        _started(_read_frames, process.stdout, self._frames)
        errors = _started(self._read_errors, process.stderr)
        text = f"{inspect.getsource(sys.modules[run.__module__])}\nrun()\n"
        encoded = base64.b64encode(text.encode()).decode()
        self._write_line(process, f"exec(__import__('base64').b64decode('{encoded}').decode())\n")
        if self._next(_START_SECONDS)[0] != b"G":
            self.kill()
            errors.join(_INTERRUPT_SECONDS)  # what it said last may not be read yet
            said = " ".join(bytes(self._errors).decode(errors="replace").replace(">>>", "").split())[-500:]
            raise ToolError(f"{' '.join(self._command[:-3])[:200]} starts no Python: {said or 'it ended'}")
        return process

    def _ended(self, collected: _Collected) -> str:
        """Collects until the cell has ended. Returns what has to be said of how it ended; empty: by itself."""
        deadline, interrupted = time.monotonic() + self._seconds, False
        while True:
            kind, data = self._next(deadline - time.monotonic())
            if kind == b"O":
                collected.add(data)
            elif kind == b"F":
                collected.add_figure(data)
            elif kind == b"E":
                return _TIMED_OUT.format(self._seconds) if interrupted else ""
            elif kind == b"T" and not interrupted:
                deadline, interrupted = time.monotonic() + _INTERRUPT_SECONDS, True
                process = self._process
                if process is None or not self._write(process, {"interrupt": True}):
                    self.kill()
                    return _DIED
            elif kind == b"T":
                self.kill()
                return f"{_TIMED_OUT.format(self._seconds)} {_LOST}"
            else:
                self.kill()
                return _DIED

    def _next(self, seconds: float) -> tuple[bytes, bytes]:
        """The next frame; ``T`` if none comes in time."""
        try:
            return self._frames.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return b"T", b""

    def _write(self, process: subprocess.Popen[bytes], request: dict[str, object]) -> bool:
        """Whether the interpreter took a request."""
        return self._write_line(process, json.dumps(request) + "\n")

    def _write_line(self, process: subprocess.Popen[bytes], line: str) -> bool:
        assert process.stdin is not None
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
        except (OSError, ValueError):
            return False
        return True

    def _read_errors(self, stderr: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), stderr:
            while data := os.read(stderr.fileno(), 4096):
                self._errors += data
                del self._errors[:-_MAX_ERRORS]


_LOST: Final = "The interpreter was ended: variables are lost."
_TIMED_OUT: Final = "[The cell timed out after {} seconds.]"
_DIED: Final = f"[The interpreter died. {_LOST}]"


class _Collected:
    """The output of a cell: its beginning, its end, and how much is missing between them."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._left = 0
        self.figures: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Append output."""
        free = _KEPT - len(self._head)
        self._head += data[:free]
        self._tail += data[max(free, 0) :]
        excess = len(self._tail) - 2 * _KEPT
        if excess > 0:
            del self._tail[: excess + _KEPT]
            self._left += excess + _KEPT

    def add_figure(self, image: bytes) -> None:
        """Append a figure, unless there are too many, or it is none."""
        if len(self.figures) < _MAX_FIGURES and image.startswith(b"\x89PNG\r\n\x1a\n"):
            self.figures.append(image)

    @property
    def text(self) -> str:
        middle = f"\n[… {self._left:,} bytes are left out here …]\n".encode() if self._left else b""
        return bytes(self._head + middle + self._tail).decode(errors="replace")


def _started(function: Callable[..., None], *arguments: Any) -> threading.Thread:
    """A thread that runs a function."""
    thread = threading.Thread(target=function, args=arguments, name="gptoss-python", daemon=True)
    thread.start()
    return thread


def _read_frames(stdout: IO[bytes], frames: queue.Queue[tuple[bytes, bytes]]) -> None:
    """Puts frames into a queue until the stream ends or is none of a driver: ``G`` at first, ``X`` at last."""
    with contextlib.suppress(OSError, ValueError), stdout:
        while (line := stdout.readline(65536)) and line != GREETING:
            pass  # what a command says before the driver runs
        if line:
            frames.put((b"G", b""))
        while line := stdout.readline(64):
            kind, _, length = line.partition(b" ")
            size = int(length)
            if kind not in (b"O", b"F", b"E") or not 0 <= size <= _MAX_FRAME:
                break
            data = stdout.read(size)
            if len(data) < size:
                break
            frames.put((kind, data))
    frames.put((b"X", b""))
