"""The command line over a scripted model: for tests of the screen, without MLX.

``python tests/cli/fake_gptoss.py chat -m demo`` behaves as ``gptoss`` would. The answer to a question is the
question itself, ``think N`` thinks in N pieces first, ``silent N`` only thinks, ``aside`` answers in a preamble,
``prefill N`` reads in N steps, ``call TOOL ARGUMENTS`` calls a tool and then answers with its result, ``python
CODE`` too, ``file PATH`` answers with a file of the home directory, ``fail`` fails. The pieces, of seven
characters each, come every ``GPTOSS_FAKE_DELAY`` seconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Run as a program, its directory is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).parents[2]))

import gptoss_mlx
from gptoss_mlx.chat.stream import Stream
from gptoss_mlx.engine.generation import Generation, TokenChannel
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import CONTROL_TOKENS, Tokenizer
from tests.chat.scripted import ScriptedModel, wire

PIECE = 7
DELAY = float(os.environ.get("GPTOSS_FAKE_DELAY", "0"))

BYTES = Tokenizer.from_ranks(
    {bytes([value]): value for value in range(256)},
    {name: 256 + place for place, name in enumerate(CONTROL_TOKENS)},
)
"""A tokenizer that takes no time to make: one token a byte."""


class FakeModel(ScriptedModel):
    """Answers every request with what its last question says."""

    name = "demo"

    def __init__(self) -> None:
        super().__init__(tokenizer=BYTES)

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held."""

    def stream(self, prompt: str, **options: Any) -> Stream:
        return self.chat(**options).stream(prompt)

    def generate(
        self, prompt: list[int], sampling: SamplingParams, *, boundaries: Sequence[int] = (), **options: Any
    ) -> Generation:
        channel = TokenChannel()
        threading.Thread(target=self._say, args=(prompt, sampling, channel), daemon=True).start()
        return Generation(prompt, channel)

    def _say(self, prompt: list[int], sampling: SamplingParams, channel: TokenChannel) -> None:
        text = self.tokenizer.decode(prompt)
        question = text.rpartition("<|start|>user<|message|>")[2].partition("<|end|>")[0]
        words = question.split()
        steps = int(words[1]) if words[:1] == ["prefill"] else 1
        for done in range(steps):
            channel.report_prefill(done, steps)
            if _wait(channel):
                return
        if words == ["fail"]:
            channel.items.put(ZeroDivisionError("of the script"))
        left = sampling.max_tokens or 1 << 30
        if words[:1] in (["call"], ["python"]):
            pieces = iter([_called(question, text)])
        else:
            pieces = _pieces(question, words, begun=not text.endswith("<|start|>assistant"))
        for piece in pieces:
            for token in wire(piece, self.tokenizer)[:left]:
                channel.items.put(token)
                left -= 1
            if left <= 0 or _wait(channel):
                break
        channel.items.put(None)


def _wait(channel: TokenChannel) -> bool:
    """Let some time pass; whether the request was cancelled."""
    return channel.cancelled.wait(DELAY) if DELAY else channel.cancelled.is_set()


def _called(question: str, prompt: str) -> str:
    """A call, or, after its result, the answer."""
    last = prompt.rpartition("<|message|>")[2].partition("<|end|>")[0]
    if last != question:
        return f"<|channel|>final<|message|>It says: {last}<|return|>"
    if question.startswith("python "):
        return f"<|channel|>analysis to=python code<|message|>{question.removeprefix('python ')}<|call|>"
    _, tool, arguments = question.split(" ", 2)
    return f"<|channel|>commentary to=functions.{tool} <|constrain|>json<|message|>{arguments}<|call|>"


def _pieces(question: str, words: list[str], begun: bool) -> Iterator[str]:
    """An answer in harmony's form. One that was begun goes on."""
    answer = (Path.home() / words[1]).read_text() if words[:1] == ["file"] else question
    if begun:
        answer = " and on"
    elif words[:1] in (["think"], ["silent"]):
        yield "<|channel|>analysis<|message|>"
        for number in range(int(words[1])):
            yield f"step {number} of it\n" if number % 3 == 2 else f"step {number}, "
        if words[0] == "silent":
            yield "<|return|>"
            return
        yield "<|end|><|start|>assistant"
    if not begun:
        yield f"<|channel|>{'commentary' if words[:1] == ['aside'] else 'final'}<|message|>"
    for start in range(0, len(answer), PIECE):
        yield answer[start : start + PIECE]
    yield "<|return|>"


def load(reference: str, **_: Any) -> FakeModel:
    """Stands in for `gptoss_mlx.load`."""
    time.sleep(float(os.environ.get("GPTOSS_FAKE_LOADING", "0")))
    return FakeModel()


if __name__ == "__main__":
    from gptoss_mlx.cli.app import main

    gptoss_mlx.load = load  # type: ignore[assignment]
    main()
