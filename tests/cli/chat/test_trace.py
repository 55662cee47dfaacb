"""The rows of ``/trace``."""

from __future__ import annotations

from gptoss_mlx.chat.prompt import TraceEntry
from gptoss_mlx.cli.chat.trace import trace_rows
from gptoss_mlx.cli.screen.spans import plain
from gptoss_mlx.harmony import Message


def test_a_trace_cuts_no_count_however_narrow_the_window() -> None:
    entries = [
        TraceEntry(message=Message.user("why? " * 9), tokens=105, kept=True, cached=True),
        TraceEntry(message=Message.assistant("so", channel="commentary"), tokens=12_345, kept=False, cached=False),
    ]
    whole = [plain(row) for row in trace_rows(entries, None)]
    for width in range(10, 100):
        rows = [plain(row) for row in trace_rows(entries, width)]
        assert max(map(len, rows)) <= width
        assert [row.endswith("…") for row in rows] == [len(row) > width for row in whole]
        assert [row.split()[0] for row in rows] == ["105", "12,345"]
    assert whole[1] == "12,345  dropped  assistant  commentary  so"
