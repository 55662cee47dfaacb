"""Agents that call tools step by step, and what each step costs the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gptoss_mlx.tokenizer import Tokenizer
from tests.server.apis import CHAT, Api, ask
from tests.server.scripted import answer, call, think, turn

__all__ = ["MORE", "Agent", "Counted", "Step", "conduct", "declarations"]

MORE: Final = 16
"""Tokens that a step may compute beside the result's text: the header and the end of the tool's message, the start
of the next one, and the last token that the model drew, which it has not read yet."""


class Counted(Protocol):
    """A model of :mod:`tests.server.scripted`."""

    tokenizer: Tokenizer

    @property
    def computed(self) -> list[int]:
        """How many tokens of each prompt were computed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The cost of one request."""

    new: int
    """Tokens of the text that is new in it."""
    computed: int
    """Tokens that the engine computed for its prompt."""
    reported: int
    """The same by the answer's usage."""


def conduct(steps: int) -> Any:
    """The conduct of a model that thinks and calls ``lookup`` for so many steps, and then answers."""

    def respond(prompt: str) -> str:
        done = prompt.count(" to=assistant<|channel|>")
        if done == steps:
            return turn(think("That is all."), answer("Done."))
        return turn(think(f"Step {done} needs entry {done * 7}; look it up."), call("lookup", entry=done * 7))

    return respond


def declarations(length: int, tokenizer: Tokenizer) -> tuple[list[dict[str, Any]], str]:
    """Tools, one of them ``lookup``, and instructions, half of so many tokens each."""
    text = "The tool takes an entry of the table and returns all that the table holds for it, line by line. "
    size = len(tokenizer.encode(text))
    parameters = {"type": "object", "properties": {"entry": {"type": "integer", "description": text}}}
    names = ["lookup", *(f"other_{n}" for n in range(9))]
    description = text * (length // 2 // len(names) // size)
    tools = [{"name": name, "description": description, "parameters": parameters} for name in names]
    return tools, text * (length // 2 // size)


class Agent:
    """A client that sends its whole history at every step.

    Args:
        client: of the server.
        api: that it speaks.
        model: that the server serves.
        name: begins its instructions, so that two agents share no prompt.
        reasoning: whether it sends the thinking back.
        length: tokens of its tools and instructions.
    """

    def __init__(
        self,
        client: Any,
        api: Api,
        model: Counted,
        *,
        name: str = "Ada",
        reasoning: bool = True,
        length: int = 8192,
    ) -> None:
        self._client, self._api, self._model, self._reasoning = client, api, model, reasoning
        self._tools, instructions = declarations(length, model.tokenizer)
        self._instructions = f"You are {name}. {instructions}"
        self._history: list[Any] = api.user("Look up what you need.")
        self._results: Sequence[str] = ()
        self.texts: list[str] = []
        """The final answer, if it came."""

    def step(self) -> Step:
        """Sends what there is, and adds the answer and the results of its calls to it."""
        streamed: Any = {"stream": True}
        if self._api is CHAT:
            streamed["stream_options"] = {"include_usage": True}
        reply = ask(
            self._client, self._api, self._history, tools=self._tools, instructions=self._instructions, **streamed
        )
        results = [f"Entry {one.arguments['entry']} is {one.arguments['entry'] ** 2}." for one in reply.calls]
        new = sum(len(self._model.tokenizer.encode(text)) for text in self._results)
        self._results = results
        self._history += self._api.said(reply, reasoning=self._reasoning) + self._api.results(reply, *results)
        if not results:
            self.texts.append(reply.text)
        return Step(new=new, computed=self._model.computed[-1], reported=reply.prompt_tokens - reply.cached_tokens)
