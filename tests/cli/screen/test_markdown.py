"""The streaming Markdown renderer: nothing shown ever changes, and pieces give what the whole gives."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from gptoss_mlx.cli.screen.markdown import TAIL_ROWS, MarkdownStream, render
from gptoss_mlx.cli.screen.plain import PlainStream
from gptoss_mlx.cli.screen.spans import CYAN, DIM, MAGENTA, Row, Span, plain, row_width
from tests import ROOT
from tests.cli.screen.documents import DOCUMENTS

WIDTHS = (79, 40)
EXAMPLES: dict[str, list[str]] = json.loads((ROOT / "tests/data/markdown/examples.json").read_text())
"""The examples of the two specifications."""


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


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_random_pieces_give_what_the_whole_gives(name: str) -> None:
    chooser = random.Random(name)
    for document in EXAMPLES[name]:
        width = chooser.choice(WIDTHS)
        stream, rows, start = MarkdownStream(), list[Row](), 0
        while start < len(document):
            step = chooser.randint(1, 12)
            stream.feed(document[start : start + step])
            start += step
            rows += stream.rows(width)
            stream.tail(width)
        assert looks(rows + stream.finish(width)) == looks(render(document, width)), document


def test_lines_may_end_in_a_carriage_return_and_a_newline() -> None:
    for name in ("paragraphs", "tables", "fence in list"):
        document = DOCUMENTS[name].replace("\n", "\r\n")
        for step in (1, 7, 50):
            assert looks(streamed(document, 79, step)) == looks(render(DOCUMENTS[name], 79))


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
        assert looks(streamed(document, width, 7)) == looks(render(document, width)), (seed, document)


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


def test_link_references_and_their_definitions_stay_as_written_in_any_order() -> None:
    definitions = ["[a]: http://x.y", '[b c]: <http://z> "of two lines"']
    source = '[a]: http://x.y\n[b c]:\n<http://z>\n"of two\nlines"'
    for step in (1, 3, 1000):
        assert texts(streamed(f"{source}\n\nsee [a] and [this][b c]", 60, step)) == [
            *definitions,
            "",
            "see [a] and [this][b c]",
        ]
        assert texts(streamed(f"see [a] and [this][b c]\n\n{source}\n", 60, step))[2:] == definitions


def test_latex_in_brackets_reaches_the_screen_as_written() -> None:
    source = "\\[ x_1 * y_2 = \\frac{a}{b} * \\] and \\(a_i * b_i * c\\), not $c_1$ or \\(open"
    assert texts(render(source, 79)) == [source.removesuffix("\\(open") + "(open"]


def test_br_breaks_a_line_of_a_cell() -> None:
    rows = texts(render("| a | b |\n|---|---|\n| one<br>two | 1<BR/>2<br />3 |", 60))
    assert rows == ["a   │ b", "────┼──", "one │ 1", "two │ 2", "    │ 3"]


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
