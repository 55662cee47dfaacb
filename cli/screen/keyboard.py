"""The keyboard while no prompt is open: Ctrl-C and Ctrl-T act, other keys wait for the next prompt."""

from __future__ import annotations

import codecs
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Keyboard", "keys_as_sent", "on_interrupt"]

CTRL_T = "\x14"


@contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` on Ctrl-C, instead of raising KeyboardInterrupt anywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        callback()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _changed(descriptor: int, change: Callable[[list[Any]], None]) -> Iterator[None]:
    """Change the terminal's mode, and restore it at the end."""
    before, mode = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    change(mode)
    termios.tcsetattr(descriptor, termios.TCSANOW, mode)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _as_sent(mode: list[Any]) -> None:
    mode[0] &= ~termios.ICRNL
    mode[3] &= ~(termios.ICANON | termios.ECHO)


def _quiet(mode: list[Any]) -> None:
    _as_sent(mode)
    # IEXTEN off also keeps macOS from taking Ctrl-T for itself.
    mode[3] &= ~termios.IEXTEN
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 0, 0
    # Ctrl-Z is off: a process stopped here would leave the shell without a cursor. At the prompt it works.
    mode[6][termios.VSUSP] = bytes([os.fpathconf(sys.stdin.fileno(), "PC_VDISABLE")])


@contextmanager
def keys_as_sent() -> Iterator[None]:
    """Between prompts, keep typed keys for the next prompt as the keyboard sent them.

    A terminal would turn the carriage return of Enter into a line feed, which is the key Ctrl-J.
    """
    with _changed(sys.stdin.fileno(), _as_sent):
        yield


class Keyboard:
    """Standard input without echo and line editing, and the keys typed there."""

    def __init__(self) -> None:
        self._typed = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else -1

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Typed characters are not echoed, and are available before Enter; Ctrl-C still interrupts."""
        if self._descriptor < 0:
            yield
            return
        with _changed(self._descriptor, _quiet):
            try:
                yield
            finally:
                self.toggles()

    def toggles(self) -> int:
        """How often Ctrl-T was pressed since the last call."""
        if self._descriptor < 0:
            return 0
        while select.select([self._descriptor], [], [], 0)[0]:
            data = os.read(self._descriptor, 4096)
            if not data:
                break
            self._typed += self._decoder.decode(data)
        count = self._typed.count(CTRL_T)
        self._typed = self._typed.replace(CTRL_T, "")
        return count

    def stops(self) -> bool:
        """Whether ``/stop`` was typed, as a line of its own, among the keys that were read."""
        before, found, after = f"\r{self._typed}".partition("\r/stop\r")
        if found:
            self._typed = f"{before}\r{after}"[1:]
        return bool(found)

    def typed(self) -> str:
        """The keys typed ahead, as the terminal sent them: Enter is a carriage return."""
        typed, self._typed = self._typed, ""
        return typed
