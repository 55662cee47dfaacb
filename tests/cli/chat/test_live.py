"""The rows of one answer while it is generated."""

from __future__ import annotations

from gptoss_mlx.cli import settings
from gptoss_mlx.cli.chat.live import TurnView
from gptoss_mlx.cli.screen.spans import DIM, ITALIC, Span
from gptoss_mlx.events import Done, Reply, Text, Thinking


def test_thinking_is_shown_as_it_was_asked_for() -> None:
    def shown(think: settings.ThinkMode) -> list[Span]:
        view = TurnView(think)
        for event in (
            Thinking(delta="one\n"),
            Thinking(delta="two"),
            Text(delta="So."),
            Done(reply=Reply(text="")),
        ):
            view.add(event, 79)
        return [span for row in view.rows(79) for span in row if not span.text.startswith("thought for 0.0 s")]

    so = Span("So.")
    assert shown("hide") == shown("fold") == [so]
    assert shown("dim") == [Span("one", f"{DIM};{ITALIC}"), Span("two", f"{DIM};{ITALIC}"), so]
    assert shown("show") == [Span("one", ITALIC), Span("two", ITALIC), so]
