"""The library as it runs on a GPU: compiled.

Not in the default run, because MLX compiles for a CPU with g++; ``.ci/run`` has a job for them.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx import GptOss, SamplingParams
from gptoss_mlx.model.transformer import load_transformer
from tests import DEMO, ROOT
from tests.checkpoints import load_shape, random_tokens
from tests.engine.schedules import check_schedule, make_runner
from tests.model.oracle import EVERY, GOLDEN
from tests.model.test_parity import TOLERANCE, in_pieces, random_split, whole

QUESTIONS = (
    "Who are you?",
    "How many layers does gpt-oss-20b have?",
    "What is 12 + 30?",
    "What is MXFP4?",
    "And 9 - 4?",
    "Say Oslo",
    "How many experts has gpt-oss-120b?",
    "Thanks",
    "What is 50 - 8?",
    "Bye",
)
GREEDY = SamplingParams(temperature=0, max_tokens=64)


@pytest.fixture(scope="module")
def model() -> Iterator[GptOss]:
    """The demo, compiled."""
    with GptOss(DEMO, name="demo", dtype="float32", compiled=True) as model:
        yield model


def answers(model: GptOss) -> list[tuple[str, str]]:
    """A chat of ten turns."""
    chat = model.chat(effort="low", sampling=GREEDY)
    replies = [chat.send(question) for question in QUESTIONS]
    return [(reply.thinking, reply.text) for reply in replies]


def test_ten_turns_are_those_of_the_uncompiled_model(model: GptOss, demo: GptOss) -> None:
    assert answers(model) == answers(demo)


def test_logits_equal_recorded_ones(shape: tuple[str, Path]) -> None:
    name, directory = shape
    transformer, tokens = load_transformer(directory, mx.float32, compiled=True), random_tokens(name)
    golden = np.load(GOLDEN)
    for logits in (whole(transformer, tokens), in_pieces(transformer, tokens, random_split(len(tokens), 3))):
        assert np.abs(logits[::EVERY] - golden[f"{name}.logits"]).max() <= TOLERANCE
        assert np.array_equal(logits.argmax(-1), golden[f"{name}.argmax"])


def test_a_cancelled_answer_leaves_the_model_as_it_was(model: GptOss) -> None:
    before = model.ask("Who are you?", effort="low", sampling=GREEDY).text
    chat = model.chat(effort="high", sampling=GREEDY)
    for events in range(4):
        with chat.stream("What is 47 + 38?") as stream:
            list(itertools.islice(stream, events))
    assert model.ask("Who are you?", effort="low", sampling=GREEDY).text == before


def test_two_models_in_two_threads_answer_as_one_does(model: GptOss) -> None:
    expected = answers(model)
    found: dict[int, list[tuple[str, str]]] = {}

    def talk(number: int) -> None:
        with GptOss(DEMO, name="demo", dtype="float32", compiled=True) as own:
            found[number] = answers(own)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: expected, 1: expected}


LOAD = """
import gptoss_mlx as gptoss
from tests import DEMO
def load():
    return gptoss.GptOss(DEMO, name="demo", compiled=True)
"""
PROGRAMS = {
    "plain": """
model = load()
model.ask("hi", effort="low")
""",
    "with": """
with load() as model:
    model.ask("hi", effort="low")
""",
    "close": """
model = load()
model.ask("hi", effort="low")
model.close()
""",
    "while a request runs": """
model = load()
stream = model.stream("What is 47 + 38?", effort="high")
next(iter(stream))
""",
    "while a long prompt is read": """
model = load()
generation = model.generate(model.tokenizer.encode("What is MXFP4? " * 2000))
""",
    "after an exception in a stream": """
model = load()
try:
    for event in model.stream("What is 47 + 38?", effort="high"):
        raise ValueError
except ValueError:
    pass
""",
    "in threads": """
import threading
model = load()
threads = [threading.Thread(target=lambda: model.ask("hi", effort="low")) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
    "in a daemon thread that still waits": """
import threading, time
model = load()
threading.Thread(target=lambda: model.ask("What is 47 + 38?", effort="high"), daemon=True).start()
time.sleep(0.1)
""",
    "asyncio": """
import asyncio
async def main():
    async with gptoss.AsyncGptOss(load()) as model:
        await model.ask("hi", effort="low")
asyncio.run(main())
""",
    "the transformer in the main thread": """
import mlx.core as mx
model = load()
mx.eval(model.transformer(mx.array([[1, 2, 3]])))
""",
}


@pytest.mark.parametrize("use", PROGRAMS)
def test_a_process_that_used_a_model_ends_well(use: str) -> None:
    ended = run(LOAD + PROGRAMS[use])
    assert (ended.returncode, ended.stderr) == (0, "")


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in a process of its own."""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)


COMMAND = """
import sys
from gptoss_mlx.cli.__main__ import main
from gptoss_mlx.engine.engine import Engine
Engine.__init__.__kwdefaults__["compiled"] = True
sys.argv = ["gptoss", "run", "-m", "demo", "--effort", "low", "--temperature", "0", "Who are you?"]
main()
"""


def test_the_command_ends_well() -> None:
    ended = run(COMMAND)
    assert (ended.returncode, "demonstration model" in ended.stdout) == (0, True)
    assert "terminate" not in ended.stderr


def test_rows_that_decode_together_have_the_tokens_that_each_has_alone(tmp_path: Path) -> None:
    place = load_shape(tmp_path / "small", "small")
    runner = make_runner(place, parallel=4, compiled=True)
    reference = load_transformer(place, mx.float32, compiled=False)
    found = [check_schedule(runner, reference, seed, longest=60) for seed in range(3)]
    runner.close()
    assert [outcome.wrong for outcome in found] == [[]] * 3
    assert max(outcome.most_rows for outcome in found) > 1
