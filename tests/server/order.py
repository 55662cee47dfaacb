"""Whether the events of a stream come in the order that clients rely on, and add up to one answer.

Each function takes the events of one whole stream, checks every one of them with :mod:`tests.server.valid`, and
returns the object that the stream adds up to, so that it can be compared with the answer to the same request
without a stream.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from tests.server import valid
from tests.server.serving import Event

__all__ = ["chat_stream", "message_stream", "response_stream"]

_PARTS: Final = {"message": "output_text", "reasoning": "reasoning_text"}


def _item_grammar(kind: str) -> str:
    """The events of an item with parts of text."""
    part = _PARTS[kind]
    parts = rf"(content_part.added:{part} ({part}.delta )*{part}.done content_part.done:{part} )*"
    return rf"output_item.added:{kind} {parts}output_item.done:{kind} "


_CALL: Final = (
    r"output_item.added:function_call (function_call_arguments.delta )*function_call_arguments.done "
    r"output_item.done:function_call "
)
RESPONSE: Final = re.compile(
    rf"created in_progress ({_item_grammar('reasoning')}|{_item_grammar('message')}|{_CALL})*"
    r"(completed|incomplete|(error )?failed) "
)
"""The order of events in a stream of Responses. A space follows every name."""

_DELTA: Final = "content_block_delta:{}_delta "
_BLOCKS: Final = {
    "thinking": f"({_DELTA.format('thinking')})*({_DELTA.format('signature')})?",
    "text": f"({_DELTA.format('text')})*",
    "tool_use": f"({_DELTA.format('input_json')})*",
}
_BLOCK: Final = "content_block_start:{kind} {deltas}content_block_stop "
MESSAGE: Final = re.compile(
    rf"message_start ({'|'.join(_BLOCK.format(kind=kind, deltas=deltas) for kind, deltas in _BLOCKS.items())})*"
    r"message_delta message_stop "
)
"""The order of events in a stream of Anthropic's messages, without pings."""


def chat_stream(events: Sequence[Event], *, usage: bool = False) -> dict[str, Any]:
    """A stream of chunks: the role, deltas, the reason it finished, the usage if it was asked for, ``[DONE]``.

    Returns:
        The message, with ``finish_reason`` and, if it was asked for, ``usage``.
    """
    assert events[-1].data == "[DONE]", events[-1]
    chunks = [event.data for event in events[:-1]]
    assert all(event.name is None for event in events), "chunks have no event line"
    for chunk in chunks:
        valid.chat_chunk(chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    counted: dict[str, Any] | None = None
    if usage:
        *chunks, last = chunks
        assert last["choices"] == [], last
        counted = last["usage"]
        assert counted is not None, last
    for chunk in chunks:
        assert len(chunk["choices"]) == 1, chunk
        assert chunk.get("usage") is None, chunk
    choices = [chunk["choices"][0] for chunk in chunks]
    assert {choice["index"] for choice in choices} == {0}
    assert choices[0]["delta"].get("role") == "assistant", choices[0]
    assert not any("role" in choice["delta"] for choice in choices[1:]), "the role comes once"
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons[-1] is not None, reasons
    assert not any(reasons[:-1]), reasons
    message = _added([choice["delta"] for choice in choices])
    assert (reasons[-1] == "tool_calls") == bool(message["tool_calls"]) or reasons[-1] == "length", reasons
    return message | {"finish_reason": reasons[-1]} | ({} if counted is None else {"usage": counted})


def _added(deltas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that deltas add up to."""
    reasoning, content, calls = "", "", list[dict[str, Any]]()
    for delta in deltas:
        assert delta.get("reasoning") == delta.get("reasoning_content"), "both names have the same text"
        reasoning += delta.get("reasoning") or ""
        content += delta.get("content") or ""
        for piece in delta.get("tool_calls") or ():
            function = piece.get("function") or {}
            if piece["index"] == len(calls):
                assert all((piece.get("id"), piece.get("type") == "function", function.get("name"))), piece
                calls.append({"id": piece["id"], "type": "function", "function": {"arguments": ""} | function})
            else:
                assert piece["index"] == len(calls) - 1, "a call is complete before the next begins"
                assert not piece.get("id") or piece["id"] == calls[-1]["id"], piece
                assert not function.get("name"), piece
                calls[-1]["function"]["arguments"] += function.get("arguments") or ""
    assert len({call["id"] for call in calls}) == len(calls), "ids differ"
    return {"role": "assistant", "reasoning": reasoning, "content": content, "tool_calls": calls}


def response_stream(events: Sequence[Event]) -> dict[str, Any]:
    """A stream of Responses: ``created``, ``in_progress``, each item from ``added`` to ``done``, and the end.

    Returns:
        The response of the last event.
    """
    for number, event in enumerate(events):
        valid.response_event(event.data)
        assert event.name == event.data["type"], event
        assert event.data["sequence_number"] == number, event
    data = [event.data for event in events]
    names = "".join(f"{_name(event)} ".removeprefix("response.") for event in data)
    assert RESPONSE.fullmatch(names), names
    created, started, *inner, last = data
    for event in (created, started):
        assert (event["response"]["status"], event["response"]["output"]) == ("in_progress", []), event
    response: dict[str, Any] = last["response"]
    status = response["status"]
    assert f"response.{status}" == last["type"], last
    assert {event["response"]["id"] for event in (created, started, last)} == {response["id"]}
    assert response["usage"] is not None or status == "failed", response
    assert (response["error"] is not None) == (status == "failed"), response
    assert (response["incomplete_details"] is not None) == (status == "incomplete"), response
    inner = [event for event in inner if event["type"] != "error"]
    groups = [list(group) for _, group in itertools.groupby(inner, lambda event: event["output_index"])]
    items = [_item(group, index) for index, group in enumerate(groups)]
    assert response["output"] == items, f"{response['output']}\nis not what the stream had:\n{items}"
    assert len({item["id"] for item in items}) == len(items), "ids differ"
    return response


def _name(event: dict[str, Any]) -> str:
    """An event's type, with that of the item or part that it begins or ends."""
    about = event.get("item") or event.get("part") or event.get("content_block") or event.get("delta")
    kind = about.get("type") if isinstance(about, dict) else None
    return f"{event['type']}:{kind}" if kind else str(event["type"])


def _item(events: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    """The item that the events of one ``output_index`` add up to."""
    added, *inner, done = events
    assert added["output_index"] == index, added
    begun, item = added["item"], done["item"]
    assert (begun["id"], begun["status"]) == (item["id"], "in_progress"), added
    assert item["status"] in ("completed", "incomplete"), done
    assert {event["item_id"] for event in inner} <= {item["id"]}, inner
    if item["type"] == "function_call":
        *deltas, whole = inner
        text = "".join(event["delta"] for event in deltas)
        assert begun == item | {"arguments": "", "status": "in_progress"}, f"{begun} became {item}"
        assert text == whole["arguments"] == item["arguments"], f"{done}\nbut the deltas add up to {text!r}"
        assert whole["name"] == item["name"], whole
    else:
        groups = [list(group) for _, group in itertools.groupby(inner, lambda event: event["content_index"])]
        assert begun["content"] == [], added
        assert item["content"] == [_part(group, place) for place, group in enumerate(groups)], done
    return dict(item)


def _part(events: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    """The part that the events of one ``content_index`` add up to."""
    added, *deltas, whole, done = events
    assert (added["content_index"], added["part"]["text"]) == (index, ""), added
    assert all(event["delta"] for event in deltas), "an empty delta"
    text = "".join(event["delta"] for event in deltas)
    assert text == whole["text"] == done["part"]["text"], f"{done}\nbut the deltas add up to {text!r}"
    return dict(done["part"])


def message_stream(events: Sequence[Event]) -> dict[str, Any]:
    """A stream of Anthropic's messages: ``message_start``, each block from its start to its stop,
    ``message_delta``, ``message_stop``; a ``ping`` may come anywhere.

    Returns:
        The message.
    """
    for event in events:
        valid.message_event(event.data)
        assert event.name == event.data["type"], event
    data = [event.data for event in events if event.data["type"] != "ping"]
    names = "".join(f"{_name(event)} " for event in data)
    assert MESSAGE.fullmatch(names), names
    start, *inner, delta, _ = data
    message: dict[str, Any] = start["message"]
    assert (message["content"], message["stop_reason"]) == ([], None), start
    assert delta["delta"]["stop_reason"] is not None, delta
    groups = [list(group) for _, group in itertools.groupby(inner, lambda event: event["index"])]
    content = [_block(group, index) for index, group in enumerate(groups)]
    return {**message, "content": content, **delta["delta"], "usage": message["usage"] | delta["usage"]}


def _block(events: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    """The block that the events of one index add up to."""
    start, *deltas, _ = events
    assert start["index"] == index, start
    block: dict[str, Any] = start["content_block"]
    added = dict[str, str]()
    for event in deltas:
        for name, piece in event["delta"].items():
            if name != "type":
                added[name] = added.get(name, "") + piece
    if block["type"] == "tool_use":
        assert block["input"] == {}, start
        return block | {"input": json.loads(added.get("partial_json") or "{}")}
    assert not any(block.get(name) for name in added), start
    return {**block, **added}
