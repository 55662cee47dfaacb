"""The one writer: what it lets through, and that nothing else writes."""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path

import pytest

import gptoss_mlx.cli
from gptoss_mlx.cli.spans import BOLD, RED, Span, plain, visible, wrap
from gptoss_mlx.cli.terminal import Terminal
from tests.escapes import PLACES, Tty, only_ours, payloads


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
    assert visible("👩‍👩‍👧 שלום é") == "👩‍👩‍👧 שלום é"


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
    assert stream.getvalue() == ("\x1b[?25lone\ntwo\r\x1b[1A\x1b[Jdone\ntail\r\x1b[J\x1b[?25h")


def test_a_paragraph_breaks_between_words_and_only_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "error: some words of\x1b an error"
    screen, stream = terminal()
    screen.paragraph(Span(text))
    assert stream.getvalue() == "error: some words\nof␛ an error\n"
    pipe = io.StringIO()
    Terminal(pipe, {"TERM": "xterm"}).paragraph(Span(text))
    assert pipe.getvalue() == "error: some words of␛ an error\n"


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


def test_only_the_terminal_writes() -> None:
    """No print, echo or write to a standard stream in any module of the command line."""
    folder = Path(next(iter(gptoss_mlx.cli.__path__)))
    offenders = []
    for path in sorted(folder.glob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if path.name in ("bench.py", "convert.py") and called == "typer.echo":
                assert ast.unparse(node.args[0]).startswith(("visible(", "json.dumps("))
            elif called in ("print", "typer.echo", "typer.secho", "click.echo", "rich.print") or re.fullmatch(
                r"sys\.(stdout|stderr)(\.buffer)?\.(write|writelines)", called
            ):
                offenders.append(f"{path.name}:{node.lineno}: {called}")
    assert not offenders
