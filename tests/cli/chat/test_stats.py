"""The figures after an answer."""

from __future__ import annotations

from gptoss_mlx.cli.chat.stats import full_line
from gptoss_mlx.events import Reply, Timings, Usage


def test_the_line_after_an_answer_never_wraps() -> None:
    usage = Usage(prompt_tokens=2100, cached_tokens=1200, completion_tokens=557, reasoning_tokens=312)
    reply = Reply(text="", usage=usage, timings=Timings(first_token=0.43, prefill=1.1, decode=9.6))
    lines = {width: full_line(reply, 2157, 131072, 13 * 10**9, width) for width in range(10, 200)}
    assert all(0 < len(line) <= width for width, line in lines.items())
    assert lines[140] == (
        "TTFT 0.43 s · prefill 818 tok/s · decode 58 tok/s · thinking 312 + answer 245 tok · 1,200 cached"
        " · context 2,157 of 128k · memory 13.0 GB"
    )
    assert lines[79] == "TTFT 0.43 s · in 818/s · out 58/s · 312+245 · 1.2k cached · 2.2k/128k · 13.0 GB"
    assert lines[39] == "TTFT 0.43 s · in 818/s · out 58/s"
