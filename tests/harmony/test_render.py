"""Conversations to tokens: equal to openai-harmony's, with boundaries for the cache, and nothing encoded twice."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from array import array
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from gptoss_mlx import harmony
from gptoss_mlx.errors import RenderError
from gptoss_mlx.harmony import (
    Channel,
    Conversation,
    DeveloperContent,
    Message,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    render,
    render_for_training,
    render_segments,
)
from gptoss_mlx.harmony.render import _TokenCache, dropped_messages
from tests.harmony.fixtures import (
    CONTROL_STRINGS,
    NAMED,
    oracle,
    oracle_dropped,
    oracle_render,
    random_conversation,
    tokenizer,
    wire,
)

CODEC = tokenizer()


class Counting:
    """A tokenizer that counts what it encodes."""

    def __init__(self) -> None:
        self.characters = 0

    @property
    def special(self) -> Mapping[str, int]:
        return CODEC.special

    def encode(self, text: str) -> list[int]:
        self.characters += len(text)
        return CODEC.encode(text)

    def token_bytes(self, token: int) -> bytes:
        return CODEC.token_bytes(token)


def turn(number: int) -> tuple[Message, ...]:
    return (
        Message.user(f"question {number}"),
        Message.assistant(f"thought {number}", channel="analysis"),
        Message.assistant(f"answer {number}", channel="final"),
    )


def talk(turns: int) -> Conversation:
    messages = [message for number in range(turns) for message in turn(number)]
    return Conversation(messages=(Message.system(SystemContent()), *messages))


def test_random_conversations_equal_the_oracle_token_for_token() -> None:
    for seed in range(300):
        conversation = random_conversation(random.Random(seed))
        assert render(conversation, CODEC, drop_analysis=False) == oracle_render(conversation, drop_analysis=False)


def test_dropping_equals_the_oracle_with_the_same_messages_left_out() -> None:
    agreements = 0
    for seed in range(300):
        conversation = random_conversation(random.Random(seed))
        dropped = dropped_messages(conversation.messages)
        kept = tuple(m for i, m in enumerate(conversation.messages) if i not in dropped)
        tokens = render(conversation, CODEC)
        assert tokens == oracle_render(Conversation(messages=kept), drop_analysis=False)
        if dropped == oracle_dropped(conversation):
            agreements += 1
            assert tokens == oracle_render(conversation)
    assert agreements > 100


@pytest.mark.parametrize("role", ["assistant", "user", "system", "developer", "tool", None])
def test_any_next_role_equals_the_oracle(role: str | None) -> None:
    assert render(talk(2), CODEC, role) == oracle_render(talk(2), role)


def test_an_unknown_next_role_is_an_error() -> None:
    with pytest.raises(RenderError, match="next_role: 'robot' is not one of"):
        render(talk(1), CODEC, "robot")


def test_training_ends_a_last_final_with_return_and_nothing_else() -> None:
    tokens = render_for_training(talk(2), CODEC)
    assert tokens == [*render(talk(2), CODEC, None)[:-1], NAMED["<|return|>"]]
    for last in (Message.user("hi"), Message.assistant("hm", channel="analysis"), Message.tool("python", "1")):
        conversation = talk(1).adding(last)
        assert render_for_training(conversation, CODEC) == render(conversation, CODEC, None)
    assert render_for_training(Conversation(), CODEC) == []


def test_segments_add_up_to_the_rendering_and_know_what_was_dropped() -> None:
    for seed in range(60):
        conversation = random_conversation(random.Random(seed))
        rendering = render_segments(conversation, CODEC)
        assert rendering.tokens == render(conversation, CODEC)
        segments = rendering.segments
        assert [segment.index for segment in segments] == [*range(len(conversation)), None]
        assert {s.index for s in segments if s.dropped} == dropped_messages(conversation.messages)
        for segment in segments:
            assert (
                list(segment.tokens[: segment.end - segment.start])
                == (rendering.tokens[segment.start : segment.end])
            )
            assert segment.message is None or segment.message is conversation.messages[segment.index or 0]


def test_boundaries_lie_after_the_prefix_every_reply_header_and_every_tool_result() -> None:
    function = ToolDescription(name="f")
    developer = DeveloperContent(instructions="Hi", tools=(ToolNamespace.functions(function),))
    messages = (
        Message.system(SystemContent()),
        Message.developer(developer),
        Message.user("Go"),
        Message.assistant("hm", channel="analysis"),
        Message.assistant("{}", channel="commentary", recipient="functions.f"),
        Message.tool("functions.f", "7"),
    )
    rendering = render_segments(Conversation(messages=messages), CODEC)
    tokens, header = rendering.tokens, wire("<|start|>assistant")
    assert render(Conversation(messages=messages[:2]), CODEC, None) == tokens[: rendering.prefix]
    replies = [
        at for at in range(len(tokens) + 1) if tokens[max(at - 2, 0) : at] == header and at > rendering.prefix
    ]
    after_tool = len(tokens) - len(header)
    assert rendering.boundaries == sorted({rendering.prefix, *replies, after_tool})
    assert len(replies) == 3


def test_the_prefix_ends_with_the_first_message_of_anyone_else() -> None:
    developer = Message.developer(DeveloperContent(instructions="Hi"))
    for leading in ((), (Message.system(SystemContent()),), (Message.system(SystemContent()), developer)):
        messages = (*leading, Message.user("Go"), developer, Message.user("Go on"))
        rendering = render_segments(Conversation(messages=messages), CODEC, None)
        assert rendering.prefix == len(render(Conversation(messages=leading), CODEC, None))
        # Without a reply, the prefix is the only boundary.
        assert rendering.boundaries == ([rendering.prefix] if leading else [])


def test_a_turn_is_over_when_the_assistant_said_its_final_and_nobody_else() -> None:
    thought, final = Message.assistant("hm", channel="analysis"), Message.assistant("2", channel="final")
    note = Message.assistant("and", channel="commentary")
    said = replace(Message.developer(DeveloperContent(instructions="Hi")), channel=Channel.FINAL)
    ask = Message.user("Go on")
    for messages, dropped in (
        ((thought, ask), set()),  # no answer to a question
        ((ask, thought, ask), set()),
        ((ask, thought, said, ask), set()),
        ((ask, thought, final, ask), {1}),
        ((ask, thought, final, note, ask), {1}),
        ((ask, thought, final), set()),
        ((ask, thought, final, ask, thought, ask), {1}),
    ):
        assert dropped_messages(messages) == dropped
        rendering = render_segments(Conversation(messages=messages), CODEC)
        assert rendering.tokens == render(Conversation(messages=messages), CODEC)
        kept = render_segments(Conversation(messages=messages), CODEC, drop_analysis=False)
        assert not any(segment.dropped for segment in kept.segments)
        assert kept.tokens == render(Conversation(messages=messages), CODEC, drop_analysis=False)


def test_of_instructions_alone_the_prefix_is_all_but_the_next_header() -> None:
    conversation = Conversation(messages=(Message.system(SystemContent()),))
    rendering = render_segments(conversation, CODEC)
    assert rendering.prefix == len(render(conversation, CODEC, None)) < len(rendering.tokens)


def test_nothing_that_was_dropped_is_a_boundary() -> None:
    messages = (*turn(1), Message.tool("python", "1", channel="analysis"), Message.user("Go on"))
    messages = (messages[0], messages[3], *messages[1:3], messages[4])
    rendering = render_segments(Conversation(messages=messages), CODEC)
    dropped = {segment.index for segment in rendering.segments if segment.dropped}
    assert dropped == {1, 2}
    answer = next(segment for segment in rendering.segments if segment.index == 3)
    assert rendering.boundaries == [answer.start + rendering.reply_header, len(rendering.tokens)]


def test_a_rendering_of_nothing_has_no_boundaries() -> None:
    rendering = render_segments(Conversation(), CODEC, None)
    assert (rendering.tokens, rendering.prefix, rendering.boundaries) == ([], 0, [])


def test_a_turn_encodes_only_what_is_new() -> None:
    counting = Counting()
    spent = []
    for turns in range(1, 30):
        before = counting.characters
        render(talk(turns), counting)
        spent.append(counting.characters - before)
    # One turn's texts and headers, for any number of turns; the first turn also has the system message.
    assert max(spent[1:]) < 120
    assert min(spent[1:]) > 60


def test_rendering_is_linear_in_what_is_encoded() -> None:
    characters = []
    for turns in (50, 100, 200):
        counting = Counting()
        render(talk(turns), counting)
        characters.append(counting.characters)
    assert characters[2] / characters[0] == pytest.approx(4, rel=0.15)


def test_the_cache_is_bounded_and_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["gptoss_mlx.harmony.render"], "CACHED_TOKENS", 40)
    counting = Counting()
    for _ in range(2):
        assert render(talk(20), counting) == render(talk(20), CODEC)
    assert counting.characters > 1900


def test_the_least_recently_used_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gptoss_mlx.harmony.render"], "CACHED_TOKENS", 10)
    cache = _TokenCache()
    first, second, third, fourth = ((Message.user(str(number)), False) for number in range(4))
    for _ in range(2):  # the second time they are already there and are not counted again
        cache.put(first, array("I", range(5)))
        cache.put(second, array("I", range(5)))
    assert cache.get(first) == array("I", range(5))
    cache.put(third, array("I", range(1)))
    assert cache.get(second) is None
    cache.put(fourth, array("I", range(4)))
    assert [cache.get(key) is not None for key in (first, second, third, fourth)] == [True, False, True, True]
    cache.put(second, array("I", range(100)))  # larger than the bound: kept alone
    assert [cache.get(key) is not None for key in (first, second, third, fourth)] == [False, True, False, False]
    cache.put(first, array("I", range(10)))
    assert cache.get(second) is None
    assert cache.get(first) is not None


def test_equal_texts_under_another_tokenizer_are_not_shared() -> None:
    other = Counting()
    render(talk(1), CODEC)
    render(talk(1), other)
    assert other.characters > 0


def test_a_tokenizer_is_not_kept_alive() -> None:
    counting = Counting()
    render(talk(1), counting)
    gone = weakref.ref(counting)
    del counting
    gc.collect()
    assert gone() is None


def test_threads_may_render_at_once() -> None:
    expected = [render(talk(turns), CODEC) for turns in range(1, 9)]
    shared = Counting()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda turns: render(talk(turns), shared), range(1, 9))) == expected


def test_the_line_about_functions_follows_the_developer_message() -> None:
    system = Message.system(SystemContent())
    functions = ToolNamespace.functions(ToolDescription(name="f"))
    line = "must go to the commentary channel: 'functions'."
    for content, there in (
        (DeveloperContent(tools=(functions,)), True),
        (DeveloperContent(tools=(ToolNamespace.functions(),)), False),
        (DeveloperContent(instructions="x"), False),
    ):
        conversation = Conversation(messages=(system, Message.developer(content)))
        assert (line in CODEC.decode(render(conversation, CODEC))) is there
        assert render(conversation, CODEC) == oracle_render(conversation)


def say_everywhere(text: str) -> Conversation:
    """A conversation with the same text in every field that accepts any text."""
    schema = {
        "type": "object",
        "title": text,
        "description": text,
        "properties": {
            text: {"type": "string", "title": text, "description": text, "examples": [text], "default": text},
            "e": {"type": "string", "enum": [text], "default": text},
            "o": {"oneOf": [{"type": "string", "description": text, "default": text}], "description": f"o{text}"},
        },
        "required": [text],
    }
    tool = ToolDescription(name="f", description=text, parameters=schema)
    namespaces: Any = (
        ToolNamespace(name="functions", description=text, tools=(tool,)),
        ToolNamespace(name="plain", description=text),
    )
    return Conversation(
        messages=(
            Message.system(SystemContent(model_identity=text, knowledge_cutoff=text, tools=namespaces)),
            Message.developer(DeveloperContent(instructions=text, tools=namespaces)),
            Message.user(text),
            Message.assistant(text, channel="analysis"),
            Message.assistant(text, channel="commentary", recipient="functions.f"),
            Message.tool("functions.f", text),
            Message.assistant(text, channel="final"),
        )
    )


@pytest.mark.parametrize("text", CONTROL_STRINGS)
def test_no_text_anywhere_becomes_a_control_token(text: str) -> None:
    special = set(CODEC.special.values())
    tokens = render(say_everywhere(text), CODEC)
    harmless = render(say_everywhere("text"), CODEC)
    assert [token for token in tokens if token in special] == [token for token in harmless if token in special]
    assert tokens == oracle_render(say_everywhere(text), drop_analysis=False)


def test_the_turn_drawn_in_the_documentation_is_what_is_rendered() -> None:
    drawn = [line.strip() for line in (harmony.__doc__ or "").split("taken apart")[0].splitlines()]
    turn_on_the_wire = "".join(line for line in drawn if line.startswith("<|start|>"))
    messages = (
        Message.user("How warm is Oslo?"),
        Message.assistant("I need the tool.", channel="analysis"),
        Message.assistant(
            '{"city":"Oslo"}',
            channel="commentary",
            recipient="functions.temp",
            content_type="<|constrain|>json",
        ),
        Message.tool("functions.temp", '{"celsius":4}'),
        Message.assistant("Four degrees.", channel="final"),
    )
    assert render_for_training(Conversation(messages=messages), CODEC) == wire(turn_on_the_wire)


def test_the_oracle_decodes_what_we_render() -> None:
    assert oracle().decode_utf8(render(talk(1), CODEC)) == CODEC.decode(render(talk(1), CODEC))
