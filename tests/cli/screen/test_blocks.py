"""Markdown's block structure beside markdown-it's, which reads a document at once."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gptoss_mlx.cli.screen.blocks import BlockParser, Leaf
from gptoss_mlx.cli.screen.inline import inline_spans
from gptoss_mlx.cli.screen.spans import plain
from tests.cli.screen.documents import DOCUMENTS
from tests.cli.screen.test_markdown import EXAMPLES

Block = tuple[str, str, str]
"""Kind, markers before its first row, and text."""


def parsed(document: str) -> list[Leaf]:
    parser = BlockParser()
    leaves = [leaf for line in document.removesuffix("\n").split("\n") for leaf in parser.line(line)]
    return leaves + parser.close()


def ours(document: str) -> list[Block]:
    blocks: list[Block] = []
    for leaf in parsed(document):
        text = plain(leaf.spans)
        if leaf.kind == "table":
            text = str([[plain(cell) for cell in row] for row in leaf.cells])
        if leaf.continues:
            blocks[-1] = (*blocks[-1][:2], blocks[-1][2] + text)
        elif leaf.kind not in ("edge", "definition") and (leaf.kind != "code" or text.strip()):
            blocks.append((leaf.kind, plain(leaf.first), text))
    return blocks


class Oracle:
    """markdown-it's tokens as the same blocks."""

    def __init__(self, document: str) -> None:
        parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
        self.tokens: list[Token] = []
        parser.disable("html_block").block.parse(document, parser, {}, self.tokens)
        self.blocks: list[Block] = []
        self.markers: list[str] = []
        self.lists: list[int | None] = []
        for position, token in enumerate(self.tokens):
            self.take(token, self.tokens[position + 1 :])

    def lead(self) -> str:
        """The markers as they stand now; those of items are blank from then on."""
        lead = "".join(self.markers)
        self.markers = [marker if marker == "│ " else " " * len(marker) for marker in self.markers]
        return lead

    def take(self, token: Token, following: list[Token]) -> None:
        kind = token.type
        if kind in ("bullet_list_open", "ordered_list_open"):
            self.lists.append(None if kind == "bullet_list_open" else int(token.attrs.get("start", 1)))
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self.lists.pop()
        elif kind == "list_item_open":
            self.markers.append(self.marker(token))
        elif kind == "blockquote_open":
            self.markers.append("│ ")
        elif kind in ("list_item_close", "blockquote_close"):
            if self.markers[-1].strip() not in ("", "│"):
                self.blocks.append(("text", self.lead(), ""))
            self.markers.pop()
        elif kind in ("paragraph_open", "heading_open"):
            self.blocks.append(("text", self.lead(), plain(inline_spans(following[0].content))))
        elif kind == "hr":
            self.blocks.append(("rule", self.lead(), ""))
        elif kind in ("fence", "code_block"):
            lines = token.content.split("\n")
            leads = [self.lead() for _ in (*lines, *("more" for _ in lines if kind == "fence"))][kind == "fence" :]
            for lead, line in zip(leads, lines, strict=False):
                if line.strip():
                    self.blocks.append(("code", lead, line.expandtabs(4)))
        elif kind == "table_open":
            end = next(number for number, other in enumerate(following) if other.type == "table_close")
            rows: list[list[str]] = []
            for other in following[:end]:
                if other.type == "tr_open":
                    rows.append([])
                elif other.type == "inline":
                    rows[-1].append(plain(inline_spans(other.content)))
            self.blocks.append(("table", self.lead(), str(rows)))

    def marker(self, item: Token) -> str:
        number = self.lists[-1]
        if number is None:
            return "•◦▪"[min(self.lists.count(None), 3) - 1] + " "
        self.lists[-1] = number + 1
        return f"{number}{item.markup} "


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_have_the_structure_that_markdown_it_finds(name: str) -> None:
    for document in EXAMPLES[name]:
        assert ours(document) == Oracle(document).blocks, document


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_have_the_structure_that_markdown_it_finds(name: str) -> None:
    assert ours(DOCUMENTS[name]) == Oracle(DOCUMENTS[name]).blocks


def test_containers_are_nested_to_a_limit() -> None:
    (leaf,) = parsed("> " * 100_000 + "deep")
    assert len(leaf.first) == 20
    assert plain(leaf.spans).endswith("> > deep")


def test_a_line_is_parsed_once_however_long_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from gptoss_mlx.cli.screen import blocks

    read = 0

    def counted(source: str, style: str = "") -> tuple[object, ...]:
        nonlocal read
        read += len(source)
        return inline_spans(source, style)

    monkeypatch.setattr(blocks, "inline_spans", counted)
    for line in ("words of a paragraph", "> words of a quotation", "- words\n  more", "[a]: b", "*open"):
        document, read = f"{line}\n" * 2000, 0
        parsed(document)
        assert read <= len(document)
