"""The streaming Markdown renderer: nothing shown ever changes, and pieces give what the whole gives."""

from __future__ import annotations

import itertools
import random

import pytest

from gptoss_mlx.cli.screen.markdown import TAIL_ROWS, MarkdownStream, render
from gptoss_mlx.cli.screen.plain import PlainStream
from gptoss_mlx.cli.screen.spans import CYAN, DIM, MAGENTA, Row, Span, plain, row_width
from tests.cli.screen.documents import DOCUMENTS

WIDTHS = (79, 40)


def texts(rows: list[Row]) -> list[str]:
    return [plain(row) for row in rows]


def looks(rows: list[Row]) -> list[list[Span]]:
    """Text and styles, however they are divided into spans."""
    looks: list[list[Span]] = []
    for row in rows:
        looks.append([])
        for style, spans in itertools.groupby((span for span in row if span.text), lambda span: span.style):
            looks[-1].append(Span(plain(spans), style))
    return looks


def streamed(document: str, width: int, step: int, tails: bool = True) -> list[Row]:
    """The final rows when the document comes in pieces, its tail drawn after each."""
    stream = MarkdownStream()
    rows: list[Row] = []
    for start in range(0, len(document), step):
        stream.feed(document[start : start + step])
        if tails or start % (step * 16) == 0:
            rows += stream.rows(width)
            assert len(stream.tail(width)) <= TAIL_ROWS
    return rows + stream.finish(width)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_pieces_of_seven_characters_give_what_the_whole_gives(name: str) -> None:
    document = DOCUMENTS[name]
    for width in WIDTHS:
        whole = looks(render(document, width))
        assert looks(streamed(document, width, 7, tails=len(document) < 5000)) == whole
        assert looks(streamed(document, width, len(document))) == whole


def test_random_documents_give_the_same_in_pieces() -> None:
    pieces = [
        *(
            "# head",
            "para text",
            "- a",
            "- b",
            "  - nested",
            "    - deep",
            "1. one",
            "3) x",
            "```py",
            "```",
            "~~~",
        ),
        *("    code", "", "", "> q", ">", "| a | b |", "|---|---|", "| 1 | `2|3` |", "---", "===", "   indented"),
        *(
            "     more",
            "*emph",
            "strong**",
            "* * *",
            "-",
            "1.",
            "`code",
            "word " * 40,
            "x | y",
            "   ```",
            "\tcode tab",
        ),
        *("- \tx", "10. ten", "> > nest", "lazy", "\\( x_1", "**b** " * 30, "日本語" * 20),
    ]
    for seed in range(120):
        chooser = random.Random(seed)
        document = "\n".join(chooser.choice(pieces) for _ in range(chooser.randint(1, 12)))
        width = chooser.choice((20, 40, 79))
        # Not their looks: of a paragraph that turns out to be a heading, the beginning may have been given.
        assert texts(streamed(document, width, 7)) == texts(render(document, width)), (seed, document)


def test_rows_fit_the_width_except_code() -> None:
    for name, document in DOCUMENTS.items():
        if "code" in document or "```" in document or "~~~" in document:
            continue
        for width in WIDTHS:
            assert max(map(row_width, render(document, width))) <= width, name


def test_a_long_paragraph_is_given_before_it_ends() -> None:
    stream = MarkdownStream()
    stream.feed("many plain words " * 60)
    assert len(stream.rows(60)) > 10
    assert len(stream.tail(60)) <= 2


def test_rows_given_before_a_resize_are_not_given_again() -> None:
    text = " ".join(f"word{number}" for number in range(200))
    stream = MarkdownStream()
    stream.feed(text[:600])
    wide = texts(stream.rows(100))
    stream.feed(text[600:])
    narrow = texts(stream.finish(40))
    assert " ".join(wide + narrow).split() == text.split()
    assert max(map(len, narrow)) <= 40


def test_list_numbers_go_on_across_what_is_forgotten() -> None:
    document = "".join(f"1. item {number}\n" for number in range(30))
    assert texts(streamed(document, 60, 7))[-1] == "30. item 29"


def test_code_keeps_its_text_whatever_the_language() -> None:
    for language in ("python", "html", "c++", "nonsense", "pycon", "json", "sh"):
        code = 'x = """a\n<b>\nb""" # \'\n\n\tif (a) { "b" }'
        rows = texts(render(f"```{language}\n{code}\n```", 79))
        assert rows == [f"```{language}", *code.expandtabs(4).split("\n"), "```"]


def test_code_is_coloured_while_it_comes() -> None:
    rows = streamed("```python\nreturn 1  # one\n```\n", 79, 3)
    assert looks(rows)[1] == [Span("return", MAGENTA), Span(" "), Span("1", CYAN), Span("  "), Span("# one", DIM)]


def test_link_definitions_act_on_later_text() -> None:
    assert texts(streamed("[a]: http://x.y\n\nsee [a]", 60, 3)) == ["see a (http://x.y)"]


def test_thinking_is_shown_as_written() -> None:
    text = "first line, **not bold**\n\n" + "words " * 40
    for step in (1, 7, 1000):
        stream, rows = PlainStream(), list[Row]()
        for start in range(0, len(text), step):
            stream.feed(text[start : start + step])
            rows += stream.rows(40)
        got = texts(rows + stream.finish(40))
        assert got[:2] == ["first line, **not bold**", ""]
        assert " ".join(got).split() == text.split()
