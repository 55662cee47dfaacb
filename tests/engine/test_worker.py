"""The thread that owns MLX: no job ends it, and it ends with its worker."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.api import GptOss, load
from gptoss_mlx.cache.entry import CacheEntry
from gptoss_mlx.engine.worker import Worker
from gptoss_mlx.errors import InvalidRequest, MachineLost, ModelClosed, NotEnoughMemory
from gptoss_mlx.model.transformer import Transformer
from gptoss_mlx.sampling import SamplingParams
from tests.conftest import settled

GREEDY = SamplingParams(temperature=0, max_tokens=40)
ERRORS = [RuntimeError("[METAL] insufficient memory"), MemoryError(), SystemExit(1), KeyboardInterrupt()]


def fail(error: BaseException) -> Any:
    raise error


def signal(event: threading.Event) -> bool:
    event.set()
    return True


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_job_ends_the_thread(error: BaseException) -> None:
    worker, begun = Worker(), threading.Event()
    worker.submit_idle(lambda: signal(begun) and fail(error))
    assert begun.wait(60)
    future: Future[None] = worker.submit(lambda: fail(error))
    with pytest.raises(type(error)):
        future.result(60)
    assert worker.submit(lambda: 3).result(60) == 3
    worker.close()


def test_idle_work_goes_on_until_it_is_done_or_something_is_asked_for() -> None:
    worker, few, endless = Worker(), itertools.count(1), threading.Event()
    worker.submit_idle(lambda: next(few) < 3)
    worker.submit_idle(lambda: signal(endless))
    assert endless.wait(60)
    assert worker.submit(lambda: next(few)).result(60) == 4
    worker.close()


def test_a_closed_worker_refuses_requests_and_ends_after_those_that_wait() -> None:
    worker, gate = Worker(), threading.Event()
    worker.submit(lambda: gate.wait(60))
    waiting = worker.submit(lambda: 3)
    worker.close(timeout=0)
    assert worker.closed
    with pytest.raises(ModelClosed):
        worker.submit(lambda: 4)
    worker.submit_idle(lambda: fail(AssertionError("ran")))
    gate.set()
    assert waiting.result(60) == 3
    worker.close()
    assert not worker._thread.is_alive()


@pytest.mark.parametrize("failing", [None, ValueError("broken")], ids=["idle", "after a failure"])
def test_a_forgotten_worker_takes_its_thread_with_it(failing: Exception | None) -> None:
    worker = Worker()
    if failing is not None:
        assert worker.submit(lambda: fail(failing)).exception(60) is failing
    last, thread = worker.submit(lambda: 3), worker._thread
    del worker
    gc.collect()
    assert last.result(60) == 3
    thread.join(60)
    assert not thread.is_alive()


def test_a_forgotten_model_takes_its_thread_with_it_and_ends_what_was_begun() -> None:
    model = load("demo")
    thread = model._runner._worker._thread
    generation = model.generate(model.tokenizer.encode("Once upon a time"), GREEDY)
    del model
    gc.collect()
    assert list(generation)  # its job keeps the model
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("waits", [False, True], ids=["in a row", "in a prefill"])
def test_the_memory_is_free_while_the_error_is_handled_that_it_ran_out(
    waits: bool, demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = demo.tokenizer.encode("Once upon a time there was a king. " * 40)
    demo.prefill(prompt[:2])
    demo._runner.call(demo._runner.store.clear)
    settled(demo)
    before = mx.get_active_memory()

    def failing(self: CacheEntry, tokens: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate 123 bytes.")

    gc.disable()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(CacheEntry, "end_chunk", failing)
            try:
                demo.prefill(prompt) if waits else list(demo.generate(prompt, GREEDY))
            except NotEnoughMemory:
                held = mx.get_active_memory() - before
    finally:
        gc.enable()
    assert held < 10_000


def test_a_model_is_forgotten_at_once_although_a_function_of_the_callers_has_failed() -> None:
    def failing(tokens: mx.array, logits: mx.array) -> mx.array:
        raise ZeroDivisionError

    model = load("demo")
    thread = model._runner._worker._thread
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError):
            list(model.generate(model.tokenizer.encode("Once"), GREEDY, logits_processor=failing))
        del model
        thread.join(60)
        assert not thread.is_alive()
    finally:
        gc.enable()


def test_a_worker_that_has_failed_ends_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    worker, begun, gate = Worker(), threading.Event(), threading.Event()
    running = worker.submit(lambda: signal(begun) and gate.wait(60))
    waiting = worker.submit(lambda: 3)
    assert begun.wait(60)
    worker.fail(MachineLost("a machine is gone"))
    for future in (running, waiting):
        with pytest.raises(MachineLost):
            future.result(60)
    thread = worker._thread
    gate.set()
    worker.close()
    thread.join(60)
    assert not thread.is_alive()
    assert capfd.readouterr().err == ""


FORGETFUL = """
import gptoss_mlx as gptoss
def leave():
    model = gptoss.load("demo")
    {use}
    return model
{keep}leave()
"""


@pytest.mark.parametrize("keep", ["", "kept = "], ids=["forgotten", "kept"])
@pytest.mark.parametrize(
    "use",
    ["pass", "model.ask('hi', choices=['a'], max_thinking_tokens=0)", "model.chat().stream('hi', effort='high')"],
    ids=["warming up", "computing ahead", "decoding"],
)
def test_the_interpreter_ends_well_whatever_the_model_does(use: str, keep: str) -> None:
    script = FORGETFUL.format(use=use, keep=keep)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("error", ERRORS[:2], ids=["Metal", "allocator"])
def test_idle_work_that_runs_out_of_memory_is_dropped_with_what_it_computed(
    error: BaseException, demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = demo.chat(sampling=GREEDY, effort="low")
    chat.send("hi")
    settled(demo)
    original: Callable[..., Any] = Transformer.layer_outputs
    failures: list[None] = []

    def starved(self: Transformer, *arguments: Any) -> Iterator[Any]:
        yield next(original(self, *arguments))
        failures.append(None)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "layer_outputs", starved)
        ahead = demo.tokenizer.encode("Something else.")
        demo.prefill_when_idle(ahead)
        demo._runner._worker.submit_idle(demo._runner._warm_up)
        settled(demo)
        assert len(failures) == 2
        assert demo.cached_length(ahead) == 0
        # A request for the same meets the error.
        with pytest.raises(NotEnoughMemory):
            chat.send("who are you?")
    assert chat.retry().text


def test_the_cached_length_can_be_asked_from_another_thread_while_it_changes(demo: GptOss) -> None:
    """``trace()`` and ``tokens_to_prefill()`` do while the worker computes ahead."""
    prompt, entry = list(range(20_000)), CacheEntry(0, demo.transformer.make_cache())
    other = [*prompt[:-2], -1]
    entry.tokens = list(other)
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            del entry.tokens[10:]
            time.sleep(0)
            entry.tokens.extend(other[10:])
            time.sleep(0)

    thread, interval = threading.Thread(target=change), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for _ in range(200):
            assert entry.usable_length(prompt) in (0, 10)
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()


FORKED = """
import os, sys
import gptoss_mlx as gptoss
from gptoss_mlx.errors import ProcessForked
model = gptoss.load("demo")
tokens = model.tokenizer.encode("Once")
model.prefill(tokens)
child = os.fork()
if child == 0:
    uses = [lambda: model.ask("hi"), lambda: model.prefill(tokens), lambda: model.transformer]
    for use in [*uses, lambda: gptoss.load("demo")]:
        try:
            use()
        except ProcessForked as error:
            assert "multiprocessing.get_context('spawn')" in str(error)
        else:
            os._exit(1)
    sys.exit(7)
status = os.waitpid(child, 0)[1]
assert os.waitstatus_to_exitcode(status) == 7, status
assert model.ask("hi", effort="low").text
"""


def test_a_forked_child_is_told_and_its_parent_goes_on() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)


LEAVES_DURING = {
    "a load": """
from gptoss_mlx.model import weights
original, read = weights._assemble, threading.Event()
def slow(*arguments):
    read.set()
    time.sleep(0.2)
    return original(*arguments)
weights._assemble = slow
threading.Thread(target=gptoss.load, daemon=True).start()
assert read.wait(60)
""",
    "a prefill that nobody reads": """
model = gptoss.load("demo")
threading.Thread(target=model.prefill, args=([1, 2, 3] * 20_000,), daemon=True).start()
time.sleep(0.3)
""",
    "idle work": """
model = gptoss.load("demo")
model.prefill_when_idle([1, 2, 3] * 20_000)
time.sleep(0.3)
""",
}


@pytest.mark.parametrize("what", LEAVES_DURING)
def test_a_program_that_ends_during_work_ends_soon(what: str) -> None:
    code = "import threading, time\nimport gptoss_mlx as gptoss\n" + LEAVES_DURING[what]
    code += "import atexit\nbegan = time.monotonic()\natexit.register(lambda: print(time.monotonic() - began))\n"
    # Handlers run in the reverse order: this one, registered first, runs after the library's.
    code = "import atexit, time\nended = lambda: print(time.monotonic() - began)\natexit.register(ended)\n" + code
    code = code.replace("atexit.register(lambda: print(time.monotonic() - began))\n", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # 60,000 tokens take minutes, and a slowed load many seconds.
    assert float(done.stdout) < 5


def test_a_job_that_makes_a_request_is_told_instead_of_waiting_for_itself(demo: GptOss) -> None:
    with pytest.raises(InvalidRequest, match="use another model there"):
        demo._runner.call(demo.clear_caches)


def test_cancelled_requests_that_waited_compute_nothing(demo: GptOss) -> None:
    settled(demo)
    demo.clear_caches()
    blocked = threading.Event()
    waiting = demo._runner._worker.submit(lambda: blocked.wait(60))
    generations = [demo.generate(demo.tokenizer.encode(f"Once upon {n}")) for n in range(5)]
    for generation in generations:
        generation.cancel()
    blocked.set()
    assert waiting.result(60)
    assert demo._runner.call(lambda: demo._runner.store.entries) == ()


def test_whatever_stops_a_computation_nothing_half_computed_is_found_later(
    demo: GptOss, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = demo.tokenizer.encode("It was a dark and stormy night.")
    original: Callable[..., Any] = Transformer.layer_outputs

    def stopped(self: Transformer, *arguments: Any) -> Iterator[Any]:
        yield next(original(self, *arguments))
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "layer_outputs", stopped)
        with pytest.raises(SystemExit):
            list(demo.generate(prompt))
    assert demo.cached_length(prompt) == 0
