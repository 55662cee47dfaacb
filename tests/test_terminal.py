"""The one writer: what it lets through, and that nothing else writes."""

from __future__ import annotations

import ast
import io
import random
import re
from pathlib import Path

import pytest

import gptoss_mlx.cli
from gptoss_mlx.cli.edge import error_line
from gptoss_mlx.cli.markdown import MarkdownStream
from gptoss_mlx.cli.plain import PlainStream
from gptoss_mlx.cli.spans import BOLD, RED, Span, clip, plain, visible, wrap
from gptoss_mlx.cli.terminal import Terminal

OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\d*A|J|\?25[lh])")
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(environ: dict[str, str] | None = None) -> tuple[Terminal, Tty]:
    stream = Tty()
    return Terminal(stream, {"TERM": "xterm", **(environ or {})}), stream


def payloads(count: int) -> list[str]:
    """Escape sequences of every kind, whole, cut short and nested, among ordinary text and Markdown."""
    kinds = [
        *("\x1b[31m", "\x1b[2J", "\x1b[1;1H", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\"),
        *(
            "\x1b]52;c;aGk=\x07",
            "\x1bP+q544e\x1b\\",
            "\x1b_apc\x1b\\",
            "\x1b^pm\x1b\\",
            "\x1b(0",
            "\x1bc",
            "\x1b[?1049h",
        ),
        *("\x9b31m", "\x9d0;t\x9c", "\x90q\x9c", "\x85", "\x07", "\x08\x08", "\r", "\x7f", "\x00", "\x0e", "\x1b"),
        *(
            "\u202eabc",
            "\u2066x\u2069",
            "\u2028",
            "\ufeff",
            "\U000e0041",
            "&#27;[31m",
            "&#x9b;",
            "\\\x1b",
            "\ud800",
        ),
    ]
    around = [
        "**",
        "`",
        "# ",
        "- ",
        "> ",
        "| a |\n|---|\n| ",
        "```\n",
        "[l](",
        ")",
        "word ",
        "\n",
        "\t",
        "日本",
        "[red]x[/red]",
    ]
    chooser = random.Random(7)
    return [
        "".join(chooser.choice(kinds if chooser.random() < 0.5 else around) for _ in range(chooser.randint(1, 8)))
        for _ in range(count)
    ]


def only_ours(written: str) -> bool:
    rest = OURS.sub("", written).replace("\r", "", written.count("\r\x1b[")).replace("\r\x1b", "")
    return not FORBIDDEN.search(rest.replace("\r", ""))


@pytest.mark.parametrize("kind", ["answer", "thinking", "text", "row", "error"])
def test_five_thousand_payloads_leave_no_escape_but_ours(kind: str) -> None:
    for number, payload in enumerate(payloads(1000)):
        screen, stream = terminal()
        if kind in ("answer", "thinking"):
            source = MarkdownStream() if kind == "answer" else PlainStream(BOLD)
            for position, character in enumerate(payload):
                source.feed(character)
                if position == number % len(payload):
                    screen.frame(source.rows(60), source.tail(60))
            screen.rows(source.finish(60))
        elif kind == "text":
            screen.write(payload, RED)
        elif kind == "row":
            screen.rows([clip((Span(payload, RED), Span(payload)), 40)])
        else:
            screen.line(error_line(ValueError(payload)))
        assert only_ours(stream.getvalue()), (payload, stream.getvalue())


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
            if path.name == "convert.py" and called == "typer.echo":
                assert ast.unparse(node.args[0]).startswith(("visible(", "json.dumps("))
            elif called in ("print", "typer.echo", "typer.secho", "click.echo", "rich.print") or re.fullmatch(
                r"sys\.(stdout|stderr)(\.buffer)?\.(write|writelines)", called
            ):
                offenders.append(f"{path.name}:{node.lineno}: {called}")
    assert not offenders
