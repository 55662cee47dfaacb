"""Records a session of ``gptoss chat`` with the demo model as an animated SVG, for the README.

    python -m tests.benchmarks.cli_record .github/session.svg

The program runs in a pseudo-terminal, pyte is the screen, and every distinct screen becomes a frame. Where SMIL
animation is not supported the last screen is shown.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from tests.cli.pty_session import Person

WIDTH, HEIGHT = 84, 24
CELL, LINE, MARGIN, BAR = 8.4, 19, 16, 34
LONGEST_PAUSE = 1.2
LAST_FRAME = 4.0

CTRL_T = "\x14"
SCRIPT = (
    ("Hello! Who are you?", 2.0),
    ("Does it run on a Mac with 16 GB?", 2.0),
    ("Compare the two models in a table", 2.0),
    ("/effort high", 0.6),
    ("What is 47+38?", 1.0),
    (CTRL_T, 2.0),
)

COLOURS = {
    "default": "#cdd6f4",
    "red": "#f38ba8",
    "green": "#a6e3a1",
    "brown": "#f9e2af",
    "blue": "#89b4fa",
    "magenta": "#cba6f7",
    "cyan": "#89dceb",
    "brightblack": "#7f849c",
}

Run = tuple[int, str, str]
"""Column, text, style attributes."""


@dataclass
class Recording:
    """Screens and when they were first seen, pauses shortened."""

    frames: list[tuple[float, tuple[tuple[Run, ...], ...]]] = field(default_factory=list)
    clock: float = 0.0
    seen_at: float = field(default_factory=time.monotonic)

    def look(self, person: Person) -> None:
        """Add the screen as it is now, if it changed."""
        screen = tuple(_runs(person, row) for row in range(HEIGHT))
        if self.frames and self.frames[-1][1] == screen:
            return
        now = time.monotonic()
        self.clock += min(now - self.seen_at, LONGEST_PAUSE)
        self.seen_at = now
        self.frames.append((self.clock, screen))


class Dimming(Person):
    """A person whose screen shows dim text in grey: pyte does not know dim."""

    def feed(self, data: bytes) -> None:
        super().feed(re.sub(rb"\x1b\[2(;\d+)*m", b"\x1b[90m", data))


def record(home: Path) -> Recording:
    """Play the script."""
    person = Dimming(
        [sys.executable, "-m", "gptoss_mlx.cli", "chat", "-m", "demo", "--seed", "4"], home, WIDTH, HEIGHT
    )
    recording = Recording()
    person.wait_for("›")
    recording.look(person)
    for line, pause in SCRIPT:
        for character in line if line != CTRL_T else ():
            person.send(character)
            person.look(0.05)
            recording.look(person)
        answered = person.text().count("tok/s")
        person.send(line if line == CTRL_T else "\r")
        began = time.monotonic()
        while time.monotonic() - began < 60:
            person.look(0.05)
            recording.look(person)
            if line.startswith(("/", CTRL_T)) or person.text().count("tok/s") > answered:
                break
        until = time.monotonic() + pause
        while time.monotonic() < until:
            person.look(0.1)
            recording.look(person)
    person.leave()
    return recording


def _runs(person: Person, row: int) -> tuple[Run, ...]:
    """One line of the screen as runs of one style."""
    line = person.screen.buffer[row]
    runs: list[Run] = []
    for column in range(WIDTH):
        character = line[column]
        style = f'fill="{COLOURS.get(character.fg, COLOURS["default"])}"'
        style += ' font-weight="bold"' if character.bold else ""
        style += ' font-style="italic"' if character.italics else ""
        style += ' text-decoration="underline"' if character.underscore else ""
        if runs and runs[-1][2] == style:
            runs[-1] = (runs[-1][0], runs[-1][1] + character.data, style)
        else:
            runs.append((column, character.data, style))
    return tuple((column, text.rstrip(), style) for column, text, style in runs if text.strip())


def draw(recording: Recording) -> str:
    """The recording as one SVG: each line of each screen is there while it is shown."""
    total = recording.clock + LAST_FRAME
    width, height = WIDTH * CELL + 2 * MARGIN, HEIGHT * LINE + MARGIN + BAR
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="ui-monospace,SFMono-Regular,Menlo,monospace" '
        'font-size="14" xml:space="preserve">',
        f'<title>gptoss chat</title><rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#1e1e2e"/>',
        *(
            f'<circle cx="{20 + 18 * number}" cy="17" r="6" fill="{colour}"/>'
            for number, colour in enumerate(("#f38ba8", "#f9e2af", "#a6e3a1"))
        ),
    ]
    for row in range(HEIGHT):
        for begin, end, runs in _intervals(recording, row, total):
            parts.append(_line(row, runs, begin, end, total))
    return "\n".join([*parts, "</svg>", ""])


def _intervals(recording: Recording, row: int, total: float) -> list[tuple[float, float, tuple[Run, ...]]]:
    """When which content stands on a line of the screen."""
    intervals: list[tuple[float, float, tuple[Run, ...]]] = []
    for number, (begin, screen) in enumerate(recording.frames):
        end = recording.frames[number + 1][0] if number + 1 < len(recording.frames) else total
        if intervals and intervals[-1][2] == screen[row]:
            intervals[-1] = (intervals[-1][0], end, screen[row])
        else:
            intervals.append((begin, end, screen[row]))
    return [interval for interval in intervals if interval[2]]


def _line(row: int, runs: tuple[Run, ...], begin: float, end: float, total: float) -> str:
    y = BAR + MARGIN + row * LINE
    texts = "".join(
        f'<text x="{MARGIN + column * CELL:.1f}" y="{y}" textLength="{len(text) * CELL:.1f}" {style}>'
        f"{escape(text)}</text>"
        for column, text, style in runs
    )
    last = end >= total
    times = f"0;{begin / total:.4f}" + ("" if last else f";{end / total:.4f}")
    values = "hidden;visible" + ("" if last else ";hidden")
    animation = (
        f'<animate attributeName="visibility" values="{values}" keyTimes="{times}" calcMode="discrete" '
        f'dur="{total:.2f}s" repeatCount="indefinite"/>'
    )
    return f'<g visibility="{"visible" if last else "hidden"}">{texts}{animation}</g>'


def main() -> None:
    """Record, draw, write."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ".github/session.svg")
    with tempfile.TemporaryDirectory() as home:
        recording = record(Path(home))
    target.write_text(draw(recording), "utf-8")
    print(f"{target}: {len(recording.frames)} frames, {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
