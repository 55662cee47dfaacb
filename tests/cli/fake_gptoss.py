"""The command line over a model that says what it is told: for tests of the screen, without MLX.

``python tests/cli/fake_gptoss.py chat -m demo`` behaves as ``gptoss`` would. The answer to a question is the
question itself, ``think N`` thinks for N pieces first, ``silent N`` only thinks, ``aside`` answers in a preamble,
``prefill N`` reads for N steps, ``file PATH`` answers with a file of the home directory; pieces of
``GPTOSS_FAKE_PIECE`` characters come every ``GPTOSS_FAKE_DELAY`` seconds.
"""

from __future__ import annotations

import copy
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gptoss_mlx
from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.events import Done, Event, Preamble, Progress, Reply, Text, Thinking, Timings, Usage
from gptoss_mlx.harmony import Message

if TYPE_CHECKING:
    from gptoss_mlx.chat.prompt import TraceEntry

PIECE = int(os.environ.get("GPTOSS_FAKE_PIECE", "7"))
DELAY = float(os.environ.get("GPTOSS_FAKE_DELAY", "0"))


class FakeStream:
    """The events of one scripted answer."""

    def __init__(self, chat: FakeChat | None, question: str, answer: str) -> None:
        self._chat, self._question, self._answer = chat, question, answer
        self._cancelled = threading.Event()
        self.reply: Reply

    def cancel(self) -> None:
        self._cancelled.set()

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Event]:
        thinking = text = ""
        steps = thoughts = 0
        words = self._question.split()
        prefill = int(words[1]) if words[:1] == ["prefill"] else 1
        for done in range(prefill):
            yield Progress(done=done, total=prefill)
            if self._pause():
                break
        for event in self._deltas():
            steps += 1
            if self._pause():
                break
            if isinstance(event, Thinking):
                thinking += event.delta
                thoughts += 1
            text += event.delta if isinstance(event, Text | Preamble) else ""
            yield event
        cancelled = self._cancelled.is_set()
        messages = (Message.assistant(text, channel="final"),) if text else ()
        self.reply = Reply(
            text=text,
            thinking=thinking,
            messages=messages,
            finish_reason="cancelled" if cancelled else "stop",
            usage=Usage(prompt_tokens=10, cached_tokens=3, completion_tokens=steps, reasoning_tokens=thoughts),
            timings=Timings(first_token=0.1, prefill=0.1, decode=1.0),
        )
        if self._chat is not None:
            self._chat.messages += (Message.user(self._question), *messages)
        yield Done(reply=self.reply)

    def _pause(self) -> bool:
        return self._cancelled.wait(DELAY) if DELAY else self._cancelled.is_set()

    def _deltas(self) -> Iterator[Thinking | Preamble | Text]:
        words = self._question.split()
        if words[:1] in (["think"], ["silent"]):
            for number in range(int(words[1])):
                yield Thinking(delta=f"step {number} of it\n" if number % 3 == 2 else f"step {number}, ")
        kind = Preamble if words[:1] == ["aside"] else Text
        for start in range(0, len(self._answer) if words[:1] != ["silent"] else 0, PIECE):
            yield kind(delta=self._answer[start : start + PIECE])


class FakeChat:
    """A conversation that only echoes."""

    def __init__(self, **options: Any) -> None:
        self.instructions = options.get("instructions")
        self.effort = options.get("effort", "medium")
        self.messages: tuple[Message, ...] = ()
        self.title: str | None = None
        self.context_used, self.context_limit = 42, 131072

    def stream(self, text: str, effort: str | None = None) -> FakeStream:
        words = text.split()
        answer = (Path.home() / words[1]).read_text() if words[:1] == ["file"] else text
        return FakeStream(self, text, answer)

    def stream_retry(self, effort: str | None = None) -> FakeStream:
        question = next(message for message in reversed(self.messages) if message.author.role == "user")
        self.undo()
        return self.stream("".join(getattr(content, "text", "") for content in question.content), effort)

    def continue_stream(self) -> FakeStream:
        return FakeStream(None, "", "and on")

    def tokens_to_prefill(self, effort: str | None = None) -> int:
        return self.context_used if effort else 3

    def stream_edit(self, index: int, text: str) -> FakeStream:
        self.messages = self.messages[:index]
        return self.stream(text)

    def undo(self) -> str:
        last = max(number for number, message in enumerate(self.messages) if message.author.role == "user")
        question = self.messages[last].text
        self.messages = self.messages[:last]
        return question

    def fork(self) -> FakeChat:
        return copy.copy(self)

    def trace(self) -> list[TraceEntry]:
        from gptoss_mlx.chat.prompt import TraceEntry

        return [
            TraceEntry(message=message, tokens=5, kept=True, cached=number == 0)
            for number, message in enumerate(self.messages)
        ]

    def save(self, path: str | Path) -> None:
        chatfile.write(path, chatfile.ChatContent(title=self.title, messages=self.messages))


class FakeModel:
    """A model of no weight."""

    name = "demo"

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def chat(self, **options: Any) -> FakeChat:
        return FakeChat(**options)

    def load_chat(self, path: str | Path) -> FakeChat:
        content = json.loads(Path(path).read_text())
        chat = FakeChat()
        chat.title = content["title"]
        chat.messages = tuple(Message.from_dict(message) for message in content["messages"])
        return chat

    def stream(self, prompt: str, **options: Any) -> FakeStream:
        return FakeStream(None, prompt, prompt)


def load(reference: str, **_: Any) -> FakeModel:
    """Stands in for `gptoss_mlx.load`."""
    time.sleep(float(os.environ.get("GPTOSS_FAKE_LOADING", "0")))
    return FakeModel()


if __name__ == "__main__":
    from gptoss_mlx.cli.app import main

    gptoss_mlx.load = load  # type: ignore[assignment]
    main()
