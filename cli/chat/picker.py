"""A list to choose from with the arrow keys, narrowed by typing; it disappears when the choice is made.

Knows nothing of chats: an entry is a title, a few facts beside it, and a text that is searched too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.output.color_depth import ColorDepth
from rich.cells import cell_len

from ...errors import GptOssError
from ..screen.spans import BOLD, CYAN, DIM, YELLOW, Row, Span, row_width, shorten, visible

__all__ = ["Entry", "matching", "pick", "picker_rows"]

_MOST_ROWS = 12
_NARROWEST_TITLE = 24
_AROUND = 30
"""Characters shown before a match in the text."""
_STYLES = {DIM: "ansibrightblack", CYAN: "ansicyan bold", YELLOW: "ansiyellow", BOLD: "bold"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing to choose."""

    title: str
    facts: tuple[str, ...] = ()
    """Short texts beside the title; in a narrow window the last ones are left out."""
    text: str = ""
    """Searched as well as the title."""


def matching(entries: Sequence[Entry], query: str) -> list[int]:
    """Positions of the entries that contain every word of ``query``, those with all of them in the title first."""
    words = query.lower().split()
    by_title: list[int] = []
    by_text: list[int] = []
    for position, entry in enumerate(entries):
        title = " ".join((entry.title, *entry.facts)).lower()
        missing = [word for word in words if word not in title]
        if not missing:
            by_title.append(position)
        elif all(word in entry.text.lower() for word in missing):
            by_text.append(position)
    return by_title + by_text


def pick(entries: Sequence[Entry], query: str = "", delete: Callable[[int], None] | None = None) -> int | None:
    """The position of the entry that the user chooses; None if none was chosen.

    Args:
        query: the words that are typed already.
        delete: deletes the entry of a position, after Ctrl-D was pressed twice; None: nothing can be deleted.

    Raises:
        GptOssError: deleting failed.
    """
    return _Picker(entries, query, delete).run()


def picker_rows(
    entries: Sequence[Entry], found: Sequence[int], selected: int, query: str, width: int
) -> list[Row]:
    """One row for each found entry: its title, with the words of ``query`` marked, and the facts that fit.

    Args:
        selected: the place in ``found`` of the entry that Enter takes.
        width: cells of each row, exactly.
    """
    facts = [[_one_line(fact) for fact in entry.facts] for entry in entries]
    columns = [max(map(cell_len, column)) for column in zip(*facts, strict=True)]
    while columns and width - 2 - sum(columns) - 2 * len(columns) < _NARROWEST_TITLE:
        columns.pop()
    room = max(width - 2 - sum(columns) - 2 * len(columns), 1)
    rows: list[Row] = []
    for place, position in enumerate(found):
        chosen = place == selected
        title = shorten(_marked(_one_line(entries[position].title), query, CYAN if chosen else ""), room)
        gap = Span(" " * (room - row_width(title)))
        beside = zip(facts[position], columns, strict=False)
        cells = "".join(f"{' ' * (2 + column - cell_len(fact))}{fact}" for fact, column in beside)
        rows.append((Span("❯ " if chosen else "  ", CYAN), *title, gap, Span(cells, DIM)))
    return rows


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())


def _marked(text: str, query: str, style: str) -> Row:
    """``text`` with the words of ``query`` in another colour."""
    words = "|".join(map(re.escape, sorted(query.split(), key=len, reverse=True)))
    if not words:
        return (Span(text, style),)
    parts = re.split(f"({words})", text, flags=re.IGNORECASE)
    return tuple(Span(part, YELLOW if number % 2 else style) for number, part in enumerate(parts) if part)


def _passage(entry: Entry, query: str, width: int) -> Row:
    """The place in the entry's text where the first word stands that its title lacks; else how the text ends."""
    text = _one_line(entry.text)
    missing = [word for word in query.lower().split() if word not in entry.title.lower()]
    at = text.lower().find(missing[0]) if missing else -1
    begin = max(at - min(_AROUND, width // 3), 0) if at >= 0 else max(len(text) - width + 8, 0)
    if begin:  # at a word
        begin = max(text.find(" ", begin, at if at >= 0 else None) + 1, begin)
    row = _marked(text[begin : begin + width], query, DIM)
    return shorten((Span("…" if begin else "", DIM), *row), width)


class _Picker:
    """The state of one choice, and its keys."""

    def __init__(self, entries: Sequence[Entry], query: str, delete: Callable[[int], None] | None) -> None:
        self._entries = list(entries)
        self._positions = list(range(len(entries)))
        """Of the remaining entries, in the caller's list."""
        self._delete = delete
        self._selected = 0
        self._deleting = False
        """Whether Ctrl-D was just pressed for the first time."""
        self._words = Buffer(document=Document(query), multiline=False, on_text_changed=lambda _: self._search())
        prompt = BeforeInput("› ", style=_STYLES[CYAN])
        windows = [
            Window(BufferControl(self._words, input_processors=[prompt]), height=1),
            Window(FormattedTextControl(self._list), height=lambda: self._height, wrap_lines=False),
            Window(FormattedTextControl(self._below), height=2, wrap_lines=False),
        ]
        self._app: Application[int | None] = Application(
            layout=Layout(HSplit(windows)),
            key_bindings=self._bindings(),
            erase_when_done=True,
            color_depth=ColorDepth.MONOCHROME if os.environ.get("NO_COLOR") else None,
        )
        self._app.ttimeoutlen = 0.05  # how long Escape waits for the rest of another key

        self._search()

    def run(self) -> int | None:
        return self._app.run()

    @property
    def _height(self) -> int:
        return max(min(len(self._entries), _MOST_ROWS, self._app.output.get_size().rows - 5), 1)

    @property
    def _width(self) -> int:
        return max(self._app.output.get_size().columns - 1, 10)

    def _list(self) -> StyleAndTextTuples:
        found, height = self._found, self._height
        first = max(min(self._selected - height // 2, len(found) - height), 0)
        shown = found[first : first + height]
        rows = picker_rows(self._entries, shown, self._selected - first, self._words.text, self._width)
        return _fragments(rows or [(Span("  nothing matches; Backspace takes a letter back", DIM),)])

    def _below(self) -> StyleAndTextTuples:
        """The passage that matches in the selected entry, and the keys."""
        found, width = self._found, self._width
        entry = self._entries[found[self._selected]] if found else Entry(title="")
        passage = (Span("  "), *_passage(entry, self._words.text, width - 2))
        if self._deleting:
            keys = Span(f"Ctrl-D again deletes “{entry.title}” for good; any other key keeps it", YELLOW)
        else:
            parts = [f"{len(found)} of {len(self._entries)}", "Enter opens", "Esc leaves"]
            parts += ["Ctrl-D deletes"] if self._delete is not None else []
            while len(" · ".join(parts)) > width - 2 and len(parts) > 1:
                parts.pop()
            keys = Span(" · ".join(parts), DIM)
        return _fragments([passage, shorten((Span("  "), keys), width)])

    def _search(self) -> None:
        self._found = matching(self._entries, self._words.text)
        self._move_to(0)

    def _move_to(self, place: int) -> None:
        self._selected = max(min(place, len(self._found) - 1), 0)
        self._deleting = False

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        steps = {"up": -1, "c-p": -1, "down": 1, "c-n": 1, "pageup": -_MOST_ROWS, "pagedown": _MOST_ROWS}
        for key, step in steps.items():

            @bindings.add(key)
            def _step(event: KeyPressEvent, step: int = step) -> None:
                self._move_to(self._selected + step)

        @bindings.add("enter")
        def _take(event: KeyPressEvent) -> None:
            if found := self._found:
                event.app.exit(result=self._positions[found[self._selected]])

        @bindings.add("c-c")
        @bindings.add("escape", eager=True)
        def _leave(event: KeyPressEvent) -> None:
            if self._deleting:
                self._deleting = False
            else:
                event.app.exit(result=None)

        @bindings.add("c-d")
        def _remove(event: KeyPressEvent) -> None:
            found = self._found
            if self._delete is None or not found:
                return
            if not self._deleting:
                self._deleting = True
                return
            place = found[self._selected]
            try:
                self._delete(self._positions[place])
            except GptOssError as error:
                event.app.exit(exception=error)
                return
            del self._entries[place], self._positions[place]
            selected = self._selected
            self._search()
            self._move_to(selected)
            if not self._entries:
                event.app.exit(result=None)

        return bindings


def _fragments(rows: Sequence[Row]) -> StyleAndTextTuples:
    """Rows as prompt_toolkit has them."""
    fragments: StyleAndTextTuples = []
    for number, row in enumerate(rows):
        fragments.append(("", "\n" if number else ""))
        fragments += [(_STYLES.get(span.style, ""), span.text) for span in row]
    return fragments
