"""Requests of every kind, answered by one machine or by a group; what is printed must be the same.

python -m tests.groups.engine alone
mlx.launch --backend ring -n 2 -- python -m tests.groups.engine tensor
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from gptoss_mlx import GptOss, InvalidRequest, SamplingParams
from tests import DEMO

BRIEF = SamplingParams(temperature=0, max_tokens=16)
QUESTIONS = ("Who are you?", "What is 12 + 30?", "How many layers does gpt-oss-20b have?", "Say Oslo")


def get_weather(city: str) -> str:
    """Get the weather."""
    return f"4 C, rain in {city}"


def ten_turns(model: GptOss) -> list[Any]:
    """Questions, a tool's call, a retry, an edit, and cancellations wherever they come."""
    chat = model.chat(tools=[get_weather], effort="low", sampling=BRIEF)
    found: list[Any] = []

    def note(reply: Any) -> None:
        found.append([message.to_dict() for message in reply.messages])

    note(chat.send("What is the weather in Oslo?", max_tokens=80))
    assert any(message.author.role == "tool" for message in chat.messages)
    for events, question in enumerate(QUESTIONS):
        note(chat.send(question))
        with chat.stream("What is 47 + 38?") as stream:
            list(itertools.islice(stream, events))
        chat.undo() if chat.messages and chat.messages[-1].text == "What is 47 + 38?" else None
    note(chat.retry(effort="medium"))
    chat.undo()
    note(chat.send("And 9 - 4?"))
    twin = chat.fork()
    note(twin.send("Thanks"))
    note(chat.send("Bye"))
    note(model.ask("Who are you?", effort="low", sampling=BRIEF))
    return found


def later_turns(model: GptOss) -> bool:
    """A later turn computes what is new, and so does another conversation that begins alike."""
    chat = model.chat(instructions="Be terse. " * 30, effort="low", sampling=BRIEF)
    first = chat.send("Say Oslo").usage
    again = model.chat(instructions="Be terse. " * 30, effort="low", sampling=BRIEF)
    usages = chat.send("Thanks").usage, again.send("Say Rome").usage
    return all(usage.cached_tokens > 60 and first.prompt_tokens > 100 for usage in usages)


def forms(model: GptOss) -> list[Any]:
    """Answers that a guide constrains."""
    schema = {"type": "object", "properties": {"n": {"enum": [12, 24]}}, "required": ["n"]}
    return [
        model.ask("How many layers?", schema=schema, max_thinking_tokens=4, temperature=0, max_tokens=40).text,
        model.ask("Yes or no?", choices=["yes", "no"], max_thinking_tokens=0, temperature=0, max_tokens=40).text,
        model.ask("A number", regex="[0-9]{3}", max_thinking_tokens=0, temperature=0, max_tokens=40).text,
    ]


def tokens(model: GptOss, **options: Any) -> list[Any]:
    """What follows a prompt, and its log-probabilities."""
    params = {"max_tokens": 8, "temperature": 0, **options}
    asked = {name: params.pop(name) for name in ("logprobs", "top_logprobs", "logits_processor") if name in params}
    prompt = model.tokenizer.encode(params.pop("text", "Once upon a time there was"))
    cancel = params.pop("cancel", None)
    generation = model.generate(prompt, SamplingParams(**params), **asked)
    ids = list(itertools.islice(generation, cancel))
    generation.cancel()
    likely = [[token for token, _ in most] for most in generation.top_logprobs]
    return [ids, [round(value, 3) for value in generation.logprobs], likely]


def together(model: GptOss) -> list[Any]:
    """Rows that join and leave, of every kind: with a guide, a caller's function, log-probabilities, a cancelled
    one, one that is longer than any slot; prompts that begin alike."""
    asked = "Once upon a time there was"
    kinds: list[dict[str, Any]] = [
        {"max_tokens": 12},
        {"max_tokens": 40, "text": f"{asked} a king"},
        {"max_tokens": 5, "text": "What is 12+30?", "logprobs": True, "top_logprobs": 2},
        {"max_tokens": 20, "logits_processor": colder},
        {"max_tokens": 60, "text": " ".join(map(str, range(500)))},
        {"max_tokens": 30, "repetition_penalty": 1.5, "text": f"{asked} a queen"},
        {"max_tokens": 300, "text": "Count: 1 2 3 4", "cancel": 7},
        {"max_tokens": 9, "logit_bias": dict.fromkeys(range(0, 3000, 3), -100)},
    ]
    found: list[Any] = [None] * (len(kinds) + 2)

    def ask(place: int, kind: dict[str, Any]) -> None:
        found[place] = tokens(model, **kind)

    def choose(place: int) -> None:
        found[place] = model.ask(
            "Yes or no?", choices=["yes", "no"], max_thinking_tokens=place, temperature=0
        ).text

    threads = [threading.Thread(target=ask, args=each) for each in enumerate(kinds)]
    threads += [threading.Thread(target=choose, args=(place,)) for place in range(len(kinds), len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def colder(ids: mx.array, logits: mx.array) -> mx.array:
    """A caller's function: forbids the last token of the prompt and a few others."""
    return mx.where(mx.arange(logits.shape[-1]) % 7 == ids[-1] % 7, -mx.inf, logits)


def broken(ids: mx.array, logits: mx.array) -> mx.array:
    """A caller's function that fails as MLX does."""
    raise NotImplementedError("not yet")


def failure(model: GptOss) -> list[Any]:
    """A caller's function fails; the request beside it and the next one are answered."""
    found: list[Any] = []
    beside = threading.Thread(target=lambda: found.append(tokens(model, max_tokens=30)))
    beside.start()
    try:
        tokens(model, logits_processor=broken)
    except NotImplementedError as error:
        said = str(error)
    beside.join()
    return [said, *found, tokens(model)]


def likely_form(model: GptOss) -> list[float]:
    """The log-probabilities of an answer that a guide constrains."""
    options: Any = {"choices": ["yes", "no"], "max_thinking_tokens": 3, "temperature": 0, "logprobs": True}
    reply = model.ask("Yes or no?", **options)
    return [round(entry.logprob, 3) for entry in reply.logprobs or ()]


REQUESTS: dict[str, Callable[[GptOss], Any]] = {
    "ten turns": ten_turns,
    "later turns": later_turns,
    "forms": forms,
    "log-probabilities": lambda model: tokens(model, logprobs=True, top_logprobs=3),
    "log-probabilities of a form": likely_form,
    "a caller's function that fails": failure,
    "a caller's function": lambda model: tokens(model, logits_processor=colder, logprobs=True, top_logprobs=2),
    "a bias": lambda model: tokens(model, logit_bias=dict.fromkeys(range(0, 3000, 2), -100)),
    "a penalty": lambda model: tokens(model, repetition_penalty=2.0, max_tokens=16),
    # Whatever the noise: only the most likely token is left.
    "one likely token": lambda model: tokens(model, temperature=1.0, top_k=1),
    "a small nucleus": lambda model: tokens(model, temperature=1.0, top_p=1e-6),
    "a high floor": lambda model: tokens(model, temperature=1.0, min_p=1.0),
    "many at once": together,
    "a filter of each kind": lambda model: tokens(model, temperature=0.001, top_p=0.9, top_k=50, min_p=0.01),
}


def refusals(model: GptOss) -> list[str]:
    """What several machines cannot do says so."""
    said = []
    for verb in (
        lambda: model.save_cache("x.cache", model.tokenizer.encode("Once upon a time there was")),
        lambda: model.transformer,
    ):
        try:
            verb()
        except InvalidRequest as error:
            said.append(str(error))
    return said


def main(split: str) -> None:
    """Prints the answers, a line for each kind of request."""
    options: Any = {} if split == "alone" else {"split": split}
    with GptOss(DEMO, dtype="float32", **options) as model:
        for name, request in REQUESTS.items():
            print(json.dumps({"name": name, "found": request(model)}), flush=True)
        seeded = [tokens(model, temperature=1.0, seed=5)[0] for _ in range(2)]
        print(json.dumps({"name": "seeded", "found": seeded}), flush=True)
        if split != "alone":
            print(json.dumps({"name": "refusals", "found": refusals(model)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
