"""A person at a terminal, for tests: a program in a pseudo-terminal with pyte as its screen."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped]
import pyte

__all__ = ["CHAT", "FAKE", "Person", "ask", "chats", "start"]

FAKE = [sys.executable, str(Path(__file__).parent / "fake_gptoss.py")]
CHAT = [*FAKE, "chat", "-m", "demo"]


class Person:
    """Types, waits and looks."""

    def __init__(
        self, command: list[str], home: Path, width: int = 80, height: int = 24, env: dict[str, str] | None = None
    ) -> None:
        environ = {**os.environ, "TERM": "xterm-256color", "HOME": str(home), "XDG_DATA_HOME": str(home / "data")}
        environ |= {"XDG_CONFIG_HOME": str(home / "config"), "GPTOSS_DATA": str(home / "models")}
        environ["LC_ALL"] = "C.UTF-8"
        for name in ("NO_COLOR", "COLUMNS", "TMUX", "TERM_PROGRAM", "VTE_VERSION", "GPTOSS_MODEL"):
            environ.pop(name, None)
        environ |= env or {}
        self.screen = pyte.HistoryScreen(width, height, history=100_000, ratio=1)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._text, self._seen = "", -1
        self.child = pexpect.spawn(command[0], command[1:], env=environ, dimensions=(height, width), timeout=30)

    def send(self, text: str) -> None:
        """Press keys."""
        self.child.send(text)

    def enter(self, text: str) -> None:
        """Type a line and press Enter."""
        self.child.send(text)
        time.sleep(0.05)
        self.child.send("\r")

    def look(self, seconds: float = 0.05) -> None:
        """Let what the program writes in the next moments reach the screen."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                data = self.child.read_nonblocking(65536, timeout=left)
            except pexpect.TIMEOUT:
                return
            except pexpect.EOF:
                return
            self.written += data
            self.feed(data)
            if b"\x1b[6n" in data:  # prompt_toolkit asks where the cursor is
                self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")

    def feed(self, data: bytes) -> None:
        """Show what the program wrote."""
        self._stream.feed(data)

    def wait_for(self, text: str, timeout: float = 30) -> float:
        """Wait until the screen or its history shows ``text``; gives the seconds it took."""
        began = time.monotonic()
        while text not in self.text():
            assert time.monotonic() - began < timeout, f"{text!r} did not appear in:\n{self.text()}"
            if not self.child.isalive():
                self.look()  # what it wrote last
                assert text in self.text(), f"the program ended:\n{self.text()}"
            self.look(0.02)
        return time.monotonic() - began

    def wait_for_count(self, text: str, count: int, timeout: float = 30) -> None:
        """Wait until the screen and its history show ``text`` so many times."""
        began = time.monotonic()
        while self.text().count(text) < count:
            assert time.monotonic() - began < timeout, f"{text!r} did not appear {count} times in:\n{self.text()}"
            self.look(0.02)

    def wait_for_prompt(self, timeout: float = 30) -> float:
        """Wait until the cursor stands on a line that begins with the prompt; gives the seconds it took."""
        began = time.monotonic()
        while not self.screen.display[self.screen.cursor.y].startswith("›"):
            assert time.monotonic() - began < timeout, f"no prompt in:\n{self.text()}"
            assert self.child.isalive(), f"the program ended:\n{self.text()}"
            self.look(0.02)
        return time.monotonic() - began

    def lines(self) -> list[str]:
        """Scrollback and screen, without trailing spaces."""
        width = self.screen.columns
        above = [_line_text(line) for line in self.screen.history.top]
        shown = [line[:width] for line in self.screen.display]
        return [line.rstrip() for line in above + shown]

    def text(self) -> str:
        """Scrollback and screen as one text."""
        if self._seen != len(self.written):
            self._text, self._seen = "\n".join(self.lines()), len(self.written)
        return self._text

    def resize(self, width: int, height: int) -> None:
        """Drag the window's edge."""
        self.screen.resize(height, width)
        self.child.setwinsize(height, width)

    def leave(self) -> int:
        """Press Ctrl-D and wait; the exit code."""
        self.child.send("\x04")
        return self.end()

    def end(self) -> int:
        """Wait until the program has ended; the exit code."""
        began = time.monotonic()
        while self.child.isalive():
            assert time.monotonic() - began < 20, f"still running:\n{self.text()}"
            self.look(0.05)
        self.look(0.1)
        self.child.close()
        assert self.child.exitstatus is not None, f"killed by signal {self.child.signalstatus}"
        return int(self.child.exitstatus)


def _line_text(line: Any) -> str:
    return "".join(line[x].data for x in range(max(line, default=-1) + 1))


def start(home: Path, width: int = 80, height: int = 24, **env: str) -> Person:
    """Somebody in front of a chat with the scripted model."""
    person = Person(CHAT, home, width, height, env)
    person.wait_for_prompt()
    return person


def ask(person: Person, question: str) -> None:
    """Ask and wait for the answer's last line."""
    before = person.text().count("tok/s")
    person.enter(question)
    began = time.monotonic()
    while person.text().count("tok/s") == before:
        assert time.monotonic() - began < 60, person.text()
        person.look(0.05)
    person.wait_for_prompt()


def chats(home: Path) -> list[Path]:
    """The saved ones."""
    return sorted((home / "data" / "gptoss" / "chats").glob("*.json"))
