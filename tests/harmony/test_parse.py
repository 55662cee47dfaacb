"""Streams to messages, token by token: valid and malformed output of models."""

from __future__ import annotations

import codecs
import random
from typing import Any

import pytest

from gptoss_mlx.errors import InvalidRequest, ParseError
from gptoss_mlx.harmony import Message, ParserState, RepairKind, StreamParser, parse
from gptoss_mlx.harmony.parse import MAX_HEADER_TOKENS
from tests.harmony.fixtures import NAMED, OracleParser, OracleRole, oracle, random_text, tokenizer, wire
from tests.harmony.streams import check_stream, lost_text, mutate, random_stream, recovered, strict_outcome
from tests.harmony.transcripts import TRANSCRIPTS

ANSWER = ("assistant", "final", None, None, "Yes.")
CALL = ("assistant", "commentary", "functions.f", "<|constrain|>json", "{}")
ON_FINAL = "<|channel|>final<|message|>Yes.<|return|>"


def fields(messages: list[Message]) -> list[tuple[Any, ...]]:
    return [(m.role, m.channel, m.recipient, m.content_type, m.text) for m in messages]


def kinds(messages: list[Message]) -> set[RepairKind]:
    return {repair.kind for message in messages for repair in message.repairs}


def said(text: str, channel: str | None = None) -> tuple[Any, ...]:
    return ("assistant", channel, None, None, text)


MALFORMED: dict[str, tuple[str, list[tuple[Any, ...]], set[RepairKind]]] = {
    "the recipient after the channel": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [CALL],
        set(),
    ),
    "the recipient before the channel": (
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        [CALL],
        set(),
    ),
    "a tool call on analysis": (
        "<|channel|>analysis to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [("assistant", "analysis", "functions.f", "<|constrain|>json", "{}")],
        set(),
    ),
    "a doubled start": (f"<|start|>assistant{ON_FINAL}", [ANSWER], {RepairKind.DOUBLED_START}),
    "a start three times": (
        f"<|start|><|start|><|start|>assistant{ON_FINAL}",
        [ANSWER],
        {RepairKind.DOUBLED_START},
    ),
    "a start doubled later": (
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|><|start|>assistant{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.DOUBLED_START},
    ),
    "assistant once more": (f"assistant{ON_FINAL}", [ANSWER], set()),
    "assistant twice more, glued": (f"assistantassistant{ON_FINAL}", [ANSWER], {RepairKind.DOUBLED_ROLE}),
    "assistant twice more, apart": (f"assistant assistant{ON_FINAL}", [ANSWER], {RepairKind.DOUBLED_ROLE}),
    "assistant doubled later": (
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistantassistant{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.DOUBLED_ROLE},
    ),
    "start and assistant again inside the header": (
        f"<|start|>assistant<|start|>assistant{ON_FINAL}",
        [ANSWER],
        {RepairKind.DOUBLED_START, RepairKind.FRAGMENT},
    ),
    "the content type before the recipient": (
        "<|channel|>commentary <|constrain|>json to=functions.f<|message|>{}<|call|>",
        [CALL],
        {RepairKind.ODD_ORDER},
    ),
    "the content type before the channel": (
        " <|constrain|>json to=functions.f<|channel|>commentary<|message|>{}<|call|>",
        [CALL],
        {RepairKind.ODD_ORDER},
    ),
    "constrain glued to the channel": (
        " to=functions.f<|channel|>commentary<|constrain|>json<|message|>{}<|call|>",
        [CALL],
        set(),
    ),
    "constrain apart from its word": (
        "<|channel|>commentary to=functions.f <|constrain|> json<|message|>{}<|call|>",
        [CALL],
        set(),
    ),
    "the recipient glued to the channel": (
        "<|channel|>commentaryto=functions.f <|constrain|>json<|message|>{}<|call|>",
        [CALL],
        {RepairKind.ODD_ORDER},
    ),
    "two recipients": (
        "<|channel|>commentary to=functions.g to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [CALL],
        {RepairKind.DOUBLED_RECIPIENT},
    ),
    "a missing start between messages": (
        f"<|channel|>analysis<|message|>Hm.<|end|>assistant{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.MISSING_START},
    ),
    "a missing start and role": (
        f"<|channel|>analysis<|message|>Hm.<|end|>{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.MISSING_START, RepairKind.MISSING_ROLE},
    ),
    "a missing role": (
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.MISSING_ROLE},
    ),
    "a newline after end": (
        f"<|channel|>analysis<|message|>Hm.<|end|>\n<|start|>assistant{ON_FINAL}\n",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.STRAY_WHITESPACE},
    ),
    "an answer whose header never finishes": (
        "<|channel|>final The answer is that it rains in Oslo, and a lot.<|return|>",
        [said("The answer is that it rains in Oslo, and a lot.", "final")],
        {RepairKind.UNFINISHED_HEADER},
    ),
    "a short one": ("<|channel|>final Yes.<|return|>", [ANSWER], {RepairKind.UNFINISHED_HEADER}),
    "no header at all": (
        "Sure, here is the answer to it.<|return|>",
        [said("Sure, here is the answer to it.")],
        {RepairKind.UNFINISHED_HEADER},
    ),
    "one word and no header": ("json<|return|>", [said("json")], {RepairKind.UNFINISHED_HEADER}),
    "text before the first header": (
        f"We need to look at that.<|end|><|start|>assistant{ON_FINAL}",
        [said("We need to look at that."), ANSWER],
        {RepairKind.UNFINISHED_HEADER},
    ),
    "text that runs into a header": (
        f"We need to look at that.{ON_FINAL}",
        [said("We need to look at that."), ANSWER],
        {RepairKind.UNFINISHED_HEADER, RepairKind.MISSING_START, RepairKind.MISSING_ROLE},
    ),
    "text that runs into a start": (
        f"We need to look at that.<|start|>assistant{ON_FINAL}",
        [said("We need to look at that."), ANSWER],
        {RepairKind.UNFINISHED_HEADER},
    ),
    "text where the message token is late": (
        "<|channel|>final It rains a lot in<|message|> Oslo.<|return|>",
        [said("It rains a lot in Oslo.", "final")],
        {RepairKind.UNFINISHED_HEADER, RepairKind.STRAY_TOKEN},
    ),
    "text between messages": (
        f"<|channel|>analysis<|message|>Hm.<|end|>Let me see about it.<|start|>assistant{ON_FINAL}",
        [said("Hm.", "analysis"), said("Let me see about it."), ANSWER],
        {RepairKind.MISSING_START, RepairKind.UNFINISHED_HEADER, RepairKind.MISSING_ROLE},
    ),
    "channel twice": (
        f"<|channel|>analysis{ON_FINAL}",
        [ANSWER],
        {RepairKind.DOUBLED_CHANNEL},
    ),
    "channel twice, named once": (f"<|channel|>{ON_FINAL}", [ANSWER], {RepairKind.MISSING_CHANNEL}),
    "channel without a name": (
        "<|channel|><|message|>Yes.<|return|>",
        [said("Yes.")],
        {RepairKind.MISSING_CHANNEL},
    ),
    "a channel of another name": (
        "<|channel|>answer<|message|>Yes.<|return|>",
        [said("Yes.")],
        {RepairKind.UNKNOWN_CHANNEL},
    ),
    "a role of another name on final": (
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistan{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.UNKNOWN_ROLE},
    ),
    "a terminator too many": (f"{ON_FINAL}<|end|>", [ANSWER], {RepairKind.STRAY_TOKEN}),
    "a strange token in a header": (f"<|endoftext|>{ON_FINAL}", [ANSWER], {RepairKind.STRAY_TOKEN}),
    "a recipient that is none": (
        "<|channel|>commentary to=<|message|>{}<|call|>",
        [said("{}", "commentary")],
        {RepairKind.BAD_RECIPIENT},
    ),
    "a tool call whose header never finishes": (
        "<|channel|>commentary to=functions.f<|call|>",
        [("assistant", "commentary", "functions.f", None, "")],
        {RepairKind.UNFINISHED_HEADER},
    ),
    "a role as recipient, and another channel": (
        f"<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{ON_FINAL}",
        [("assistant", "analysis", "assistant", None, "Hm."), ANSWER],
        {RepairKind.DOUBLED_CHANNEL, RepairKind.NO_TOOL},
    ),
    "an answer to the assistant": (
        f" to=assistant{ON_FINAL}",
        [("assistant", "final", "assistant", None, "Yes.")],
        {RepairKind.NO_TOOL},
    ),
    "an answer to the user": (
        "<|channel|>final to=user<|message|>Yes.<|return|>",
        [("assistant", "final", "user", None, "Yes.")],
        {RepairKind.NO_TOOL},
    ),
    "an answer to all": (
        "<|channel|>final to=all<|message|>Yes.<|return|>",
        [("assistant", "final", "all", None, "Yes.")],
        {RepairKind.NO_TOOL},
    ),
    "role and channel glued, in the first header": (
        "assistantcommentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [CALL],
        {RepairKind.GLUED_WORDS},
    ),
    "role and channel glued, in a later header": (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistantcommentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [said("Hm.", "analysis"), CALL],
        {RepairKind.GLUED_WORDS},
    ),
    "role and channel glued, and no message token": (
        '<|start|>assistantcommentary to=functions.f {"city": "Oslo"}<|call|>',
        [("assistant", "commentary", "functions.f", None, '{"city": "Oslo"}')],
        {RepairKind.DOUBLED_START, RepairKind.GLUED_WORDS, RepairKind.UNFINISHED_HEADER},
    ),
    "dashes between role and channel": (
        "<|start|>assistant––commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        [CALL],
        {RepairKind.DOUBLED_START, RepairKind.GLUED_WORDS},
    ),
    "thinking under a glued header": (
        f"assistantanalysis<|message|>Hm.<|end|><|start|>assistant{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.GLUED_WORDS},
    ),
    "a channel without its marker": (
        f"analysis<|message|>Hm.<|end|><|start|>assistant{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.MISSING_MARKER},
    ),
    "a channel with a question mark": (
        f"<|channel|>commentary?<|message|>Let me see.<|end|><|start|>assistant{ON_FINAL}",
        [said("Let me see.", "commentary"), ANSWER],
        {RepairKind.GLUED_WORDS},
    ),
    "a marked channel before one without marker": (
        "<|channel|>final analysis<|message|>Yes.<|return|>",
        [ANSWER],
        {RepairKind.MISSING_MARKER},
    ),
    "an empty message without end": (
        f"<|channel|>commentary<|message|><|start|>assistant{ON_FINAL}",
        [ANSWER],
        {RepairKind.MISSING_END},
    ),
    "thinking without end, before a start": (
        f"<|channel|>analysis<|message|>Hm.<|start|>assistant{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.MISSING_END},
    ),
    "thinking without end, before a channel": (
        f"<|channel|>analysis<|message|>Hm.{ON_FINAL}",
        [said("Hm.", "analysis"), ANSWER],
        {RepairKind.MISSING_END, RepairKind.MISSING_START, RepairKind.MISSING_ROLE},
    ),
    "a channel marker inside thinking": (
        f"<|channel|>analysis<|message|>Hm.<|channel|> So it goes on.<|end|><|start|>assistant{ON_FINAL}",
        [said("Hm.", "analysis"), said("So it goes on.", "analysis"), ANSWER],
        {RepairKind.MISSING_END, RepairKind.MISSING_START, RepairKind.MISSING_ROLE, RepairKind.UNFINISHED_HEADER},
    ),
    "a message token twice": (
        "<|channel|>final<|message|><|message|>Yes.<|return|>",
        [ANSWER],
        {RepairKind.STRAY_TOKEN},
    ),
    "question marks before an answer": (
        f"<|channel|>??<|end|><|start|>assistant{ON_FINAL}",
        [ANSWER],
        {RepairKind.FRAGMENT},
    ),
    "a doubled channel and nothing else before an answer": (
        f"commentary?commentary?<|end|><|start|>assistant{ON_FINAL}",
        [ANSWER],
        {RepairKind.FRAGMENT},
    ),
    "the same with markers and a recipient": (
        f"<|channel|>commentary to=assistant<|channel|>commentary?<|end|><|start|>assistant{ON_FINAL}",
        [ANSWER],
        {RepairKind.FRAGMENT},
    ),
    "nothing but question marks": ("<|channel|>??<|return|>", [said("??")], {RepairKind.FRAGMENT}),
    "question marks before a call": (
        "<|channel|>??<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
        [("assistant", "commentary", "functions.f", "json", "{}")],
        {RepairKind.FRAGMENT},
    ),
    "a tool's name as role": (
        "<|start|>functions.f<|channel|>commentary json<|message|>{}<|call|>",
        [("tool", "commentary", None, "json", "{}")],
        {RepairKind.DOUBLED_START},
    ),
    "arguments inside the header": (
        '<|channel|>commentary to=functions.f {"city": "Oslo"}<|call|>',
        [("assistant", "commentary", "functions.f", None, '{"city": "Oslo"}')],
        {RepairKind.UNFINISHED_HEADER},
    ),
}


@pytest.mark.parametrize("name", list(MALFORMED))
def test_what_real_models_emit_is_recovered(name: str) -> None:
    text, expected, repairs = MALFORMED[name]
    tokens = wire(text)
    messages = recovered(tokens, "assistant")
    assert fields(messages) == expected
    assert kinds(messages) == repairs
    assert not any(message.truncated for message in messages)
    assert not lost_text(tokens, messages)


@pytest.mark.parametrize("name", list(MALFORMED))
def test_strict_accepts_and_rejects_them_as_the_oracle_does(name: str) -> None:
    check_stream(wire(MALFORMED[name][0]), "assistant")


@pytest.mark.parametrize("text", TRANSCRIPTS)
def test_a_real_transcript_needs_no_repair(text: str) -> None:
    tokens = wire(text)
    assert check_stream(tokens, "assistant")
    messages = recovered(tokens, "assistant")
    assert not kinds(messages)
    assert not any(message.truncated for message in messages)


@pytest.mark.parametrize("text", TRANSCRIPTS)
def test_truncated_at_any_token_everything_said_is_kept_and_marked(text: str) -> None:
    tokens = wire(text)
    whole = recovered(tokens, "assistant")
    stops = {NAMED["<|end|>"], NAMED["<|return|>"], NAMED["<|call|>"]}
    for end in range(len(tokens)):
        cut = tokens[:end]
        messages = recovered(cut, "assistant")
        finished = sum(token in stops for token in cut)
        assert messages[:finished] == whole[:finished]
        assert len(messages) <= finished + 1
        for message in messages[finished:]:
            assert message.truncated
            beginning = message.text.rstrip("\ufffd")
            # After a start token, the first words of a tool's name may also be text.
            name = whole[finished].author.name or ""
            assert whole[finished].text.startswith(beginning) or name.startswith(beginning)
            assert message.channel in (whole[finished].channel, None)
        assert not lost_text(cut, messages) or not messages


@pytest.mark.parametrize("index", range(20))
def test_any_one_token_edit_is_survived_without_losing_text(index: int) -> None:
    tokens = wire(TRANSCRIPTS[index])
    inserted = [*NAMED.values(), *wire(" to=x assistant final\nword")]
    rng = random.Random(index)
    for at in range(len(tokens) + 1):
        for edit in [[], *([token] for token in inserted)]:
            for kept in (tokens[at:], tokens[at + 1 :]):
                stream = [*tokens[:at], *edit, *kept]
                messages = parse(stream, tokenizer())
                assert messages
                assert not lost_text(stream, messages)
        # Only one edit for each position is compared with the oracle; the long run has many more.
        check_stream([*tokens[:at], rng.choice(inserted), *tokens[at + rng.randint(0, 1) :]], "assistant")


def test_broken_streams_equal_the_oracle_or_recover() -> None:
    other: list[int] = []
    accepted = 0
    for seed in range(1500):
        rng = random.Random(seed)
        tokens, role = random_stream(rng)
        if seed % 3:
            tokens = mutate(rng, tokens, other or tokens)
        accepted += check_stream(tokens, role)
        other = tokens
    assert 300 < accepted < 1400


@pytest.mark.parametrize("seed", range(40))
def test_noise_of_any_kind_is_survived(seed: int) -> None:
    rng = random.Random(seed)
    pool = [*NAMED.values(), *wire("assistant analysis final to=x functions json \n a"), 172, 253, 300_000]
    tokens = rng.choices(pool, k=60)
    for role in ("assistant", None):
        messages = recovered(tokens, role)
        assert not lost_text([t for t in tokens if t != 300_000], messages)


def split(data: bytes, rng: random.Random) -> list[int]:
    """Bytes cut into tokens at random, in any way that the vocabulary allows."""
    ranks = tokenizer()._encoding._mergeable_ranks
    tokens = []
    while data:
        size = next(n for n in (rng.randint(1, 6), rng.randint(1, 3), 1) if data[:n] in ranks)
        tokens.append(ranks[data[:size]])
        data = data[size:]
    return tokens


def test_any_split_of_a_text_over_tokens_gives_the_text() -> None:
    prompt = wire("<|channel|>final<|message|>")
    for seed in range(300):
        rng = random.Random(seed)
        text = random_text(rng)
        parser = StreamParser(tokenizer())
        for token in prompt:
            parser.process(token)
        deltas = []
        reference = codecs.getincrementaldecoder("utf-8")()
        for token in split(text.encode(), rng):
            parser.process(token)
            deltas.append(parser.last_delta)
            # Each delta comes as early as possible and has whole characters.
            assert deltas[-1] == reference.decode(tokenizer().token_bytes(token))
        parser.process(NAMED["<|return|>"])
        assert "".join(deltas) == text == parser.messages[0].text


@pytest.mark.parametrize("seed", range(60))
def test_bytes_that_are_no_text_become_replacement_characters(seed: int) -> None:
    rng = random.Random(seed)
    data = bytes(rng.choices([0x61, 0x20, 0xC3, 0xA4, 0xF0, 0x9F, 0x99, 0x82, 0xFF, 0xE2], k=20))
    tokens = [*wire("<|channel|>final<|message|>"), *split(data, rng), NAMED["<|return|>"]]
    assert check_stream(tokens, "assistant")
    assert recovered(tokens, "assistant")[0].text == data.decode(errors="replace")


def test_half_a_character_at_the_end_reaches_the_last_delta() -> None:
    parser = StreamParser(tokenizer())
    for token in [*wire("<|channel|>final<|message|>a"), 172]:
        parser.process(token)
    assert parser.last_delta == ""
    parser.process(NAMED["<|return|>"])
    assert (parser.last_delta, parser.channel) == ("\ufffd", "final")
    assert parser.messages[0].text == "a\ufffd"


@pytest.mark.parametrize("text", TRANSCRIPTS)
def test_the_current_header_and_delta_equal_the_oracles(text: str) -> None:
    ours = StreamParser(tokenizer(), "assistant")
    theirs = OracleParser(oracle(), OracleRole.ASSISTANT)
    for token in wire(text):
        ours.process(token)
        theirs.process(token)
        assert ours.state.replace(" ", "") == theirs.state.value.lower()
        if ours.state is ParserState.CONTENT and "<|channel|>final <|constrain|>" not in text:
            assert ours.role == theirs.current_role.value
            assert ours.channel == theirs.current_channel
            assert ours.recipient == theirs.current_recipient
            assert ours.content_type == theirs.current_content_type
            assert ours.text == theirs.current_content
            assert ours.last_delta == (theirs.last_content_delta or "")


def test_process_tells_what_changed() -> None:
    parser = StreamParser(tokenizer())
    changes = [
        change for token in wire("<|channel|>final<|message|>Yes.<|return|>") for change in parser.process(token)
    ]
    assert [(c.header.channel, c.delta, c.message is None) for c in changes] == [
        ("final", "Yes", True),
        ("final", ".", True),
        ("final", "", False),
    ]
    assert changes[-1].message == parser.messages[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<|start|>assistant", r"^token 0: <\|start\|> inside a header$"),
        ("<|channel|>final<|message|>a<|end|>b", r"^token 5: b where <\|start\|> is expected$"),
        ("<|channel|>loud<|message|>a", r"^token 3: header: channel: 'loud' is not one of"),
        ("<|channel|><|message|>", r"^token 1: header: a channel marker without a channel$"),
        ("<|channel|>analysis<|channel|>final<|message|>", r"^token 4: header: .*'<\|channel\|>final'"),
        ("a b c<|message|>", r"^token 3: header: words that are not fields: 'a'$"),
        ("<|channel|>final", r"^token 1: the stream ends inside a header$"),
        ("x" + " y" * MAX_HEADER_TOKENS, r"^token 512: a header of more than 512 tokens$"),
    ],
)  # fmt: skip
def test_strict_names_the_token_and_the_problem(text: str, problem: str) -> None:
    with pytest.raises(ParseError, match=problem):
        parse(wire(text), tokenizer(), strict=True)


def test_a_strict_parser_that_refused_goes_on_refusing() -> None:
    parser = StreamParser(tokenizer(), strict=True)
    for _ in range(2):
        with pytest.raises(ParseError, match="token 0"):
            parser.process(NAMED["<|end|>"])
    with pytest.raises(ParseError, match="token 0"):
        parser.close()


def test_a_closed_parser_takes_no_more() -> None:
    parser = StreamParser(tokenizer())
    parser.close()
    assert parser.close() == ()
    with pytest.raises(InvalidRequest, match="was closed"):
        parser.process(0)


def test_no_prompt_begins_a_tool_message() -> None:
    with pytest.raises(InvalidRequest, match="role: a tool message needs a name"):
        StreamParser(tokenizer(), "tool")


def test_a_header_without_end_is_text_soon() -> None:
    parser = StreamParser(tokenizer())
    for token in wire("<|channel|>final One two three four"):
        parser.process(token)
    assert (parser.state, parser.channel, parser.text) == (ParserState.CONTENT, "final", "One two three four")
    tokens = wire("x" * 8 * MAX_HEADER_TOKENS)
    assert recovered(tokens, "assistant")[0].text == "x" * 8 * MAX_HEADER_TOKENS


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("<|channel|>commentary to=functions.f", None),
        (" to=functions.f<|channel|>commentary", None),
        (" to=functions.f<|channel|>commentary json", "json"),
        ("<|channel|>commentary to=functions.f code\n", "code"),
        ("<|channel|>commentary to=functions.f <|constrain|>json", "<|constrain|>json"),
        (" to=functions.f<|channel|>commentary<|constrain|>", "<|constrain|>"),
        ("<|channel|>commentary <|constrain|>json to=functions.f ", "<|constrain|>json"),
        ("commentary to=functions.f", None),
    ],
)
@pytest.mark.parametrize(
    "arguments", ["", "{}", '{"a":1}', '{"a": "b c d e f", "g": {"h": [1, 2]}}', '{"a": "<|x|>"}']
)
def test_a_call_whose_header_runs_into_its_arguments_keeps_both(
    header: str, kind: str | None, arguments: str
) -> None:
    (message,) = parse(wire(f"{header}{arguments}<|call|>"), tokenizer())
    call = Message.assistant(arguments, channel="commentary", recipient="functions.f", content_type=kind)
    assert message == call
    assert RepairKind.UNFINISHED_HEADER in {repair.kind for repair in message.repairs}


@pytest.mark.parametrize("recipient", ["assistant", "user", "all", "functions.f", None])
def test_the_header_says_whether_a_message_is_a_call_before_it_ends(recipient: str | None) -> None:
    parser = StreamParser(tokenizer())
    to = "" if recipient is None else f" to={recipient}"
    changes = [
        change for token in wire(f"<|channel|>final{to}<|message|>Yes.") for change in parser.process(token)
    ]
    assert {change.header.callee for change in changes} == {"functions.f" if recipient == "functions.f" else None}


def test_positions_of_repairs_are_those_of_the_stream() -> None:
    tokens = wire("<|channel|>final<|message|>a<|end|>\n<|start|>assistant<|channel|>final<|message|>b<|end|>")
    message = parse(tokens, tokenizer())[1]
    assert [(repair.position, repair.text) for repair in message.repairs] == [(6, "\n")]


def test_strict_and_recovering_know_the_same_valid_streams() -> None:
    for text in TRANSCRIPTS:
        assert strict_outcome(wire(text), "assistant") == recovered(wire(text), "assistant")
