"""How much of malformed turns is recovered, beside openai-harmony's parser and mlx-lm's.

    python -m tests.benchmarks.harmony_malformed --turns 5000

A turn is valid at first: thinking, a preamble, and an answer or a call, in the forms that gpt-oss writes. Then one
or two mutations from a grammar of those that were reported of real models are applied, none of which changes what
the turn means. Recovered are the answer, the thinking and the calls if they are exactly the intended ones.

* This library: a chat on a model that writes the stream; a call is recovered if the function ran with the
  intended arguments.
* openai-harmony: ``parse_messages_from_completion_tokens``, strict and not; a stream that it refuses has nothing.
* mlx-lm: the state machine of its server for the tokenizer. It has no parser for harmony, so the stream is text.

5,000 turns with 26 kinds of mutations, recovered in per cent:

                                   all  answer  thinking  calls
    this library                  99.5    99.7      99.9   99.7
    the same, before the repairs  44.4    71.0      72.9   81.3
    openai-harmony, not strict    19.3    66.3      50.4   66.4
    openai-harmony, strict        16.0    64.5      44.6   65.5
    mlx-lm 0.32.2                  0.0     0.0      20.7   49.8

A turn without thinking or without a call counts as recovered if the reader finds none: hence the shares of mlx-lm.
What this library does not recover are pairs of mutations that make a text ambiguous, such as a missing end before
a missing start, and spellings of a tool's name outside the closed list.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from gptoss_mlx.harmony import Role
from tests.chat.scripted import ScriptedModel
from tests.harmony.fixtures import NAMED, OracleError, oracle, tokenizer, wire

STOPS = ("<|return|>", "<|call|>")
DONE = "Done."
ANSWERS = ["Paris.", "It is 4 degrees in Oslo, and it rains.", "Yes.", "42", "1. One\n2. Two\n\nThat is all."]
THOUGHTS = ["The user asks for a capital.", "We need the weather. Call the tool.", "Simple.", "Hm, 6 * 7 = 42."]
PREAMBLES = ["Let me look.", "**Plan**: first the weather, then the rest.", "One moment, please."]
CALLS = [
    ("get_weather", {"city": "Oslo"}),
    ("bash", {"command": "ls -l"}),
    ("python", {"code": "print(1)"}),
]  # fmt: skip


class Meaning(NamedTuple):
    """The content of a turn: what a reader should recover."""

    answer: str
    thinking: str
    calls: tuple[str, ...]


@dataclass
class Part:
    """One message of a turn, in pieces that mutations change."""

    kind: str
    content: str
    channel: str
    recipient: str = ""
    content_type: str = ""
    start: str = "<|start|>"
    role: str = "assistant"
    marker: str = "<|channel|>"
    message: str = "<|message|>"
    stop: str = "<|end|>"
    before: str = ""
    order: str = "{role}{recipient}{channel}{content_type}"

    def text(self) -> str:
        header = self.order.format(
            role=self.role,
            recipient=f" to={self.recipient}" if self.recipient else "",
            channel=self.marker + self.channel,
            content_type=f" {self.content_type}" if self.content_type else "",
        )
        return f"{self.before}{self.start}{header}{self.message}{self.content}{self.stop}"


Turn = list[Part]
Mutation = Callable[[random.Random, Turn], bool]
"""Changes a turn; False if it does not apply to it."""


def random_turn(rng: random.Random) -> Turn:
    """A valid turn. Its first message continues ``<|start|>assistant``."""
    parts = [
        Part("thinking", thought, "analysis") for thought in rng.sample(THOUGHTS, rng.choice([0, 1, 1, 1, 2]))
    ]
    if rng.random() < 0.5:
        parts.append(Part("answer", rng.choice(ANSWERS), "final", stop="<|return|>"))
    else:
        if rng.random() < 0.3:
            parts.append(Part("preamble", rng.choice(PREAMBLES), "commentary"))
        name, arguments = rng.choice(CALLS)
        call = Part("call", json.dumps(arguments), "commentary", f"functions.{name}", stop="<|call|>")
        call.content_type = rng.choice(["<|constrain|>json", "<|constrain|>json", "json", ""])
        call.order = rng.choice([call.order, "{role}{channel}{recipient}{content_type}"])
        parts.append(call)
    parts[0] = replace(parts[0], start="", role="")
    return parts


def meaning(turn: Turn) -> Meaning:
    """The meaning of a turn before it is mutated."""
    by_kind = {kind: [part for part in turn if part.kind == kind] for kind in ("answer", "thinking", "call")}
    return Meaning(
        answer="".join(part.content for part in by_kind["answer"]),
        thinking="\n\n".join(part.content for part in by_kind["thinking"]),
        calls=tuple(_call(part.recipient, part.content) for part in by_kind["call"]),
    )


def _call(name: str, arguments: str) -> str:
    """A call in a form that can be compared."""
    try:
        return f"{name} {json.dumps(json.loads(arguments), sort_keys=True)}"
    except ValueError:
        return f"{name} {arguments}"


Change = Callable[[random.Random, Part], None]


def changes(*kinds: str, first: bool = False, later: bool = False) -> Callable[[Change], Mutation]:
    """Makes a mutation from a change of one message of certain kinds: any, the first, whose start and role are in
    the prompt, or a later one."""

    def decorate(change: Change) -> Mutation:
        def mutation(rng: random.Random, turn: Turn) -> bool:
            found = [part for part in turn[int(later) : 1 if first else None] if part.kind in kinds]
            if found:
                change(rng, rng.choice(found))
            return bool(found)

        mutation.__name__ = change.__name__
        MUTATIONS.append(mutation)
        return mutation

    return decorate


MUTATIONS: list[Mutation] = []
SPOKEN = ("thinking", "preamble", "answer")
ANY = (*SPOKEN, "call")


@changes(*SPOKEN)
def addressed_to_a_role(rng: random.Random, part: Part) -> None:
    part.recipient = rng.choice(["assistant", "user", "all"])
    part.order = rng.choice([part.order, "{role}{channel}{recipient}{content_type}"])


@changes(*SPOKEN)
def commentary_to_the_assistant_first(rng: random.Random, part: Part) -> None:
    part.marker = "<|channel|>commentary to=assistant<|channel|>"


@changes("answer")
def an_answer_on_commentary(rng: random.Random, part: Part) -> None:
    part.channel = "commentary"


@changes("call")
def a_call_without_namespace(rng: random.Random, part: Part) -> None:
    part.recipient = part.recipient.removeprefix("functions.")


@changes("call")
def a_call_with_another_namespace(rng: random.Random, part: Part) -> None:
    name = part.recipient.removeprefix("functions.")
    part.recipient = rng.choice([f"function.{name}", f"functions/{name}"])


@changes("call")
def a_content_type_glued_to_the_recipient(rng: random.Random, part: Part) -> None:
    part.recipient, part.content_type = part.recipient + rng.choice(["json", "code"]), ""


@changes("call", later=True)
def a_tool_as_role(rng: random.Random, part: Part) -> None:
    part.role = part.recipient if rng.random() < 0.5 else part.recipient.removeprefix("functions.")
    part.recipient = ""


@changes(*ANY, later=True)
def role_and_channel_glued(rng: random.Random, part: Part) -> None:
    part.marker = rng.choice(["", "", "––"])
    part.order = "{role}{channel}{recipient}{content_type}"


@changes(*ANY)
def a_channel_without_marker(rng: random.Random, part: Part) -> None:
    part.marker = " " if part.role else ""
    part.order = "{role}{channel}{recipient}{content_type}"


@changes(*ANY, first=True)
def the_role_glued_after_the_prompt(rng: random.Random, part: Part) -> None:
    part.order, part.marker = "assistant{channel}{recipient}{content_type}", ""


@changes(*ANY)
def an_empty_message_without_end(rng: random.Random, part: Part) -> None:
    empty = f"<|channel|>{rng.choice(['commentary', 'analysis'])}<|message|>"
    _put_before(part, empty)


@changes(*ANY)
def junk_in_front(rng: random.Random, part: Part) -> None:
    junk = rng.choice(
        [
            "<|channel|>??",
            "commentary?commentary?",
            "<|channel|>commentary?commentary?",
            "<|channel|>commentary?",
            "",
        ]
    )
    _put_before(part, f"{junk}<|end|>")


def _put_before(part: Part, text: str) -> None:
    part.before += f"{part.start}{part.role}{text}"
    part.start, part.role = "<|start|>", part.role or "assistant"


@changes(*ANY)
def a_doubled_start(rng: random.Random, part: Part) -> None:
    part.before += "<|start|>" if part.start else ""
    part.start, part.role = "<|start|>", part.role or "assistant"


@changes(*ANY)
def a_doubled_role(rng: random.Random, part: Part) -> None:
    part.role += rng.choice(["assistant", " assistant", "<|start|>assistant"])


@changes(*ANY)
def a_doubled_channel(rng: random.Random, part: Part) -> None:
    part.marker = rng.choice(["<|channel|><|channel|>", f"<|channel|>{part.channel}<|channel|>"])


@changes(*ANY)
def a_question_mark_after_the_channel(rng: random.Random, part: Part) -> None:
    part.channel += "?"


@changes("call")
def header_words_in_odd_order(rng: random.Random, part: Part) -> None:
    part.content_type = "<|constrain|>json"
    part.order = rng.choice(
        ["{role}{channel}{content_type}{recipient}", "{role}{content_type}{recipient}{channel}"]
    )


@changes("call")
def the_recipient_glued_to_the_channel(rng: random.Random, part: Part) -> None:
    part.order = f"{{role}}{{channel}}to={part.recipient}{{content_type}}"


@changes(*ANY, later=True)
def a_missing_start(rng: random.Random, part: Part) -> None:
    part.start = ""


@changes(*SPOKEN, later=True)
def a_missing_start_and_role(rng: random.Random, part: Part) -> None:
    part.start = part.role = ""


@changes(*ANY, later=True)
def white_space_between_messages(rng: random.Random, part: Part) -> None:
    part.before += rng.choice(["\n", "\n\n", " "])


@changes("thinking", "preamble")
def a_missing_end(rng: random.Random, part: Part) -> None:
    part.stop = ""


@changes("answer", "call")
def a_missing_message_token(rng: random.Random, part: Part) -> None:
    part.message = rng.choice(["", " ", "\n"]) if part.kind == "call" else " "


@changes(*ANY)
def a_doubled_message_token(rng: random.Random, part: Part) -> None:
    part.message *= 2


@changes("call")
def a_call_on_another_channel(rng: random.Random, part: Part) -> None:
    part.channel = rng.choice(["analysis", "final"])


@changes("answer", "call")
def a_terminator_too_many(rng: random.Random, part: Part) -> None:
    part.stop = "<|end|>" + part.stop


def mutated(rng: random.Random, turn: Turn) -> tuple[str, list[str]]:
    """The stream of a turn with one or two mutations, and their names."""
    names: list[str] = []
    for mutation in rng.sample(MUTATIONS, len(MUTATIONS)):
        if mutation(rng, turn):
            names.append(mutation.__name__)
        if len(names) == rng.choice([1, 1, 2]) or len(names) == 2:
            break
    return "".join(part.text() for part in turn), names


def tokens_of(text: str) -> list[int]:
    """The tokens that a model generates: up to the first that ends the generation."""
    tokens = wire(text)
    ends = [position for position, token in enumerate(tokens) if token in {NAMED[name] for name in STOPS}]
    return tokens[: ends[0] + 1] if ends else tokens


@dataclass
class Tools:
    """Functions that record their calls."""

    calls: list[str] = field(default_factory=list)

    def get_weather(self, city: str) -> str:
        return self._called("get_weather", city=city)

    def bash(self, command: str) -> str:
        return self._called("bash", command=command)

    def python(self, code: str) -> str:
        return self._called("python", code=code)

    def _called(self, name: str, **arguments: Any) -> str:
        self.calls.append(_call(f"functions.{name}", json.dumps(arguments)))
        return "ok"


def read_by_chat(tokens: Sequence[int]) -> Meaning:
    """This library's reading: a chat, its tools and its reply."""
    tools = Tools()
    after = [f"<|channel|>final<|message|>{DONE}<|return|>"] * 4
    chat = ScriptedModel(tokens, *after).chat(tools=[tools.get_weather, tools.bash, tools.python])
    reply = chat.send("Go")
    return Meaning(reply.text.removesuffix(DONE).strip(), reply.thinking, tuple(tools.calls))


def read_by_openai(tokens: Sequence[int], strict: bool) -> Meaning:
    """openai-harmony's reading: a call is what goes to a function, and everything else is text of its channel."""
    try:
        text = oracle()._inner.parse_messages_from_completion_tokens(list(tokens), Role.ASSISTANT, strict)
    except OracleError:
        return Meaning("", "", ())
    by_kind: dict[str, list[str]] = {"final": [], "analysis": [], "call": []}
    for message in json.loads(text):
        content, channel = message["content"], message.get("channel")
        content = content if isinstance(content, str) else "".join(part["text"] for part in content)
        recipient = message.get("recipient") or ""
        if recipient.startswith("functions."):
            by_kind["call"].append(_call(recipient, content))
        elif channel in by_kind:
            by_kind[channel].append(content.strip())
    return Meaning("\n\n".join(by_kind["final"]), "\n\n".join(by_kind["analysis"]), tuple(by_kind["call"]))


def read_by_mlx_lm(tokens: Sequence[int]) -> Meaning:
    """mlx-lm's reading: its server's state machine for a tokenizer without thinking and tool markers."""
    from types import SimpleNamespace

    from mlx_lm.generate import TextStateMachine, make_text_state_machine

    harmony = SimpleNamespace(
        has_thinking=False, has_tool_calling=False, structural_markers=(), response_transitions={}
    )
    state = make_text_state_machine(harmony).make_state()  # type: ignore[no-untyped-call]
    stops = {NAMED[name] for name in STOPS}
    text = tokenizer().decode([token for token in tokens if token not in stops])
    _, segments = TextStateMachine.split(state, text)  # type: ignore[no-untyped-call]
    return Meaning("".join(text for name, text in segments if name == "normal"), "", ())


READERS: dict[str, Callable[[Sequence[int]], Meaning]] = {
    "this library": read_by_chat,
    "openai-harmony, not strict": lambda tokens: read_by_openai(tokens, strict=False),
    "openai-harmony, strict": lambda tokens: read_by_openai(tokens, strict=True),
    "mlx-lm": read_by_mlx_lm,
}


def compare(turns: int, seed: int) -> None:
    """Prints the share of turns that each reader recovers, and which mutations this library does not."""
    recovered: dict[str, Counter[str]] = {name: Counter() for name in READERS}
    missed: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for number in range(turns):
        rng = random.Random(seed + number)
        turn = random_turn(rng)
        intended = meaning(turn)
        text, mutations = mutated(rng, turn)
        tokens = tokens_of(text)
        used.update(mutations)
        for name, reader in READERS.items():
            read = reader(tokens)
            recovered[name].update(
                field for field in Meaning._fields if getattr(read, field) == getattr(intended, field)
            )
            recovered[name]["all"] += read == intended
            if name == "this library" and read != intended:
                missed[" + ".join(mutations)] += 1
                if missed.total() <= 10:
                    print(f"  {text!r}\n    {read} instead of\n    {intended}")
    print(f"{turns:,} turns, {len(MUTATIONS)} mutations; in per cent: all, answer, thinking, calls")
    for name, counts in recovered.items():
        shares = [counts[field] / turns * 100 for field in ("all", *Meaning._fields)]
        print(f"  {name:28}" + "".join(f"{share:7.1f}" for share in shares))
    print(
        "not recovered by this library: " + ", ".join(f"{name} {count}" for name, count in missed.most_common(12))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    compare(options.turns, options.seed)


if __name__ == "__main__":
    main()
