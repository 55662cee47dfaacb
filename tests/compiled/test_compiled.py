"""The library as it runs on a GPU: compiled. ``.ci/run`` runs these and others in processes of their own:

    PYTHONPATH=tests/compiled pytest tests/compiled

See ``sitecustomize.py``. MLX compiles for a CPU with g++.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from gptoss_mlx import GptOss, SamplingParams
from tests import DEMO

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


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    mx.disable_compile()  # as a model does when it is loaded for a CPU
    with tempfile.TemporaryFile("w+") as graph:
        mx.export_to_dot(graph, mx.compile(lambda x: mx.exp(x) + 1)(mx.zeros(3)))
        graph.seek(0)
        assert "Compiled" in graph.read(), "set PYTHONPATH=tests/compiled"


@pytest.fixture(scope="module")
def model() -> Iterator[GptOss]:
    """The demo, compiled."""
    with GptOss(DEMO, name="demo", dtype="float32") as model:
        yield model


def answers(model: GptOss) -> list[tuple[str, str]]:
    """A chat of ten turns."""
    chat = model.chat(effort="low", sampling=GREEDY)
    replies = [chat.send(question) for question in QUESTIONS]
    return [(reply.thinking, reply.text) for reply in replies]


UNCOMPILED = """
import mlx.core as mx
from tests.compiled.test_compiled import DEMO, GptOss, answers
mx.disable_compile()
with GptOss(DEMO, name="demo", dtype="float32") as model:
    print(answers(model))
"""


def test_ten_turns_are_those_of_the_uncompiled_model(model: GptOss) -> None:
    ended = run(UNCOMPILED, compiled=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, repr(answers(model)))


def run(program: str, *, compiled: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in a process of its own."""
    home = Path(__file__).parent
    places = f"{home}:{home.parents[1]}" if compiled else str(home.parents[1])
    environment = os.environ | {"PYTHONPATH": places}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


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
        with GptOss(DEMO, name="demo", dtype="float32") as own:
            found[number] = answers(own)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: expected, 1: expected}


PROGRAMS = {
    "plain": """
model = gptoss.load("demo")
model.ask("hi", effort="low")
""",
    "with": """
with gptoss.load("demo") as model:
    model.ask("hi", effort="low")
""",
    "close": """
model = gptoss.load("demo")
model.ask("hi", effort="low")
model.close()
""",
    "while a request runs": """
model = gptoss.load("demo")
stream = model.stream("What is 47 + 38?", effort="high")
next(iter(stream))
""",
    "while a long prompt is read": """
model = gptoss.load("demo")
generation = model.generate(model.tokenizer.encode("What is MXFP4? " * 2000))
""",
    "after an exception in a stream": """
model = gptoss.load("demo")
try:
    for event in model.stream("What is 47 + 38?", effort="high"):
        raise ValueError
except ValueError:
    pass
""",
    "in threads": """
import threading
model = gptoss.load("demo")
threads = [threading.Thread(target=lambda: model.ask("hi", effort="low")) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
    "in a daemon thread that still waits": """
import threading, time
model = gptoss.load("demo")
threading.Thread(target=lambda: model.ask("What is 47 + 38?", effort="high"), daemon=True).start()
time.sleep(0.1)
""",
    "asyncio": """
import asyncio
async def main():
    async with await gptoss.load_async("demo") as model:
        await model.ask("hi", effort="low")
asyncio.run(main())
""",
    "the transformer in the main thread": """
import mlx.core as mx
model = gptoss.load("demo")
mx.eval(model.transformer(mx.array([[1, 2, 3]])))
""",
}


@pytest.mark.parametrize("use", PROGRAMS)
def test_a_process_that_used_a_model_ends_well(use: str) -> None:
    ended = run(f"import gptoss_mlx as gptoss\n{PROGRAMS[use]}")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_command_ends_well() -> None:
    arguments = ["gptoss", "run", "-m", "demo", "--effort", "low", "--temperature", "0", "Who are you?"]
    ended = run(f"import sys\nsys.argv = {arguments}\nfrom gptoss_mlx.cli.__main__ import main\nmain()")
    assert (ended.returncode, "demonstration model" in ended.stdout) == (0, True)
    assert "terminate" not in ended.stderr
