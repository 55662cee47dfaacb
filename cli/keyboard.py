"""The keyboard while an answer is written: Ctrl-C and Ctrl-T are heard, the rest waits for the next prompt."""

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

__all__ = ["Keyboard", "on_interrupt"]

CTRL_T = "\x14"


@contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` on Ctrl-C instead of raising KeyboardInterrupt somewhere in the middle."""
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


class Keyboard:
    """Standard input without echo and line editing, restored afterwards however the stretch ends."""

    def __init__(self) -> None:
        self._typed = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else -1

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Typed characters are neither echoed nor held back until Enter; Ctrl-C still interrupts."""
        if self._descriptor < 0:
            yield
            return
        before = termios.tcgetattr(self._descriptor)
        mode = termios.tcgetattr(self._descriptor)
        # IEXTEN off also keeps macOS from taking Ctrl-T for itself.
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 0, 0
        # Stopped here, Ctrl-Z would leave the shell without a cursor; at the prompt it works.
        mode[6][termios.VSUSP] = bytes([os.fpathconf(self._descriptor, "PC_VDISABLE")])
        termios.tcsetattr(self._descriptor, termios.TCSANOW, mode)
        try:
            yield
            self.toggles()
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, before)

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

    def typed(self) -> str:
        """What was typed ahead, as text for the next prompt; keys that are not text are dropped."""
        text, self._typed = self._typed, ""
        if "\x1b" in text:
            return ""
        text = text.replace("\r", "\n")
        return "".join(character for character in text if character >= " " or character == "\n")
