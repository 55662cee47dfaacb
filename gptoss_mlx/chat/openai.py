"""OpenAI's message lists as a conversation, and back. Knows harmony's messages and plain data.

    {"role": "system" or "developer", "content": text}          the instructions, once, at the beginning
    {"role": "user", "content": text}
    {"role": "assistant", "reasoning": text, "content": text or None, "tool_calls": [{"id", "function"}]}
    {"role": "tool", "tool_call_id": id, "content": text}

Content may be a list of ``{"type": "text", "text": text}``. The assistant's reasoning becomes analysis; its
content becomes the answer, or a preamble if calls follow. Every refusal names the path of what is wrong.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InvalidRequest, RenderError
from ..files.read import short_repr
from ..harmony import Channel, Message, Role

__all__ = ["Dialogue", "read", "write"]

_NAMESPACE: Final = "functions."
_REASONING: Final = ("reasoning", "reasoning_content", "thinking")
_KEYS: Final = {
    "system": ("content", "name"),
    "developer": ("content", "name"),
    "user": ("content", "name"),
    "assistant": ("content", "name", "tool_calls", *_REASONING),
    "tool": ("content", "name", "tool_call_id"),
}
# They say nothing that a model reads.
_IGNORED: Final = ("id", "annotations", "created", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A message list as a chat holds it."""

    messages: list[Message]
    instructions: str | None = None
    """Of the list's system or developer message."""


def read(messages: object) -> Dialogue:
    """Reads a message list.

    Args:
        messages: OpenAI's dicts and harmony's messages, in any mixture.

    Raises:
        InvalidRequest: a value is wrong or cannot be shown to the model; names its path.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InvalidRequest(
            f"messages is {short_repr(messages)}; a list of Message or of OpenAI's dicts is needed"
        )
    return _Reader().read(messages)


class _Reader:
    """The state while a list is read: the names of the calls by their ids."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def read(self, messages: Sequence[Any]) -> Dialogue:
        instructions, read = None, list[Message]()
        for position, message in enumerate(messages):
            path = f"messages[{position}]"
            if isinstance(message, Message):
                if message.role in (Role.SYSTEM, Role.DEVELOPER):
                    raise InvalidRequest(
                        f"{path} is a {message.role} message; give its text as instructions instead"
                    )
                read.append(message)
                continue
            role = self._role(message, path)
            try:
                if role in ("system", "developer"):
                    if position:
                        raise InvalidRequest(
                            f"{path}.role is {role!r}; only the first message may give instructions"
                        )
                    instructions = _content(message, path)
                else:
                    read += self._messages(role, message, path)
            except RenderError as error:
                raise InvalidRequest(f"{path}: {error}") from None
        return Dialogue(messages=read, instructions=instructions)

    def _role(self, message: Any, path: str) -> str:
        """The role of a dict whose keys are all known."""
        if not isinstance(message, Mapping):
            raise InvalidRequest(
                f"{path} is {short_repr(message)}; a Message is needed, or a dict with role and content"
            )
        role = message.get("role")
        if not isinstance(role, str) or role not in _KEYS:
            raise InvalidRequest(f"{path}.role is {short_repr(role)}; one of {', '.join(_KEYS)} is needed")
        for key, value in message.items():
            known = key == "role" or key in _KEYS[role] or key in _IGNORED
            empty = value is None or (isinstance(value, str | list | tuple | Mapping) and not value)
            if not known and not empty:
                allowed = ", ".join(_KEYS[role])
                raise InvalidRequest(
                    f"{path} has {short_repr(key)}, which the model cannot be shown; leave it out "
                    f"({role} may have {allowed})"
                )
        return role

    def _messages(self, role: str, message: Mapping[str, Any], path: str) -> Iterator[Message]:
        if role == "user":
            yield Message.user(_content(message, path), name=message.get("name"))
        elif role == "tool":
            identity = message.get("tool_call_id")
            name = self._names.get(identity) if isinstance(identity, str) else None
            if name is None:
                raise InvalidRequest(
                    f"{path}.tool_call_id is {short_repr(identity)}; a call before it must have that id: "
                    f"there are {short_repr(list(self._names))}"
                )
            yield Message.tool(name, _content(message, path))
        else:
            yield from self._said(message, path)

    def _said(self, message: Mapping[str, Any], path: str) -> Iterator[Message]:
        """A message of the assistant: its reasoning, its text and its calls."""
        reasoning = next((key for key in _REASONING if message.get(key) is not None), None)
        if reasoning is not None:
            yield Message.assistant(_text(message[reasoning], f"{path}.{reasoning}"), channel=Channel.ANALYSIS)
        calls = [] if message.get("tool_calls") is None else message["tool_calls"]
        if not isinstance(calls, list | tuple):
            raise InvalidRequest(f"{path}.tool_calls is {short_repr(calls)}; a list is needed")
        text = "" if message.get("content") is None else _content(message, path)
        if text:
            yield Message.assistant(text, channel=Channel.COMMENTARY if calls else Channel.FINAL)
        elif not calls and reasoning is None:
            raise InvalidRequest(f"{path}.content is empty; an assistant's message has content or tool_calls")
        for position, call in enumerate(calls):
            yield self._call(call, f"{path}.tool_calls[{position}]")

    def _call(self, call: Any, path: str) -> Message:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise InvalidRequest(
                f'{path} is {short_repr(call)}; {{"id", "function": {{"name", "arguments"}}}} is needed'
            )
        name = _text(function.get("name"), f"{path}.function.name")
        arguments = _text(function.get("arguments"), f"{path}.function.arguments", "JSON text, as of json.dumps,")
        identity = _text(call.get("id"), f"{path}.id")
        if identity in self._names:
            raise InvalidRequest(f"{path}.id is {short_repr(identity)}, as of a call before it; ids must differ")
        recipient = name if "." in name else f"{_NAMESPACE}{name}"
        try:
            made = Message.assistant(
                arguments, channel=Channel.COMMENTARY, recipient=recipient, content_type="<|constrain|>json"
            )
        except RenderError as error:
            raise InvalidRequest(f"{path}.function.name is {short_repr(name)}: {error}") from None
        self._names[identity] = recipient
        return made


def _content(message: Mapping[str, Any], path: str) -> str:
    """The text of a message's content: text, or a list of parts of text."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return _text(content, f"{path}.content", "text or a list of parts")
    return "".join(_part(part, f"{path}.content[{position}]") for position, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f'{path} is {short_repr(part)}; {{"type": "text", "text": ...}} is needed')
    if part.get("type") != "text":
        raise InvalidRequest(
            f"{path}.type is {short_repr(part.get('type'))}; 'text' is needed: gpt-oss reads only text"
        )
    return _text(part.get("text"), f"{path}.text")


def _text(value: object, path: str, needed: str = "text") -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{path} is {short_repr(value)}; {needed} is needed")
    return value


def write(messages: Sequence[Message], instructions: str | None = None) -> list[dict[str, Any]]:
    """A conversation as OpenAI's message list.

    Args:
        messages: without system and developer messages.
        instructions: become a system message, the role that every client knows.

    Returns:
        Plain data. The calls have the ids ``call_0``, ``call_1`` and so on.
    """
    written: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    waiting: defaultdict[str, deque[str]] = defaultdict(deque)  # The ids of calls without a result, by name.
    count = 0
    for message in messages:
        if message.role is Role.TOOL:
            ids = waiting[message.author.name or ""]
            identity = ids.popleft() if ids else f"call_{count}"
            written.append({"role": "tool", "tool_call_id": identity, "content": message.text})
        elif message.role is Role.USER:
            named = {} if message.author.name is None else {"name": message.author.name}
            written.append({"role": "user", **named, "content": message.text})
        elif message.callee is not None:
            name, identity = message.answer("").author.name or "", f"call_{count}"
            count += 1
            waiting[name].append(identity)
            function = {"name": message.callee.removeprefix(_NAMESPACE), "arguments": message.text}
            call = {"id": identity, "type": "function", "function": function}
            _open(written, "tool_calls").setdefault("tool_calls", []).append(call)
        elif message.channel is Channel.ANALYSIS:
            _open(written, "reasoning")["reasoning"] = message.text
        else:
            _open(written, "content")["content"] = message.text
    return written


_ORDER: Final = ("reasoning", "content", "tool_calls")


def _open(written: list[dict[str, Any]], part: str) -> dict[str, Any]:
    """The last message if it is the assistant's and ``part`` may follow what it has, else a new one."""
    last = written[-1] if written else {}
    later = _ORDER[_ORDER.index(part) + (part == "tool_calls") :]
    if last.get("role") != "assistant" or any(last.get(name) is not None for name in later):
        last = {"role": "assistant", "content": None}
        written.append(last)
    return last
