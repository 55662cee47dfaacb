"""Models that answer from scripts, for the server: one without weights, and one whose engine computes everything.

A script is one drawn turn. It is written with :func:`turn`, or as raw text or tokens where it is malformed:

    ScriptedGptOss(
        turn(think("I need the weather."), call("get_weather", city="Oslo")),
        turn(answer("It rains.")),
    )
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import mlx.core as mx

from gptoss_mlx.api import GptOss
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine.generation import Generation, TokenChannel
from gptoss_mlx.errors import ModelClosed
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.sampling import SamplingParams
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO
from tests.chat.scripted import wire
from tests.harmony.fixtures import tokenizer as o200k

__all__ = [
    "Script",
    "ScriptedGptOss",
    "SteeredGptOss",
    "answer",
    "call",
    "endless",
    "say",
    "think",
    "tool_loop",
    "turn",
]

Script: TypeAlias = str | Iterable[int | BaseException] | BaseException
"""A drawn turn: text with the names of control tokens, its tokens, or an error that generating it raises."""

_FIRST: Final = "<|start|>assistant"


def think(text: str) -> str:
    """A message of analysis."""
    return f"<|channel|>analysis<|message|>{text}<|end|>"


def say(text: str) -> str:
    """A preamble."""
    return f"<|channel|>commentary<|message|>{text}<|end|>"


def call(name: str, *, channel: str = "commentary", more: bool = False, **arguments: Any) -> str:
    """A call of a function.

    Args:
        name: with its namespace, if that is not ``functions``.
        channel: that the model chose.
        more: whether the turn goes on after it, as with parallel calls.
        arguments: of the function.
    """
    recipient = name if "." in name else f"functions.{name}"
    end = "<|end|>" if more else "<|call|>"
    content = json.dumps(arguments, ensure_ascii=False)
    return f"<|channel|>{channel} to={recipient} <|constrain|>json<|message|>{content}{end}"


def answer(text: str) -> str:
    """The final answer."""
    return f"<|channel|>final<|message|>{text}<|return|>"


def turn(*messages: str) -> str:
    """A whole turn: its first message continues the prompt, which ends in ``<|start|>assistant``."""
    return _FIRST.join(messages)


def endless(text: str = " and so on") -> Iterable[int]:
    """The tokens of an answer that never ends."""
    return itertools.chain(wire("<|channel|>final<|message|>"), itertools.cycle(wire(text)))


def tool_loop(name: str, *, thinking: str = "I need the tool.", said: str = "", **arguments: Any) -> Callable:  # type: ignore[type-arg]
    """The conduct of a model that calls a function, and answers with its result once it has it.

    Args:
        name: of the function.
        thinking: before the call.
        said: the answer in place of the result.
        arguments: of the call.
    """

    def respond(prompt: str) -> str:
        last = prompt.rpartition("<|start|>")[0].rpartition("<|start|>")[2]
        if "to=assistant" not in last:
            return turn(think(thinking), call(name, **arguments))
        result = last.partition("<|message|>")[2].removesuffix("<|end|>")
        return turn(think("There is the result."), answer(said or result))

    return respond


class _Scripts:
    """The scripts of a model, and the record of its requests.

    Args:
        scripts: used one after another, each once.
        respond: makes the script of every request from its prompt's text, once the scripts are used up.
    """

    def __init__(self, scripts: Sequence[Script], respond: Callable[[str], Script] | None) -> None:
        self._scripts = list(scripts)
        self._respond = respond
        self._lock = threading.Lock()
        self.prompts: list[list[int]] = []

    def queue(self, *scripts: Script) -> None:
        """Puts scripts in the place of those that are left."""
        self._scripts[:] = scripts

    def next(self, prompt: list[int], tokenizer: Tokenizer) -> Iterable[int | BaseException]:
        """The items of the answer to a prompt."""
        with self._lock:
            self.prompts.append(prompt)
            if self._scripts:
                script = self._scripts.pop(0)
            elif self._respond is not None:
                script = self._respond(tokenizer.decode(prompt))
            else:
                raise AssertionError("the model was asked more often than it has scripts")
        if isinstance(script, BaseException):
            raise script
        return wire(script, tokenizer) if isinstance(script, str) else script


class ScriptedGptOss(GptOss):
    """A model without weights. It has the vocabulary of o200k_harmony, and answers at once, each request in a
    thread of its own.

    Args:
        scripts: of its turns, in order.
        respond: makes the script of a request from its prompt's text, where there are no more scripts.
        pause: seconds before each token.
        context: the most positions of a conversation.
    """

    def __init__(
        self,
        *scripts: Script,
        respond: Callable[[str], Script] | None = None,
        pause: float = 0.0,
        context: int = 131_072,
    ) -> None:
        self.directory = DEMO
        self.name = "scripted"
        self.kv_bits = None
        self.tokenizer = o200k()
        self.config = replace(ModelConfig.from_directory(DEMO), vocab_size=201_088)
        self.dtype = "float32"
        special = self.tokenizer.special
        self.stop_tokens = frozenset(special[name] for name in ("<|return|>", "<|call|>", "<|endoftext|>"))
        self.pause = pause
        self.samplings: list[SamplingParams] = []
        """Those of the requests, in order."""
        self.options: list[dict[str, Any]] = []
        """The other keywords of ``generate``, in order."""
        self.computed: list[int] = []
        """How many tokens of each prompt no request before had computed."""
        self.generations: list[Generation] = []
        """Of all requests, in order."""
        self.running = 0
        """How many requests draw tokens now."""
        self.drawn = 0
        """Tokens of all requests together."""
        self._scripts = _Scripts(scripts, respond)
        self._seen: list[list[int]] = []
        self._lock = threading.Lock()
        self._closed = False
        # A machine of any size: nothing is loaded.
        device = DeviceInfo(name="none", memory_bytes=2**40, gpu_bytes=2**40, is_mac=False)
        self._budget = Budget(config=self.config, device=device, element_bytes=4, context=context)

    @property
    def budget(self) -> Budget:
        return self._budget

    def queue(self, *scripts: Script) -> None:
        """Puts scripts in the place of those that are left."""
        self._scripts.queue(*scripts)

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of every prompt, in order."""
        return self._scripts.prompts

    @property
    def shown(self) -> list[str]:
        """The prompts as text."""
        return [self.tokenizer.decode(prompt) for prompt in self.prompts]

    def forget(self) -> None:
        """Drops the records of requests, for long runs that measure the memory."""
        for record in (self.prompts, self.samplings, self.options, self.computed, self.generations, self._seen):
            record.clear()

    def cached_length(self, tokens: Sequence[int]) -> int:
        with self._lock:
            longest = max((_shared(tokens, seen) for seen in self._seen), default=0)
        return min(longest, len(tokens) - 1)

    def prefill(self, tokens: Sequence[int], *, boundaries: Sequence[int] = ()) -> int:
        computed = len(tokens) - self.cached_length([*tokens, -1])
        self._compute(list(tokens))
        return computed

    def prefill_when_idle(self, tokens: Sequence[int], *, boundaries: Sequence[int] = ()) -> None:
        """Does nothing, so that a request's count does not depend on the time before it."""

    def clear_caches(self) -> None:
        self._seen.clear()

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingParams | None = None,
        *,
        boundaries: Sequence[int] = (),
        **options: Any,
    ) -> Generation:
        if self._closed:
            raise ModelClosed("the model was closed; load it again")
        prompt, sampling = list(tokens), sampling or SamplingParams()
        self._budget.check_prompt(len(prompt))
        self.samplings.append(sampling)
        self.options.append(options)
        script = self._scripts.next(prompt, self.tokenizer)
        channel = TokenChannel()
        channel.cached_tokens = self.cached_length(prompt)
        self.computed.append(len(prompt) - channel.cached_tokens)
        self._compute(prompt)
        limit = min(sampling.max_tokens or self.context_limit, self.context_limit - len(prompt))
        items = itertools.islice(script, limit)
        threading.Thread(target=self._draw, args=(items, prompt, channel, options), daemon=True).start()
        generation = Generation(prompt, channel)
        self.generations.append(generation)
        return generation

    def _draw(
        self,
        items: Iterable[int | BaseException],
        prompt: list[int],
        channel: TokenChannel,
        options: dict[str, Any],
    ) -> None:
        """Puts the items of a script into a channel."""
        with self._lock:
            self.running += 1
        drawn = list[int]()
        try:
            for item in items:
                if self.pause:
                    time.sleep(self.pause)
                if channel.cancelled.is_set() or self._closed:
                    return
                if isinstance(item, int):
                    drawn.append(item)
                    if options.get("logprobs") or options.get("top_logprobs"):
                        channel.report_logprob(-0.5, [(item, -0.5)] * options.get("top_logprobs", 0))
                channel.items.put(item)
                if channel.items.qsize() > 1000:
                    time.sleep(0.001)  # an endless script must not fill the memory before anybody reads
        finally:
            self._compute([*prompt, *drawn])
            with self._lock:
                self.running -= 1
                self.drawn += len(drawn)
            channel.items.put(None)

    def _compute(self, tokens: list[int]) -> None:
        """Remembers computed tokens, in place of a beginning of them."""
        with self._lock:
            self._seen = [seen for seen in self._seen if _shared(seen, tokens) < len(seen)][-7:]
            self._seen.append(tokens)

    def close(self) -> None:
        self._closed = True


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(first), len(second)))


class SteeredGptOss(GptOss):
    """A model that computes everything, prompt caches and log-probabilities included, and then draws the tokens of
    its scripts. Its vocabulary is that of the checkpoint.

    Args:
        scripts: of its turns, in order.
        respond: makes the script of a request from its prompt's text, where there are no more scripts.
        directory: of the checkpoint; by default the demo.
    """

    def __init__(
        self,
        *scripts: Script,
        respond: Callable[[str], Script] | None = None,
        directory: Path = DEMO,
        **options: Any,
    ) -> None:
        super().__init__(directory, **{"dtype": "float32", "name": "steered"} | options)
        self._scripts = _Scripts(scripts, respond)
        self.generations: list[Generation] = []
        """Of all requests, in order."""

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of every prompt, in order."""
        return self._scripts.prompts

    @property
    def shown(self) -> list[str]:
        """The prompts as text."""
        return [self.tokenizer.decode(prompt) for prompt in self.prompts]

    @property
    def computed(self) -> list[int]:
        """How many tokens of each prompt were computed."""
        return [len(generation.prompt) - generation.cached_tokens for generation in self.generations]

    def generate(
        self, tokens: Sequence[int], sampling: SamplingParams | None = None, **options: Any
    ) -> Generation:
        script = list(self._scripts.next(list(tokens), self.tokenizer))

        def follow(so_far: mx.array, logits: mx.array) -> mx.array:
            position = so_far.shape[0] - len(tokens)
            wanted = script[position] if position < len(script) else script[-1]
            return mx.where(mx.arange(logits.shape[-1]) == wanted, 100.0, -100.0)[None]

        generation = super().generate(tokens, sampling, **options | {"logits_processor": follow})
        self.generations.append(generation)
        return generation
