"""What a request asks of the model, whichever API it came by: settings, a conversation and options of the answer.

Knows harmony's messages and nothing of HTTP.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from ..arguments import Effort
from ..chat.options import ChatSettings, TurnOptions
from ..errors import InvalidRequest
from ..files.read import short_repr
from ..harmony import Channel, Message, Role
from ..sampling import SamplingParams
from ..tools.toolbox import ToolBox
from .fields import Fields

__all__ = [
    "EFFORTS",
    "History",
    "Question",
    "Recall",
    "Said",
    "declared_tools",
    "ignore_once",
    "is_same_json",
    "offered_tools",
    "sampling",
    "settings",
    "tool_choice",
]

_LOGGER: Final = logging.getLogger(__name__)
_MAX_STEPS: Final = 4
"""Of one answer: a call that no tool can take is returned to the model, which writes it anew."""
_MAX_TOOLS: Final = 1024

EFFORTS: Final[Mapping[str, Effort]] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""The efforts that clients know, and gpt-oss's; it always thinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request to the model."""

    settings: ChatSettings
    messages: Sequence[Message]
    options: TurnOptions = field(default_factory=lambda: TurnOptions())
    asks_thinking: bool = True
    """Whether the client wants to see the analysis."""
    one_call: bool = False
    """Whether the client runs one call of an answer at most."""

    @property
    def has_form(self) -> bool:
        """Whether the answer follows a schema. All text of the message is then of that form."""
        return self.options.get("schema") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the model said when it called a tool: its analysis, which clients drop and the model needs, a preamble
    and the call, in the tokens that it wrote."""

    messages: tuple[Message, ...]
    """Of the whole reply: other calls too, and the calls and results of tools that run here."""
    place: int
    """That of the call."""
    end: int
    """Where what belongs to the call ends: after it, or after the whole reply if it is the last one."""

    @property
    def call(self) -> Message:
        """The call."""
        return self.messages[self.place]

    @property
    def size(self) -> int:
        """Characters of text."""
        return sum(len(message.text) for message in self.messages)


Recall: TypeAlias = Callable[[str], Said | None]
"""What the model said when it made a call, by the call's id; None if it is not known."""


class History:
    """Makes harmony's messages of what a client sends back, one part after the other.

    Args:
        tools: those that the request declares.
        recall: finds what clients drop.
        messages: the conversation before.
        names: the recipients of the calls in ``messages``, by id.
    """

    def __init__(
        self,
        tools: ToolBox,
        recall: Recall,
        messages: Sequence[Message] = (),
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.messages = list(messages)
        self.names = dict(names or {})
        """The recipients of the calls, by id."""
        self._recall = recall
        self._recipients = {
            (tool.namespace, tool.declared_name): tool.recipient
            for tool in map(tools.declared, tools.names)
            if tool is not None
        }
        self._instructions: list[str] = []
        # How much of each reply is in the conversation, by its id(), and itself, so that no other gets that id.
        self._recalled: dict[int, tuple[tuple[Message, ...], int]] = {}

    @property
    def instructions(self) -> str | None:
        """What came before the first message, as the text of the developer message."""
        return "\n\n".join(self._instructions) or None

    def instruct(self, text: str) -> None:
        """A system or developer message. Later ones stay in their place: what is computed before them serves."""
        if not text:
            return
        if self.messages:
            self.messages.append(Message.developer(text))
        else:
            self._instructions.append(text)

    def ask(self, text: str) -> None:
        """A message of the user."""
        self.messages.append(Message.user(text))

    def think(self, text: str) -> None:
        """The model's analysis."""
        if text:
            self.messages.append(Message.assistant(text, channel=Channel.ANALYSIS))

    def say(self, text: str, *, channel: Channel = Channel.FINAL) -> None:
        """The model's text: an answer, or a preamble if a call follows."""
        if text:
            self.messages.append(Message.assistant(text, channel=channel))

    def call(self, identity: str, name: str, arguments: str, namespace: str = "functions") -> None:
        """The model's call of a tool.

        Args:
            identity: of the call.
            name: of the tool, as the client declared it.
            arguments: JSON.
            namespace: of the tool.
        """
        said = self._recall(identity)
        if said is not None and is_same_json(said.call.text.strip() or "{}", arguments):
            self.names[identity] = said.call.recipient or ""
            self._say_again(said)
            return
        begin = self._begin()
        for position, message in enumerate(self.messages[begin:], begin):
            if message.channel is Channel.FINAL:
                self.messages[position] = replace(message, channel=Channel.COMMENTARY)
        recipient = self._recipients.get((namespace, name), f"{namespace}.{name}")
        self.names[identity] = recipient
        self.messages.append(
            Message.assistant(
                arguments, channel=Channel.COMMENTARY, recipient=recipient, content_type="<|constrain|>json"
            )
        )

    def _say_again(self, said: Said) -> None:
        """Puts what the model said in place of what the client sends of it, once."""
        messages, done = self._recalled.get(id(said.messages), (said.messages, 0))
        if not done:
            del self.messages[self._begin() :]
        self.messages += messages[done : said.end]
        self._recalled[id(messages)] = messages, max(done, said.end)

    def answer(self, identity: str, text: str, path: str) -> None:
        """The result of a call.

        Args:
            identity: of the call.
            text: the result.
            path: of the result in the body, for errors.

        Raises:
            InvalidRequest: there is no such call.
        """
        name = self.names.get(identity)
        if name is None:
            raise InvalidRequest(f"{path} is {short_repr(identity)}; a call before it must have that id")
        call = Message.assistant("", channel=Channel.COMMENTARY, recipient=name)
        self.messages.append(call.answer(text))

    def _begin(self) -> int:
        """The position after the last message that is not the model's own."""
        position = len(self.messages)
        while position and self.messages[position - 1].role is Role.ASSISTANT:
            position -= 1
        return position


def is_same_json(text: str, other: str) -> bool:
    """Whether two texts are the same JSON: clients read arguments and write them anew."""
    try:
        return text == other or json.loads(text) == json.loads(other)
    except (ValueError, RecursionError):
        return False


_ignored: set[str] = set()


def ignore_once(what: str) -> None:
    """Logs, the first time, that a part of a request is ignored."""
    what = short_repr(what)
    if what not in _ignored and len(_ignored) < 100:
        _ignored.add(what)
        _LOGGER.warning("%s is ignored: it means nothing here", what)


def declared_tools(tools: Iterable[Mapping[str, Any]]) -> ToolBox:
    """The tools of a request. Those of the same content are read once.

    Args:
        tools: with ``name``, ``description`` and ``inputSchema``, and namespaces of such.

    Raises:
        ToolError: two have the same name.
    """
    declared = list(tools)
    if len(declared) > _MAX_TOOLS:
        raise InvalidRequest(f"tools has {len(declared)} entries; at most {_MAX_TOOLS} are allowed")
    return _tool_box(json.dumps(declared))


@functools.lru_cache(maxsize=16)
def _tool_box(tools: str) -> ToolBox:
    return ToolBox(json.loads(tools))


def offered_tools(tools: ToolBox, names: Sequence[str]) -> ToolBox:
    """The tools of these full names alone."""
    return ToolBox([tool for tool in map(tools.declared, names) if tool is not None])


def tool_choice(name: str, tools: ToolBox, path: str, namespace: str = "functions") -> str:
    """The full name of the tool that a request names.

    Raises:
        InvalidRequest: there is no such tool.
    """
    for recipient in tools.schemas:
        tool = tools.declared(recipient)
        if tool is not None and (tool.namespace, tool.declared_name) == (namespace, name):
            return recipient
    raise InvalidRequest(f"{path} is {short_repr(name)}; there is no such tool")


def sampling(body: Fields, max_tokens: str, stop: str = "stop") -> SamplingParams:
    """How tokens are chosen.

    Args:
        body: of the request.
        max_tokens: the name of the field with the most tokens.
        stop: the name of the field with the texts that end the answer.

    Raises:
        InvalidRequest: a value out of its range; names the field.
    """
    temperature, top_p = body.number("temperature"), body.number("top_p")
    if top_p == 0:
        temperature, top_p = 0, 1
    texts = body.texts(stop)
    if len(texts) > 64 or "" in texts:
        raise body.refused(stop, "at most 64 texts are needed, none of them empty")
    return SamplingParams(
        temperature=1 if temperature is None else temperature,
        top_p=1 if top_p is None else top_p,
        top_k=max(body.integer("top_k", -1) or 0, 0),
        min_p=body.number("min_p") or 0,
        repetition_penalty=body.number("repetition_penalty") or 1,
        seed=_seed(body),
        max_tokens=body.integer(max_tokens, 1),
        stop=tuple(texts),
        stop_loops=body.flag("stop_loops"),
        logit_bias=_logit_bias(body),
    )


def _logit_bias(body: Fields) -> dict[int, float]:
    bias = body.fields("logit_bias")
    given = {} if bias is None else bias.values
    if not all(token.isascii() and token.isdecimal() and len(token) < 10 for token in given):
        raise body.refused("logit_bias", "ids of tokens and numbers from -100 to 100 are needed")
    return {int(token): value for token, value in given.items()}


def _seed(body: Fields) -> int | None:
    """OpenAI's seeds may be negative."""
    seed = body.values.get("seed")
    if seed is None:
        return None
    if type(seed) is not int:
        raise body.refused("seed", "a whole number is needed")
    return seed % 2**64


def settings(
    *, instructions: str | None, effort: Effort, tools: ToolBox, chosen: SamplingParams, date: str | None = None
) -> ChatSettings:
    """The settings of a request."""
    made = ChatSettings(instructions=instructions, effort=effort, sampling=chosen, date=date, max_steps=_MAX_STEPS)
    return made.changed({"tools": tools})
