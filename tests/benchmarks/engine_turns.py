"""Tokens prefilled over a ten-turn chat with tool calls, beside mlx-lm's prompt cache on the same transcript.

    python -m tests.benchmarks.engine_turns

The transcript is that of ``gptoss bench``; the model is the demo. mlx-lm is driven as its server does it: an entry
after the system prompt and one after every reply. Nothing is timed.

With mlx-lm 0.32.2 (2026-11-21), of 26,143 prompt tokens: 1,493 with time between the turns and 4,050 without,
mlx-lm 14,431: ratios 0.10 and 0.28.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import mlx.core as mx

from gptoss_mlx.benchmark import GptOssEngine, MlxLmEngine, recorded_replies
from gptoss_mlx.benchmark.engines import EngineChat
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.hub.models import resolve
from tests.benchmarks.engine_models import Row

__all__ = ["measure"]


def measure(place: Path) -> list[Row]:
    """All tokens computed for prompts, and their ratio."""
    directory = resolve("demo")
    peer = MlxLmEngine(convert_checkpoint(directory, place / "demo-mlx-lm", to="mlx-lm").destination)
    ours = GptOssEngine(directory)
    tokenizer = ours.model.tokenizer

    def computed(chat: EngineChat) -> int:
        return sum(chat.reply(reply)[1] for reply in recorded_replies(tokenizer))

    idle, hurried, theirs = computed(ours.chat()), computed(ours.chat(idle=False)), computed(peer.chat())
    cold = sum(len(reply.prompt) for reply in recorded_replies(tokenizer))
    ours.close()
    return [
        Row("prompt tokens of ten turns", cold),
        Row("prefilled while the user waits, time to read between turns", idle),
        Row("prefilled while the user waits, no time between turns", hurried),
        Row("prefilled while the user waits, mlx-lm", theirs),
        Row("ours / mlx-lm, time between turns", idle / theirs),
        Row("ours / mlx-lm, no time between turns", hurried / theirs),
    ]


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    with tempfile.TemporaryDirectory() as name:
        for row in measure(Path(name)):
            print(f"{row.name}: {row.figure:.3f}")
