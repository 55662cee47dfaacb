"""openai-harmony's 23 golden files, with their inputs declared again in our types."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss_mlx.harmony import (
    ChannelConfig,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    builtin,
    parse,
    render,
)
from tests import DATA
from tests.harmony.fixtures import golden, tokenizer, wire

CAPITAL = "What is the capital of the largest country in the world?"
EFFORTS = [*ReasoningEffort]


def rendered(*messages: Message, **options: Any) -> list[int]:
    return render(Conversation(messages=messages), tokenizer(), **options)


def only_analysis_and_final(**fields: Any) -> Message:
    channels = ChannelConfig(valid_channels=("analysis", "final"))  # type: ignore[arg-type]
    return Message.system(SystemContent(channel_config=channels, **fields))


def dated(*tools: ToolNamespace, **fields: Any) -> Message:
    return Message.system(SystemContent(conversation_start_date="2025-06-28", tools=tools, **fields))


def test_simple_convo() -> None:
    assert rendered(Message.system(SystemContent()), Message.user("What is 2 + 2?")) == wire(
        golden("test_simple_convo")
    )


@pytest.mark.parametrize("effort", EFFORTS)
def test_simple_convo_with_effort(effort: ReasoningEffort) -> None:
    system = Message.system(SystemContent(reasoning_effort=effort))
    developer = Message.developer("Answer the user's questions like a robot.")
    with_instruction = golden(f"test_simple_convo_{effort}_effort")
    without = golden(f"test_simple_convo_{effort}_effort_no_instruction")
    assert rendered(system, developer, Message.user(CAPITAL)) == wire(with_instruction)
    assert rendered(system, Message.user(CAPITAL)) == wire(without)


def test_simple_reasoning_response() -> None:
    tokens = [int(number) for number in golden("test_simple_reasoning_response").split()]
    thought = 'User asks: "What is 2 + 2?" Simple arithmetic. Provide answer.'
    assert parse(tokens, tokenizer(), strict=True) == [
        Message.assistant(thought, channel="analysis"),
        Message.assistant("2 + 2 = 4.", channel="final"),
    ]


def test_simple_tool_call() -> None:
    tokens = [int(number) for number in golden("test_simple_tool_call").split()]
    thought = 'User asks: "What is the weather in Tokyo?" We need to use lookup_weather tool.'
    call = Message.assistant(
        '{"location": "Tokyo"}', channel="analysis", recipient="lookup_weather", content_type="code"
    )
    assert parse(tokens, tokenizer(), strict=True) == [Message.assistant(thought, channel="analysis"), call]


def test_reasoning_system_message() -> None:
    tokens = rendered(only_analysis_and_final(), Message.user("What is 2 + 2?"))
    assert tokens == wire(golden("test_reasoning_system_message"))


def test_reasoning_system_message_no_instruction() -> None:
    system = only_analysis_and_final(reasoning_effort="high")
    tokens = rendered(system, Message.user("What is the best place to eat candy in the world?"))
    assert tokens == wire(golden("test_reasoning_system_message_no_instruction"))


def test_reasoning_system_message_with_dates() -> None:
    system = only_analysis_and_final(conversation_start_date="2021-01-01", knowledge_cutoff="2021-01")
    tokens = rendered(system, Message.user("What is 42 * pi?"))
    assert tokens == wire(golden("test_reasoning_system_message_with_dates"))


FORMAT = {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"}
WEATHER = [
    ToolDescription(name="get_location", description="Gets the location of the user."),
    ToolDescription(
        name="get_current_weather",
        description="Gets the current weather in the provided location.",
        parameters={
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "format": FORMAT,
            },
            "required": ["location"],
        },
    ),
    ToolDescription(
        name="get_multiple_weathers",
        description="Gets the current weather in the provided list of locations.",
        parameters={
            "type": "object",
            "properties": {
                "locations": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": 'List of city and state, e.g. ["San Francisco, CA", "New York, NY"]',
                },
                "format": FORMAT,
            },
            "required": ["locations"],
        },
    ),
    ToolDescription(
        name="kitchensink",
        description="A function with various complex schemas.",
        parameters={
            "description": "params object",
            "type": "object",
            "properties": {
                "string": {
                    "type": "string",
                    "title": "STRING",
                    "description": "A string",
                    "examples": ["hello", "world"],
                },
                "string_nullable": {
                    "type": "string",
                    "nullable": True,
                    "description": "A nullable string",
                    "default": "the default",
                },
                "string_enum": {"type": "string", "enum": ["a", "b", "c"]},
                "oneof_string_or_number": {
                    "oneOf": [
                        {"type": "string", "default": "default_string_in_oneof"},
                        {"type": "number", "description": "numbers can happen too"},
                    ],
                    "description": "a oneof",
                    "default": 20,
                },
            },
        },
    ),
]


def test_render_functions_with_parameters() -> None:
    developer = DeveloperContent(
        instructions="Always respond in riddles", tools=(ToolNamespace.functions(*WEATHER),)
    )
    tokens = rendered(
        dated(reasoning_effort="high"),
        Message.developer(developer),
        Message.user("What is the weather like in SF?"),
    )
    assert tokenizer().decode(tokens) == golden("test_render_functions_with_parameters")


def test_no_tools() -> None:
    assert rendered(dated()) == wire(golden("test_no_tools"))


def test_browser_tool_only() -> None:
    assert tokenizer().decode(rendered(dated(builtin.browser()))) == golden("test_browser_tool_only")


def test_browser_and_function_tool() -> None:
    lookup = ToolDescription(
        name="lookup_weather",
        description="Use this tool to lookup the weather in a given location. Call it with the parameter "
        "'location', can be any textual description of a location.",
        parameters={
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    )
    developer = DeveloperContent(tools=(ToolNamespace.functions(lookup),))
    tokens = rendered(dated(builtin.browser()), Message.developer(developer))
    assert tokenizer().decode(tokens) == golden("test_browser_and_function_tool")


def test_browser_and_python_tool() -> None:
    tokens = rendered(dated(builtin.python(), builtin.browser()))
    assert tokenizer().decode(tokens) == golden("test_browser_and_python_tool")


def test_dropping_cot_by_default() -> None:
    tokens = rendered(
        Message.user("What is 2 + 2?"),
        Message.assistant("User asks: “What is 2 + 2?” Simple arithmetic. Provide answer.", channel="analysis"),
        Message.assistant("2 + 2 equals 4.", channel="final"),
        Message.user("What about 9 / 2?"),
    )
    assert tokens == wire(golden("test_dropping_cot_by_default"))


def test_does_not_drop_if_ongoing_analysis() -> None:
    name = "functions.lookup_weather"
    result = Message.from_dict(
        {"role": "tool", "name": name, "content": '{"temperature": 20, "description": "sunny"}'}
    )
    tokens = rendered(
        Message.user("What is the weather in SF?"),
        Message.assistant(
            "User asks: “What is the weather in SF?” We need to use lookup_weather tool.", channel="analysis"
        ),
        Message.assistant(
            '{"location": "San Francisco"}',
            channel="commentary",
            recipient=name,
            content_type="<|constrain|>json",
        ),
        result,
    )
    assert tokens == wire(golden("test_does_not_drop_if_ongoing_analysis"))


def test_preserve_cot() -> None:
    tokens = rendered(
        Message.user("What is 2 + 2?"),
        Message.assistant('User asks a simple question: "What is 2 + 2?" The answer: 4.', channel="analysis"),
        Message.assistant("2 + 2 equals 4.", channel="final"),
        Message.user("What about 9 / 2?"),
        drop_analysis=False,
    )
    assert tokens == wire(golden("test_preserve_cot"))


def test_keep_analysis_between_finals() -> None:
    tokens = rendered(
        Message.user("What is 2 + 2?"),
        Message.assistant("thinking 2+2", channel="analysis"),
        Message.assistant("4", channel="final"),
        Message.user("What is 3 + 5?"),
        Message.assistant("thinking 3+5", channel="analysis"),
        Message.assistant("8", channel="final"),
        next_role=None,
    )
    assert tokens == wire(golden("test_keep_analysis_between_finals"))


def test_tool_response_parsing() -> None:
    message = Message.tool("browser.search", '{"result": "https://openai.com/"}')
    tokens = rendered(message, next_role=None)[:-1]
    assert tokens == wire(golden("test_tool_response_parsing"))
    assert parse(tokens, tokenizer(), role=None, strict=True) == [message]


def test_streamable_parser() -> None:
    messages = parse(wire(golden("test_streamable_parser")), tokenizer(), strict=True)
    assert [(m.author.name, m.channel, m.recipient, m.content_type) for m in messages] == [
        (None, "analysis", None, None),
        (None, "commentary", "browser.search", "code"),
        ("browser.search", "commentary", "assistant", None),
    ]
    assert [m.text[:9] for m in messages] == ["User asks", '{"query":', '{"result"']


def test_every_golden_file_has_its_test() -> None:
    files = {path.stem for path in (DATA / "harmony").glob("*.txt")}
    one_each = {f"test_simple_convo_{e}_effort{end}" for e in EFFORTS for end in ("", "_no_instruction")}
    assert len(files) == 23
    assert files == one_each | (files & set(globals()))
