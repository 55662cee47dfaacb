"""A model that says what it is told: for tests of chats, without a transformer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.engine.engine import Engine
from gptoss_mlx.engine.generation import Generation, TokenChannel
from gptoss_mlx.errors import NotEnoughMemory
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import Tokenizer
from tests.harmony.fixtures import tokenizer

__all__ = ["ScriptedModel", "failing", "wire"]


class ScriptedModel:
    """Answers each request with the next of its scripts, and remembers the prompts."""

    def __init__(self, *scripts: str | Iterable[int | BaseException] | BaseException) -> None:
        self.tokenizer: Tokenizer = tokenizer()
        self.config = SimpleNamespace(max_position_embeddings=131_072, vocab_size=201_088)
        self.context_limit = 131_072
        special = self.tokenizer.special
        self.stop_tokens = frozenset(special[name] for name in ("<|return|>", "<|call|>", "<|endoftext|>"))
        self.scripts = list(scripts)
        self.prompts: list[list[int]] = []
        self.samplings: list[SamplingParams] = []
        self.options: list[dict[str, Any]] = []
        self.ahead: list[list[int]] = []

    @property
    def shown(self) -> list[str]:
        """The prompts as text."""
        return [self.tokenizer.decode(prompt) for prompt in self.prompts]

    def chat(self, **options: Any) -> Chat:
        """A chat with this model."""
        return Chat(cast(Engine, self), **options)

    def cached_length(self, tokens: Sequence[int]) -> int:
        return 0

    def prefill_when_idle(self, tokens: list[int], *, boundaries: Sequence[int] = ()) -> None:
        self.ahead.append(tokens)

    def generate(
        self, prompt: list[int], sampling: SamplingParams, *, boundaries: Sequence[int] = (), **options: Any
    ) -> Generation:
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        self.options.append(options)
        script = self.scripts.pop(0)
        if isinstance(script, BaseException):
            raise script
        items = wire(script) if isinstance(script, str) else list(script)
        channel = TokenChannel()
        for item in items[: sampling.max_tokens]:
            channel.items.put(item)
        channel.items.put(None)
        return Generation(prompt, channel)


def failing(text: str) -> list[int | BaseException]:
    """The tokens of a drawn turn, and then there is no more memory."""
    return [*wire(text), NotEnoughMemory("the memory ran out")]


def wire(text: str) -> list[int]:
    """Tokens of a drawn turn: ``<|names|>`` of control tokens are control tokens."""
    special, tokens = tokenizer().special, []
    rest = text
    while rest:
        place, name = min(
            ((at, name) for name in special if (at := rest.find(name)) >= 0), default=(len(rest), "")
        )
        tokens += tokenizer().encode(rest[:place])
        if name:
            tokens.append(special[name])
        rest = rest[place + len(name) :]
    return tokens
