"""Memory settings of a Mac, on an injected device."""

from __future__ import annotations

import gc
import time

import mlx.core as mx
import pytest

from gptoss_mlx.api import GptOss
from gptoss_mlx.errors import CheckpointError, NotEnoughMemory
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.metal import MemorySettings, is_out_of_memory
from gptoss_mlx.model.transformer import Transformer
from tests import DEMO
from tests.conftest import settled

GB = 2**30
MAC = DeviceInfo(name="Mac", memory_bytes=64 * GB, gpu_bytes=48 * GB, is_mac=True)


class Recorded:
    """An allocator that keeps what it is told."""

    def __init__(self) -> None:
        self.wired, self.kept = 7, 11
        self.calls = 0

    def set_wired_limit(self, limit: int) -> int:
        self.wired, before = limit, self.wired
        self.calls += 1
        return before

    def set_cache_limit(self, limit: int) -> int:
        self.kept, before = limit, self.kept
        return before


def test_the_limits_hold_while_a_model_is_loaded() -> None:
    allocator = Recorded()
    memory = MemorySettings(allocator)
    first, second = (GptOss(DEMO, device=MAC, memory=memory) for _ in range(2))
    assert (allocator.wired, allocator.kept) == (48 * GB, 2 * GB)
    first.close()
    first.close()
    assert allocator.wired == 48 * GB
    second.close()
    assert (allocator.wired, allocator.kept) == (7, 11)
    assert allocator.calls == 2


def test_a_model_that_is_forgotten_takes_them_back() -> None:
    allocator = Recorded()
    model = GptOss(DEMO, device=MAC, memory=MemorySettings(allocator))
    settled(model)
    thread = model._runner._worker._thread
    del model
    gc.collect()
    thread.join(60)
    assert (allocator.wired, allocator.kept) == (7, 11)


def test_a_load_that_fails_takes_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise CheckpointError("damaged")

    allocator = Recorded()
    monkeypatch.setattr("gptoss_mlx.engine.engine.load_transformer", damaged)
    with pytest.raises(CheckpointError):
        GptOss(DEMO, device=MAC, memory=MemorySettings(allocator))
    assert (allocator.wired, allocator.kept) == (7, 11)


def test_what_does_not_fit_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_mlx.engine.engine.load_transformer", lambda *_: pytest.fail("nothing may be read"))
    allocator = Recorded()
    device = DeviceInfo(name="Mac", memory_bytes=10**6, gpu_bytes=5 * 10**5, is_mac=True)
    with pytest.raises(NotEnoughMemory, match="may be used"):
        GptOss(DEMO, device=device, memory=MemorySettings(allocator))
    assert allocator.calls == 0


def test_elsewhere_nothing_is_set() -> None:
    allocator = Recorded()
    device = DeviceInfo(name="PC", memory_bytes=64 * GB, gpu_bytes=64 * GB)
    GptOss(DEMO, device=device, memory=MemorySettings(allocator)).close()
    assert allocator.calls == 0


def test_one_token_is_computed_before_anyone_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    original = Transformer.__call__

    def noted(self: Transformer, tokens: mx.array, *rest: object, **named: object) -> mx.array:
        shapes.append(tokens.shape)
        return original(self, tokens, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "__call__", noted)
    with GptOss(DEMO) as model:
        deadline = time.monotonic() + 60
        while not shapes and time.monotonic() < deadline:
            time.sleep(0.001)
        model._runner.call(lambda: None)
        assert shapes == [(1, 1)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[malloc_or_wait] Unable to allocate 10 bytes."), True),
        (RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum"), True),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPU)"), True),
        (RuntimeError("cudaMallocAsync failed: out of memory"), True),
        (RuntimeError("[matmul] shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_the_allocator_are_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
