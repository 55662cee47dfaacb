"""``gptoss bench``: the fixed chat, plans, results, and the schema of its JSON."""

from __future__ import annotations

import functools
import itertools
import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

from gptoss_mlx.api import GptOss
from gptoss_mlx.benchmark import (
    Benchmark,
    DepthResult,
    EngineResult,
    GptOssEngine,
    Plan,
    RowsResult,
    engines,
    recorded_chat,
    recorded_replies,
)
from gptoss_mlx.benchmark.measure import TurnResult
from gptoss_mlx.checkpoint.tensors import open_model
from gptoss_mlx.cli import bench, bench_report
from gptoss_mlx.cli.app import app
from gptoss_mlx.config import GPT_OSS_20B
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.convert.precision import EXPERTS_PRECISIONS, ExpertsPrecision
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.harmony import Role, render
from gptoss_mlx.memory.bandwidth import CHIPS, Bandwidth, copy_bandwidth, memory_bandwidth, stated_bandwidth
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO

TINY = ("--depths", "40,80", "--tokens", "3", "--rounds", "2", "--turns", "1")

NUMBER, COUNT, TEXT = (
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "integer", "minimum": 0},
    {"type": "string"},
)


def closed(**fields: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def each(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


RATIOS = {"type": "object", "additionalProperties": NUMBER}
SCHEMA = closed(
    version={"const": 1},
    model=closed(name=TEXT, directory=TEXT, layers=COUNT, dense=TEXT, weight_bytes=COUNT, bytes_per_token=COUNT),
    machine=closed(
        device=TEXT,
        backend={"enum": ["cpu", "gpu"]},
        memory_bytes=COUNT,
        bandwidth=NUMBER,
        bandwidth_source=TEXT,
        platform=TEXT,
        python=TEXT,
        mlx=TEXT,
        date=TEXT,
        machines=COUNT,
        split={"enum": [None, "pipeline", "tensor"]},
    ),
    plan=closed(depths=each(COUNT), tokens=COUNT, rounds=COUNT, turns=COUNT, rows=each(COUNT)),
    skipped=each(closed(depth=COUNT, reason=TEXT)),
    engines=each(
        closed(
            name=TEXT,
            version=TEXT,
            load_seconds=NUMBER,
            weight_bytes=COUNT,
            kernels_per_token={"type": ["integer", "null"]},
            kernels_per_layer={"type": ["number", "null"]},
            depths=each(
                closed(
                    depth=COUNT,
                    rounds=COUNT,
                    prefill_tokens_per_second=NUMBER,
                    first_token_seconds=NUMBER,
                    decode_tokens_per_second=NUMBER,
                    bytes_per_token=COUNT,
                    share_of_limit=NUMBER,
                    peak_bytes=COUNT,
                )
            ),
            rows=each(closed(rows=COUNT, rounds=COUNT, decode_tokens_per_second=NUMBER)),
            turns=each(closed(turn=COUNT, prompt_tokens=COUNT, computed_tokens=COUNT, first_token_seconds=NUMBER)),
        )
    ),
    ratios={
        "oneOf": [
            {"type": "null"},
            closed(
                prefill_time=RATIOS,
                decode_time=RATIOS,
                rows_time=RATIOS,
                peak_memory=RATIOS,
                first_token_time=RATIOS,
                computed_tokens={"type": ["number", "null"]},
                kernels={"type": ["number", "null"]},
                load_time=NUMBER,
            ),
        ]
    },
    interrupted={"type": "boolean"},
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(DEMO)


def test_the_recorded_chat_has_ten_turns_with_tool_calls(tokenizer: Tokenizer) -> None:
    messages = recorded_chat().messages
    assert sum(message.role is Role.USER for message in messages) == 10
    assert sum(message.role is Role.TOOL for message in messages) >= 4
    replies = list(recorded_replies(tokenizer))
    assert [reply.turn for reply in replies] == sorted(reply.turn for reply in replies)
    assert {reply.turn for reply in replies} == set(range(1, 11))
    assert sum(reply.history is not None for reply in replies) == 10


def test_what_an_engine_is_asked_is_the_recorded_chat_as_rendered(tokenizer: Tokenizer) -> None:
    replies = list(recorded_replies(tokenizer))
    special = tokenizer.special
    for reply, following in itertools.pairwise(replies):
        assert reply.tokens[-1] in (special["<|return|>"], special["<|call|>"])
        known = reply.history or [*reply.prompt, *reply.tokens]
        assert following.prompt[: len(known)] == known
    whole = render(recorded_chat(), tokenizer, next_role=None)
    assert [*replies[-1].prompt, *replies[-1].tokens][:-1] == whole[:-1]


def test_a_turn_costs_its_new_tokens_and_without_time_before_it_the_last_turn_without_thinking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A CPU computes it in a quarter of the time.
    monkeypatch.setattr(engines, "GptOss", functools.partial(GptOss, dtype="float32"))
    engine = GptOssEngine(DEMO)
    replies = list(recorded_replies(engine.model.tokenizer))[:5]
    idle = [chat.reply(reply)[1] for chat in (engine.chat(),) for reply in replies]
    hurried = [chat.reply(reply)[1] for chat in (engine.chat(idle=False),) for reply in replies]
    began = {reply.turn: len(reply.prompt) for reply in reversed(replies)}
    for before, reply, least, most in zip([None, *replies], replies, idle, hurried, strict=False):
        if before is None:
            assert least == most == len(reply.prompt)
        elif before.history is not None:
            assert least == len(reply.prompt) - len(before.history)
            assert most <= len(reply.prompt) - began[before.turn] + 16
        else:
            assert least == most == len(reply.prompt) - len(before.prompt) - len(before.tokens)
    engine.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"depths": (1,)},
        {"tokens": 1},
        {"rounds": 0},
        {"rows": (33,)},
        {"turns": 11},
        {"turns": -1},
        {"tokens": True},
    ],
)
def test_a_plan_names_what_is_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"is .* needed"):
        Plan(**wrong)


def test_depths_that_do_not_fit_are_skipped_with_the_reason(tokenizer: Tokenizer) -> None:
    small = DeviceInfo(name="small", memory_bytes=2**34, gpu_bytes=14_100_000_000)
    plan = Plan(depths=(512, 65_536, 131_072))
    benchmark = Benchmark(plan, GPT_OSS_20B, tokenizer, device=small)
    assert benchmark.depths == [512]
    memory, context = benchmark.skipped
    assert (memory.depth, context.depth) == (65_536, 131_072)
    assert "GB" in memory.reason
    assert "131,072" in context.reason


def test_bandwidth_is_stated_or_measured() -> None:
    assert stated_bandwidth("Apple M4 Max") == 546e9
    assert stated_bandwidth("Apple M4 Maximal") is None
    assert memory_bandwidth("Apple M1").source == "stated by Apple"
    assert min(CHIPS.values()) == CHIPS["M1"]
    # Every machine copies more than 100 MB and less than 1 TB a second.
    assert 1e8 < copy_bandwidth(2**22) < 1e12


def gptoss(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_json_has_its_form_and_both_engines() -> None:
    done = gptoss("demo", *TINY, "--against", "mlx-lm", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    jsonschema.validate(content, SCHEMA)
    ours, theirs = content["engines"]
    assert (ours["name"], theirs["name"]) == ("gptoss-mlx", "mlx-lm")
    for engine in (ours, theirs):
        assert [row["depth"] for row in engine["depths"]] == [40, 80]
        assert [row["rounds"] for row in engine["depths"]] == [2, 2]
        assert [(row["rows"], row["rounds"]) for row in engine["rows"]] == [(1, 2), (2, 2), (4, 2), (8, 2)]
        assert [turn["turn"] for turn in engine["turns"]] == [1]
    row, rate = ours["depths"][0], content["machine"]["bandwidth"]
    assert row["share_of_limit"] == pytest.approx(row["decode_tokens_per_second"] * row["bytes_per_token"] / rate)
    assert content["ratios"]["kernels"] == ours["kernels_per_token"] / theirs["kernels_per_token"]
    assert ours["kernels_per_token"] < theirs["kernels_per_token"]


@pytest.mark.parametrize("experts", EXPERTS_PRECISIONS)
def test_the_other_program_gets_the_same_weights(experts: ExpertsPrecision, tmp_path: Path) -> None:
    convert_checkpoint(DEMO, tmp_path / "model", dense="q8", experts=experts)
    subject = bench._subject(str(tmp_path / "model"))
    exported = open_model(bench._export(subject, tmp_path))
    assert (exported.layout.name, exported.config) == ("mlx-lm", subject.config)


def test_without_a_terminal_there_are_tables_and_no_escapes() -> None:
    done = gptoss("demo", *TINY)
    assert done.exit_code == 0
    for expected in (
        "gptoss-mlx",
        "prefill tokens/s",
        "of limit",
        "█",
        "kernels a token",
        "of one row",
        "turn",
        "B/s",
    ):
        assert expected in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("width", [40, 60])
def test_in_a_narrow_window_columns_are_left_out_and_none_is_cut(
    width: int, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_report, "_PIPE_WIDTH", width)
    depths = [
        DepthResult(depth=n, first_token_seconds=[n / 2500], token_seconds=[0.004], peak_bytes=13 * 10**9)
        for n in (512, 131_072)
    ]
    turns = [TurnResult(turn=1, prompt_tokens=26_143, computed_tokens=1493, first_token_seconds=1.5)]
    rows = [RowsResult(rows=n, token_seconds=[0.004 / n]) for n in (1, 8)]
    benchmark = Benchmark(Plan(), GPT_OSS_20B, tokenizer)
    benchmark.results += [
        EngineResult(
            name=name, version="1", load_seconds=1.0, weight_bytes=1, depths=depths, rows=rows, turns=turns
        )
        for name in ("gptoss-mlx", "mlx-lm")
    ]
    bandwidth = Bandwidth(bytes_per_second=1e11, source="stated")
    device = DeviceInfo.current()
    bench_report.show(
        benchmark,
        bench_report.Subject(
            name="demo", directory=Path(), config=GPT_OSS_20B, device=device, bandwidth=bandwidth
        ),
    )
    tables = capsys.readouterr().out.split("loaded in")[-1].split("\n", 1)[1]
    assert "…" not in tables
    assert all(len(line.rstrip()) <= width for line in tables.splitlines())
    wider = ("13.00", "2,500", "1,493") if width == 60 else ()
    for expected in ("131,072", "250.0", "2,000.0", "8.00", "decode", "█", "1.500", *wider):
        assert expected in tables


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nothing-here",), 3, "gptoss convert"),
        (("demo", "--depths", "5x"), 2, "512,2k"),
        (("demo", "--depths", ""), 2, "512,2k"),
        (("demo", "--depths", "1"), 2, "depth is 1"),
        (("demo", "--tokens", "0"), 2, "tokens is 0"),
        (("demo", "--rounds", "-1"), 2, "rounds is -1"),
        (("demo", "--turns", "12"), 2, "turns is 12"),
        (("demo", "--against", "llama.cpp"), 2, "mlx-lm"),
    ],
)
def test_bad_input_is_one_line_and_a_code(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = gptoss(*arguments)
    assert done.exit_code == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = DeviceInfo(name="tiny", memory_bytes=2**20, gpu_bytes=2**20)
    monkeypatch.setattr(DeviceInfo, "current", classmethod(lambda cls: tiny))
    monkeypatch.setattr(GptOss, "__init__", lambda *_: pytest.fail("it was loaded"))
    done = gptoss("demo")
    assert done.exit_code == 4
    assert "1.05 MB" in done.stderr


def test_an_interrupt_leaves_with_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = GptOssEngine.generate

    def interrupted(engine: GptOssEngine, prompt: list[int], count: int) -> Iterator[int]:
        if len(prompt) == 80:
            signal.raise_signal(signal.SIGINT)
        return generate(engine, prompt, count)

    monkeypatch.setattr(GptOssEngine, "generate", interrupted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = gptoss("demo", *TINY, "--against", "mlx-lm", "--json")
    assert done.exit_code == 130
    assert done.stderr == "interrupted: these are the results so far\n"
    content = json.loads(done.stdout)
    jsonschema.validate(content, SCHEMA)
    assert content["interrupted"] is True
    assert [[row["depth"] for row in engine["depths"]] for engine in content["engines"]] == [[40], [40]]
    assert list(tmp_path.iterdir()) == []  # the export for mlx-lm is removed
