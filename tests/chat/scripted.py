"""A model that answers from a script, for tests of chats: without a transformer, and without MLX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.engine.generation import Generation, TokenChannel
from gptoss_mlx.errors import NotEnoughMemory
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gptoss_mlx.engine.engine import Engine

__all__ = ["ScriptedModel", "failing", "wire"]


class ScriptedModel:
    """Answers each request with the next of its scripts, and remembers the prompts.

    Args:
        scripts: each the text of a drawn turn, its tokens, or an error.
        tokenizer: by default o200k_harmony.
    """

    name = "scripted"

    def __init__(
        self,
        *scripts: str | Iterable[int | BaseException] | BaseException,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.tokenizer = tokenizer or _o200k()
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
        return Chat(cast("Engine", self), **options)

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
        items = wire(script, self.tokenizer) if isinstance(script, str) else list(script)
        channel = TokenChannel()
        for item in items[: sampling.max_tokens]:
            channel.items.put(item)
        channel.items.put(None)
        return Generation(prompt, channel)


def failing(text: str) -> list[int | BaseException]:
    """The tokens of a drawn turn, and then there is no more memory."""
    return [*wire(text), NotEnoughMemory("the memory ran out")]


def _o200k() -> Tokenizer:
    from tests.harmony.fixtures import tokenizer

    return tokenizer()


def wire(text: str, tokenizer: Tokenizer | None = None) -> list[int]:
    """Tokens of a drawn turn: ``<|names|>`` of control tokens are control tokens."""
    tokenizer = tokenizer or _o200k()
    special, tokens = tokenizer.special, list[int]()
    rest = text
    while rest:
        place, name = min(
            ((at, name) for name in special if (at := rest.find(name)) >= 0), default=(len(rest), "")
        )
        tokens += tokenizer.encode(rest[:place])
        if name:
            tokens.append(special[name])
        rest = rest[place + len(name) :]
    return tokens
