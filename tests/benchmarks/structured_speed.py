"""Measures the cost of constrained answers.

    python -m tests.benchmarks.structured_speed

It prints three tables: masks over gpt-oss's 201,088 tokens, compared with xgrammar if it is installed; decoding on
the demo with and without a constraint; and a hundred schemas answered by the demo at temperature 1. Compilation is
measured in process CPU time, masks and decoding in wall time; decoding is the best of several alternating rounds.

On two hyperthreads of an x86-64 machine (2026-11-21, mlx 0.32.4 on the CPU, llguidance 1.9):

    masks over 201,088 tokens (preparing them, once: 1.64 s)
      small: 40 tokens, compiling 71.7 ms, median 24, 90 % 108, most 255 µs
      patterns: 37 tokens, compiling 4.8 ms, median 79, 90 % 294, most 897 µs
    decoding 200 tokens on demo, the best of 5:
      free: 9.86 ms a token, +0.0 %
      constrained: 10.11 ms a token, +2.5 %
      constrained, JSON: 10.06 ms a token, +2.0 %
    103 schemas on demo at temperature 1: 103 valid, 0 cut short at 400 tokens

The aim is at most 10 % a token. The first compilation includes 70 ms that a process spends once.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np

import gptoss_mlx as gptoss
from gptoss_mlx.errors import GptOssError, OutputError
from gptoss_mlx.structured.constraint import Constraint, prepare
from gptoss_mlx.structured.guide import Guide, GuidePlan
from tests.harmony.fixtures import tokenizer
from tests.structured.cases import SCHEMAS

CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "small": (
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer", "minimum": 0},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["name", "age", "tags"],
            "additionalProperties": False,
        },
        {"name": "Ada Lovelace, the first of them all äö 👋", "age": 36, "tags": ["a", "b c d e f g"]},
    ),
    "patterns": (
        {
            "type": "object",
            "properties": {
                "mail": {"type": "string", "pattern": "^[a-z0-9.]{1,20}@[a-z]{1,10}\\.(org|com)$"},
                "when": {"type": "string", "format": "date-time"},
                "code": {"type": "string", "minLength": 3, "maxLength": 40},
            },
            "required": ["mail", "when", "code"],
            "additionalProperties": False,
        },
        {"mail": "ada.l@example.org", "when": "2024-01-02T03:04:05Z", "code": "naïve and long"},
    ),
}


def microseconds(times: list[float]) -> str:
    """The distribution of times, in one line."""
    half, most = statistics.median(times) * 1e6, max(times) * 1e6
    return f"median {half:.0f}, 90 % {np.quantile(times, 0.9) * 1e6:.0f}, most {most:.0f} µs"


def time_masks() -> None:
    started = time.process_time()
    prepare(tokenizer())
    print(f"masks over {tokenizer().size:,} tokens (preparing them, once: {time.process_time() - started:.2f} s)")
    for name, (schema, value) in CASES.items():
        started = time.process_time()
        constraint = Constraint.from_schema(schema)
        matcher = constraint.matcher(tokenizer())
        compiling = time.process_time() - started
        times = []
        for token in tokenizer().encode(json.dumps(value, ensure_ascii=False)):
            begun = time.perf_counter()
            matcher.mask()
            matcher.advance(token)
            times.append(time.perf_counter() - begun)
        print(f"  {name}: {len(times)} tokens, compiling {compiling * 1e3:.1f} ms, {microseconds(times)}")
        time_xgrammar(schema, value)


def time_xgrammar(schema: dict[str, Any], value: Any) -> None:
    try:
        import xgrammar  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return
    t = tokenizer()
    vocabulary = [b"" if t.is_special(token) else t.token_bytes(token) for token in range(t.size)]
    ends = [t.special_id("<|return|>")]
    info = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, vocab_size=t.size, stop_token_ids=ends)
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    started = time.process_time()
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema), any_whitespace=True))
    compiling = time.process_time() - started
    mask, times = xgrammar.allocate_token_bitmask(1, t.size), []
    for token in t.encode(json.dumps(value, ensure_ascii=False)):
        begun = time.perf_counter()
        matcher.fill_next_token_bitmask(mask)
        matcher.accept_token(token)
        times.append(time.perf_counter() - begun)
    print(f"    xgrammar: compiling {compiling * 1e3:.1f} ms, {microseconds(times)}")


TOKENS = 200


def time_decoding(model: gptoss.GptOss, rounds: int = 5) -> None:
    """Decodes the same number of tokens after the same prompt with each plan in turn."""
    t = model.tokenizer
    prompt = [t.special["<|start|>"], *t.encode("assistant")]
    sampling = gptoss.SamplingParams(seed=1, max_tokens=TOKENS)
    stop, model.stop_tokens = model.stop_tokens, frozenset()
    plans: dict[str, GuidePlan | None] = {
        "free": None,
        "constrained": GuidePlan(constraint=Constraint.from_regex("(?s).{5000}"), max_thinking_tokens=0),
        "constrained, JSON": GuidePlan(
            constraint=Constraint.from_schema(
                {"type": "array", "minItems": 400, "items": {"type": "string", "maxLength": 60}}
            ),
            max_thinking_tokens=0,
        ),
    }
    best: dict[str, float] = dict.fromkeys(plans, float("inf"))

    def decode(plan: GuidePlan | None) -> float:
        guide = None if plan is None else Guide(plan, t, model.config.vocab_size)
        generation = model.generate(prompt, sampling, guide=guide)
        next(generation)
        started = time.perf_counter()
        count = sum(1 for _ in generation)
        return (time.perf_counter() - started) / count

    for plan in plans.values():
        decode(plan)
    for _ in range(rounds):
        for name, plan in plans.items():
            best[name] = min(best[name], decode(plan))
    model.stop_tokens = stop
    print(f"decoding {TOKENS} tokens on {model.name}, the best of {rounds}:")
    for name, seconds in best.items():
        print(f"  {name}: {seconds * 1e3:.2f} ms a token, {(seconds / best['free'] - 1) * 100:+.1f} %")


def answer_schemas(model: gptoss.GptOss) -> None:
    valid = cut = 0
    for position, schema in enumerate(SCHEMAS):
        sampling = gptoss.SamplingParams(seed=position, max_tokens=400)
        try:
            reply = model.ask("Give me an example.", schema=schema, sampling=sampling, max_thinking_tokens=4)
        except OutputError as error:
            cut += "cut short" in str(error)
            print(f"  {position}: {error}")
            continue
        except GptOssError as error:
            print(f"  {position}: {error}")
            continue
        jsonschema.Draft202012Validator(schema).validate(json.loads(reply.text))
        valid += 1
    print(f"{len(SCHEMAS)} schemas on {model.name} at temperature 1: {valid} valid, {cut} cut short at 400 tokens")


def main() -> None:
    actions: list[Callable[[gptoss.GptOss], None]] = [time_decoding, answer_schemas]
    time_masks()
    with gptoss.load("demo") as model:
        for action in actions:
            action(model)


if __name__ == "__main__":
    main()
