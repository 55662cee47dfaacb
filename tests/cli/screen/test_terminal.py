"""The one writer: what it lets through, and that nothing else writes."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
from pathlib import Path

import pytest

import gptoss_mlx.cli
from gptoss_mlx.cli.screen.plain import PlainStream
from gptoss_mlx.cli.screen.spans import BOLD, RED, Row, Span, plain, row_width, shorten, visible, wrap
from gptoss_mlx.cli.screen.terminal import Terminal
from tests.cli.screen.escapes import PLACES, Tty, only_ours, payloads


def terminal(environ: dict[str, str] | None = None) -> tuple[Terminal, Tty]:
    stream = Tty()
    return Terminal(stream, {"TERM": "xterm", **(environ or {})}), stream


@pytest.mark.parametrize("place", PLACES)
def test_payloads_leave_no_escape_but_ours(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for number, payload in enumerate(payloads(1000)):
        written = PLACES[place](payload, number)
        assert only_ours(written), (payload, written)


def test_hidden_characters_are_shown() -> None:
    assert visible("a\x1b[31mb\x07\x7f\x9b\u202e\n\t") == "a␛[31mb␇␡<U+009B><U+202E>\n\t"
    assert visible("\u200b\u200c\u200d\u200e\u200f\u061c\xad\u180e") == (
        "<U+200B><U+200C><U+200D><U+200E><U+200F><U+061C><U+00AD><U+180E>"
    )


def test_joiners_stay_inside_emoji_and_in_scripts_that_need_them() -> None:
    for text in ("👩‍👩‍👧 שלום é", "👩🏽‍❤️‍👨 ✔️", "نمی‌خواهم", "क्‍ष", "ශ්‍රී"):
        assert visible(text) == text
        for cut in range(1, len(text)):  # as text that arrives in pieces
            stream = PlainStream()
            stream.feed(text[:cut])
            stream.feed(text[cut:])
            assert plain(stream.finish(79)[0]) == text
            screen, written = terminal()
            screen.write(text[:cut])
            screen.write(text[cut:])
            screen.rows([(Span(text[:cut]), Span(text[cut:]))])
            assert written.getvalue() == f"{text}{text}\n"
    assert visible("👩\u200d\u200d👧 a\u200db \u200dم x\ufe0f\ufe0f") == (
        "👩<U+200D><U+200D>👧 a<U+200D>b <U+200D>م x\ufe0f<U+FE0F>"
    )


def test_styles_only_on_a_terminal_and_colours_only_where_wanted() -> None:
    rows = [(Span("x", f"{BOLD};{RED}"),)]
    screen, stream = terminal()
    screen.rows(rows)
    assert stream.getvalue() == "\x1b[1;31mx\x1b[0m\n"
    screen, stream = terminal({"NO_COLOR": "1"})
    screen.rows(rows)
    assert stream.getvalue() == "\x1b[1mx\x1b[0m\n"
    for environ in ({"TERM": "dumb"}, {"TERM": ""}):
        screen, stream = terminal(environ)
        screen.frame(rows, [(Span("tail"),)])
        assert stream.getvalue() == "x\n"
    pipe = io.StringIO()
    Terminal(pipe, {"TERM": "xterm"}).rows(rows)
    assert pipe.getvalue() == "x\n"


def test_a_tail_is_erased_before_anything_else_is_written() -> None:
    screen, stream = terminal()
    with screen.live():
        screen.frame((), [(Span("one"),), (Span("two"),)])
        screen.frame([(Span("done"),)], [(Span("tail"),)])
    assert stream.getvalue() == (
        "\x1b[?25l\x1b[?2004hone\ntwo\r\x1b[1A\x1b[Jdone\ntail\r\x1b[J\x1b[?2004l\x1b[?25h"
    )


def test_a_paragraph_breaks_between_words_and_only_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "error: some words of\x1b an error"
    screen, stream = terminal()
    screen.paragraph(Span(text))
    assert stream.getvalue() == "error: some words\nof␛ an error\n"
    monkeypatch.setenv("COLUMNS", "18")  # one cell stays free
    screen, stream = terminal()
    screen.paragraph(Span(text))
    assert stream.getvalue() == "error: some words\nof␛ an error\n"
    for narrow in ("17", "10", "11"):
        monkeypatch.setenv("COLUMNS", narrow)
        screen, stream = terminal()
        screen.paragraph(Span("error: one"))
        assert stream.getvalue() == "error: one\n"  # ten cells at least
        screen.paragraph(Span("error: some"))
        assert stream.getvalue().count("\n") == (2 if narrow == "17" else 3)
    pipe = io.StringIO()
    Terminal(pipe, {"TERM": "xterm"}).paragraph(Span(text))
    assert pipe.getvalue() == "error: some words of␛ an error\n"


class Window(Tty):
    """A terminal of a size that can change, which counts how often it was flushed."""

    def __init__(self, patch: pytest.MonkeyPatch, columns: int, lines: int = 24) -> None:
        super().__init__()
        self.flushes = 0
        self.size = os.terminal_size((columns, lines))
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        patch.setattr(os, "get_terminal_size", lambda descriptor: {7: self.size}[descriptor])
        patch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((81, 25)))

    def fileno(self) -> int:
        return 7

    def flush(self) -> None:
        self.flushes += 1

    def taken(self) -> str:
        """What was written since it was last asked for."""
        written = self.getvalue()
        self.truncate(0)
        self.seek(0)
        return written


def test_the_size_is_the_windows_own_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(monkeypatch, 37, 9)
    screen = Terminal(window, {"TERM": "xterm"})
    assert (screen.width, screen.height) == (37, 9)
    assert Terminal(window, {"TERM": "dumb"}).width == 81
    assert Terminal(window, {}).width == 81
    window.size = os.terminal_size((1, 2))
    assert (screen.width, screen.height) == (1, 2)
    window.size = os.terminal_size((0, 0))  # a terminal that does not know
    assert (screen.width, screen.height) == (81, 25)
    assert Terminal(Tty(), {"TERM": "xterm"}).width == 81  # no descriptor to ask
    window.size = os.terminal_size((37, 9))
    monkeypatch.setenv("COLUMNS", "50")
    assert screen.width == 81  # which is where it is looked up


def test_a_tail_fits_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(monkeypatch, 10, 4)
    screen = Terminal(window, {"TERM": "xterm"})
    screen.frame((), [(Span(f"{number}23456789012"),) for number in range(6)])
    # A cell stays free, or the cursor would be in the next row; and a row above.
    assert window.taken() == "\n".join(f"{number}23456789" for number in (3, 4, 5))
    screen.frame((), ())
    assert window.taken() == "\r\x1b[2A\x1b[J"
    screen.frame((), ())
    assert window.taken() == ""
    window.size = os.terminal_size((1, 1))
    screen.frame((), [(Span("one"),), (Span("two"),)])
    assert window.taken() == "t"


@pytest.mark.parametrize(
    "environ",
    [
        *(
            {name: "1"}
            for name in (
                "TMUX",
                "VTE_VERSION",
                "KITTY_WINDOW_ID",
                "ALACRITTY_WINDOW_ID",
                "WT_SESSION",
                "WEZTERM_PANE",
            )
        ),
        *({"TERM_PROGRAM": name} for name in ("iTerm.app", "Apple_Terminal", "ghostty", "vscode")),
        {},
        {"TERM_PROGRAM": "other"},
    ],
    ids=str,
)
def test_a_tail_that_the_terminal_wrapped_is_erased_whole(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window(monkeypatch, 10)
    screen = Terminal(window, {"TERM": "xterm", **environ})
    wraps = bool(environ) and environ.get("TERM_PROGRAM") != "other"
    for columns, rows in ((4, 3 + 2 + 1 + 1), (9, 4), (1, 9 + 8 + 1 + 1), (10, 4), (12, 4)):
        window.size = os.terminal_size((10, 24))
        screen.frame((), [(Span("123456789"),), (Span("1234"), Span("5678")), (), (Span("x"),)])
        window.taken()
        window.size = os.terminal_size((columns, 24))
        screen.line("next")
        assert window.taken() == f"\r\x1b[{(rows if wraps else 4) - 1}A\x1b[Jnext\n"


def test_each_line_has_the_style_and_a_row_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(monkeypatch, 80)
    screen = Terminal(window, {"TERM": "xterm"})
    for _ in range(2):
        screen.write("a\nb\n", RED)
        assert window.taken() == "\x1b[31ma\x1b[0m\n\x1b[31mb\x1b[0m\n"
    screen.line()
    screen.line("c")
    screen.rows([(Span("a\nb"), Span("", RED), Span("c", RED))])
    assert window.taken() == "\nc\na\u240ab\x1b[31mc\x1b[0m\n"
    flushes = window.flushes
    screen.write("")
    assert window.flushes == flushes
    screen.write("x")
    assert window.flushes == flushes + 1
    assert window.taken() == "x"


def test_the_cursor_is_shown_again_however_it_ends() -> None:
    screen, stream = terminal()
    with pytest.raises(RuntimeError), screen.live():
        screen.frame((), [(Span("tail"),)])
        raise RuntimeError
    assert stream.getvalue() == "\x1b[?25l\x1b[?2004htail\r\x1b[J\x1b[?2004l\x1b[?25h"
    screen, stream = terminal({"TERM": "dumb"})
    with screen.live():
        screen.frame((), [(Span("tail"),)])
    assert stream.getvalue() == ""


def test_what_is_copied_carries_no_escape() -> None:
    screen, stream = terminal()
    screen.copy("hi\x1b]")
    assert stream.getvalue() == "\x1b]52;c;aGkbXQ==\x07"
    screen, stream = terminal({"TERM": "dumb"})
    screen.copy("hi")
    assert stream.getvalue() == ""


def test_colours_are_told_from_the_rest() -> None:
    screen, stream = terminal({"NO_COLOR": "1"})
    for style in ("", "9;30", "29;3", "31", "31;1"):
        screen.line("x", style)
    assert stream.getvalue() == "x\n\x1b[9mx\x1b[0m\n\x1b[29;3mx\x1b[0m\nx\n\x1b[1mx\x1b[0m\n"


def test_markup_of_rich_is_text() -> None:
    screen, stream = terminal()
    screen.line("[bold red]x[/] [link=http://a]b[/link]")
    assert stream.getvalue() == "[bold red]x[/] [link=http://a]b[/link]\n"


def test_wrapping_is_stable_and_loses_nothing() -> None:
    text = "some words, a-very-long-word-that-does-not-fit-anywhere 日本語のテキスト。 and   spaces"
    for width in (5, 10, 33):
        rows = [plain(wrapped.row) for wrapped in wrap((Span(text),), width)]
        assert "".join("".join(rows).split()) == "".join(text.split())
        for cut in range(len(text)):
            begun = [plain(wrapped.row) for wrapped in wrap((Span(text[:cut]),), width)]
            assert rows[: len(begun) - 1] == begun[:-1]


def test_the_indentation_of_a_line_is_kept_where_its_first_word_fits() -> None:
    code = "def f(x):\n    if x:\n        return 'one two'\n\n  end"
    assert [plain(line.row) for line in wrap((Span(code),), 79)] == code.split("\n")
    narrow = [plain(line.row) for line in wrap((Span(code),), 15)]
    assert narrow == ["def f(x):", "    if x:", "        return", "'one two'", "", "  end"]
    assert [plain(line.row) for line in wrap((Span(" " * 40 + "deep"),), 15)] == ["deep"]
    stream = PlainStream()
    stream.feed(code)
    assert [plain(row) for row in stream.finish(79)] == code.split("\n")


def test_a_row_that_is_cut_says_so() -> None:
    row: Row = (Span("one", RED), Span(" 日本語 two"))
    for width in range(1, 20):
        cut = shorten(row, width)
        assert row_width(cut) <= width
        assert (plain(cut) == plain(row)) == (width >= row_width(row))
        assert plain(cut).endswith("…") == (width < row_width(row))


def test_only_the_terminal_writes() -> None:
    """No print, echo or write to a standard stream in any module of the command line."""
    folder = Path(next(iter(gptoss_mlx.cli.__path__)))
    offenders = []
    for path in sorted(folder.rglob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if path.name == "bench.py" and called == "typer.echo":
                assert ast.unparse(node.args[0]).startswith(("visible(", "json.dumps("))
            elif called in ("print", "typer.echo", "typer.secho", "click.echo", "rich.print") or re.fullmatch(
                r"sys\.(stdout|stderr)(\.buffer)?\.(write|writelines)", called
            ):
                offenders.append(f"{path.name}:{node.lineno}: {called}")
    assert not offenders
