"""Styled text as plain data: spans and rows of spans, wrapped to a width, hidden characters shown as symbols.

A row never contains a newline. Widths are terminal cells. Knows nothing of terminals or Markdown.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rich.cells import cell_len, split_graphemes

__all__ = [
    "BLUE",
    "BOLD",
    "CYAN",
    "DIM",
    "GREEN",
    "ITALIC",
    "MAGENTA",
    "RED",
    "STRIKE",
    "UNDERLINE",
    "YELLOW",
    "Row",
    "Span",
    "Wrapped",
    "clip",
    "cut",
    "plain",
    "row_width",
    "shorten",
    "visible",
    "wrap",
]

# SGR parameters. The sixteen palette colours follow the user's theme; nothing here assumes a background.
BOLD, DIM, ITALIC, UNDERLINE, STRIKE = "1", "2", "3", "4", "9"
RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = "31", "32", "33", "34", "35", "36"

# The parts a line may be broken between: newlines, spaces, single ideographs with the punctuation that must not
# start a line, and words.
_IDEOGRAPH = "\u2e80-\u3000\u3003-\u3007\u3012-\u303f\u3040-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff02-\uff07"
_CLOSING = "、。〃〉》」』】〕〗！），．：；？｝"
_ATOM = rf"\n| +|[{_IDEOGRAPH}][{_CLOSING}]*|[^ \n{_IDEOGRAPH}]+"


# C0, DEL and C1 controls; the soft hyphen; bidirectional marks, embeddings, overrides and isolates; the zero-width
# space and fillers that look like one; line and paragraph separators; joiners and variation selectors; deprecated
# and interlinear format characters; the byte order mark; surrogates; tags.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_EMOJI = "\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff"
_JOINED_SCRIPTS = (
    "\u0600-\u061b\u061d-\u109f\u1780-\u180d\u180f-\u18af\u1b00-\u1c7f\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00011fff"
)
# A joiner is kept between emoji, and between letters of scripts whose spelling needs it; a variation selector,
# after a character that it may vary.
_JOINER = re.compile(
    f"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}]|\\Z)|(?<=[{_JOINED_SCRIPTS}])[\u200c\u200d](?=[{_JOINED_SCRIPTS}]|\\Z)"
    f"|(?<=[^\\s\u200c\u200d\ufe00-\ufe0f])[\ufe00-\ufe0f]"
)


class Span(NamedTuple):
    """A piece of text in one style. ``style`` holds SGR parameters such as ``"1;36"``; empty is plain."""

    text: str
    style: str = ""


Row = tuple[Span, ...]


class Wrapped(NamedTuple):
    """One wrapped row, and where in the unwrapped text the next row starts."""

    row: Row
    end: int


def visible(text: str, before: str = "") -> str:
    """``text`` with every control, reordering or invisible format character shown as a symbol.

    Newlines and tabs stay, and so do joiners and variation selectors where they belong.

    Args:
        before: the text that precedes it: pieces of a text give pieces of the result.
    """
    if _HIDDEN.search(text) is None:
        return text
    before = before[-1:]
    shown = _HIDDEN.sub(lambda match: _symbol(match) if match.start() >= len(before) else before, before + text)
    return shown[len(before) :]


def _symbol(match: re.Match[str]) -> str:
    if _JOINER.match(match.string, match.start()):
        return match.group()
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return f"<U+{code:04X}>"


def plain(spans: Iterable[Span]) -> str:
    """The text of ``spans`` without styles."""
    return "".join(span.text for span in spans)


def row_width(row: Iterable[Span]) -> int:
    """Terminal cells that ``row`` takes."""
    return sum(cell_len(span.text) for span in row)


def wrap(spans: Iterable[Span], width: int) -> list[Wrapped]:
    """Break ``spans`` into rows of at most ``width`` cells.

    Greedy, and so stable: text appended later changes no row but the last. Spaces at the start of a line stay
    where its first word fits beside them. A word wider than a row is cut between graphemes.
    """
    spans = [span for span in spans if span.text]
    text = plain(spans)
    width = max(width, 1)
    rows: list[Wrapped] = []
    for begin, end, following in _breaks(text, width):
        rows.append(Wrapped(cut(spans, begin, end), following))
    return rows


def clip(row: Row, width: int) -> Row:
    """``row`` cut to ``width`` cells."""
    if row_width(row) <= width:
        return row
    wrapped = wrap((Span(plain(row).replace(" ", "\u00a0")),), width)
    return cut(row, 0, wrapped[0].end if wrapped else 0)


def shorten(row: Row, width: int) -> Row:
    """``row`` cut to ``width`` cells, with a sign where something is missing."""
    if row_width(row) <= width:
        return row
    return (*(clip(row, width - 1) if width > 1 else ()), Span("…", DIM))


def _breaks(text: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, start of the next row) of every row of ``text``."""
    begin = end = line = used = indent = 0
    for match in _atom().finditer(text):
        atom = match.group()
        if atom == "\n":
            yield begin, end, match.end()
            begin = end = line = match.end()
            used = indent = 0
            continue
        if atom[0] == " ":
            if end > begin:
                used += len(atom)
            else:  # a row starts with spaces only where they indent the line
                indent = len(atom) if match.start() == line else 0
                begin = end = match.end()
            continue
        cells = cell_len(atom)
        if indent and indent + cells <= width:
            begin = end = begin - indent
            used = indent
        indent = 0
        if used + cells > width and end > begin:
            yield begin, end, match.start()
            begin = match.start()
            used = 0
        if cells > width:
            *full, last = list(_chop(text, match.start(), match.end(), width))
            for cut_begin, cut_end in full:
                yield cut_begin, cut_end, cut_end
            begin, cells = last[0], cell_len(text[slice(*last)])
        end = match.end()
        used += cells
    if end > begin or not text:
        yield begin, end, len(text)


def _chop(text: str, begin: int, end: int, width: int) -> Iterator[tuple[int, int]]:
    """Pieces of at most ``width`` cells of one long word, cut between graphemes."""
    graphemes, _ = split_graphemes(text[begin:end])
    piece, used = begin, 0
    for first, _last, cells in graphemes:
        if used + cells > width and begin + first > piece:
            yield piece, begin + first
            piece, used = begin + first, 0
        used += cells
    yield piece, end


@functools.cache
def _atom() -> re.Pattern[str]:
    """Compiled when first needed: help and errors need only `visible`."""
    return re.compile(_ATOM)


def cut(spans: Iterable[Span], begin: int, end: int) -> Row:
    """Characters ``begin`` to ``end`` of the spans' text, styles kept."""
    pieces: list[Span] = []
    offset = 0
    for span in spans:
        stop = offset + len(span.text)
        if stop > begin and offset < end:
            pieces.append(Span(span.text[max(begin - offset, 0) : end - offset], span.style))
        offset = stop
        if offset >= end:
            break
    return tuple(pieces)
