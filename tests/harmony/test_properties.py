"""Properties of every conversation and every text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gptoss_mlx.errors import RenderError
from gptoss_mlx.harmony import (
    Author,
    Conversation,
    DeveloperContent,
    Message,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespace,
    parse,
    render,
)
from gptoss_mlx.harmony.content import Schema
from gptoss_mlx.harmony.fields import check_content_type, check_name, check_recipient, check_tool_name
from tests.harmony.fixtures import CONTROL_STRINGS, oracle_render, random_message, random_schema, tokenizer

CODEC = tokenizer()
SPECIAL = set(CODEC.special.values())

# A fixed number of examples and no deadline: every run, on any machine, has the same examples.
budget = settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
texts = st.lists(st.one_of(plain, st.sampled_from(CONTROL_STRINGS)), max_size=5).map("".join)
names = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)


def accepted(check: Callable[[Any, str], str]) -> st.SearchStrategy[str]:
    """Texts that a field accepts, filtered from texts of every kind."""

    def passes(text: str) -> bool:
        with contextlib.suppress(RenderError):
            check(text, "field")
            return True
        return False

    words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)
    marked = st.one_of(words, words.map("<|constrain|>".__add__), st.just("<|constrain|>"))
    return st.one_of(words, texts, marked).filter(passes)


authors = st.one_of(
    st.builds(Author, role=st.sampled_from(["user", "assistant"]), name=st.none() | names),
    st.builds(Author, role=st.just("tool"), name=names.filter(lambda name: name.lower() not in tuple(Role))),
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    author = draw(authors)
    channels = ["analysis", "commentary"] + (["final"] if author.role is not Role.TOOL else [])
    return Message(
        author=author,
        content=(TextContent(text=draw(texts)),),
        channel=draw(st.none() | st.sampled_from(channels)),  # type: ignore[arg-type]
        # The recipient "all" is not rendered, so it cannot be parsed.
        recipient=draw(st.none() | accepted(check_recipient).filter(lambda name: name != "all")),
        content_type=draw(st.none() | accepted(check_content_type)),
    )


conversations = st.lists(messages(), max_size=4).map(lambda made: Conversation(messages=tuple(made)))


@budget
@given(conversations)
def test_parsing_what_was_rendered_gives_the_conversation_back(conversation: Conversation) -> None:
    tokens = render(conversation, CODEC, None, drop_analysis=False)
    assert tokens == oracle_render(conversation, None, drop_analysis=False)
    assert parse(tokens, CODEC, role=None) == list(conversation)


@budget
@given(st.randoms(use_true_random=False))
def test_the_same_for_conversations_as_they_are_used(rng: Any) -> None:
    made = [random_message(rng) for _ in range(rng.randint(1, 5))]
    tokens = render(Conversation(messages=tuple(made)), CODEC, None, drop_analysis=False)
    for message, read in zip(made, parse(tokens, CODEC, role=None), strict=True):
        assert (read.author, read.channel, read.content_type) == (
            message.author,
            message.channel,
            message.content_type,
        )
        assert read.recipient == (None if message.recipient == "all" else message.recipient)
        assert read.text == message.text


@budget
@given(st.builds(SystemContent, model_identity=texts, knowledge_cutoff=texts), texts)
def test_system_and_developer_messages_come_back_as_their_text(system: SystemContent, instructions: str) -> None:
    conversation = Conversation(messages=(Message.system(system), Message.developer(instructions)))
    read = parse(render(conversation, CODEC, None), CODEC, role=None, strict=True)
    assert [message.role for message in read] == ["system", "developer"]
    assert read[0].text.startswith(f"{system.model_identity}\nKnowledge cutoff: {system.knowledge_cutoff}\n")
    assert read[1].text == f"# Instructions\n\n{instructions}"


def controls(conversation: Conversation) -> list[int]:
    """The control tokens of a rendering, in order."""
    return [token for token in render(conversation, CODEC, drop_analysis=False) if token in SPECIAL]


@budget
@given(texts)
def test_no_text_changes_the_number_of_control_tokens(text: str) -> None:
    def say(what: str) -> Conversation:
        schema = {
            "type": "object",
            "description": what,
            "properties": {what: {"type": "string", "description": what, "default": what, "enum": [what]}},
        }
        tool = ToolDescription(name="f", description=what, parameters=schema)
        tools = (ToolNamespace(name="functions", description=what, tools=(tool,)),)
        return Conversation(
            messages=(
                Message.system(SystemContent(model_identity=what, knowledge_cutoff=what, tools=tools)),
                Message.developer(DeveloperContent(instructions=what, tools=tools)),
                Message.user(what),
                Message.assistant(what, channel="commentary", recipient="functions.f"),
                Message.tool("functions.f", what),
            )
        )

    assert controls(say(text)) == controls(say("x"))


@budget
@given(messages())
def test_no_header_field_changes_the_number_of_control_tokens(message: Message) -> None:
    marks = (message.channel is not None) + (message.content_type or "").startswith("<|constrain|>")
    assert len(controls(Conversation(messages=(message,)))) == 3 + marks + 1


FIELDS: list[tuple[Callable[[Any, str], str], str]] = [
    (check_name, ""),
    (check_tool_name, ""),
    (check_recipient, ""),
    (check_content_type, "<|constrain|>"),
]


@budget
@given(st.sampled_from(FIELDS), st.one_of(texts, st.text(max_size=10), names))
def test_a_field_is_one_harmless_word_or_a_clear_error(
    field: tuple[Callable[[Any, str], str], str], text: str
) -> None:
    check, mark = field
    problem = None
    try:
        check(text, "the field")
    except RenderError as error:
        problem = str(error)
    if problem is not None:
        assert problem.startswith("the field: ")
        assert "allowed" in problem
        return
    word = text.removeprefix(mark) if mark else text
    assert not any(character.isspace() or not character.isprintable() for character in word)
    assert "<|" not in word
    assert "|>" not in word


@budget
@given(st.randoms(use_true_random=False))
def test_json_gives_the_schema_back(rng: Any) -> None:
    schema = {"type": "object", "properties": {"p": random_schema(rng)}}
    tool = ToolDescription(name="f", parameters=schema)
    developer = Message.developer(DeveloperContent(tools=(ToolNamespace.functions(tool),)))
    assert tool.parameters == Schema(schema)
    assert Message.from_dict(developer.to_dict()) == developer
    assert Schema(schema).to_dict() == schema
