"""The machine, and the limit that can be raised."""

from __future__ import annotations

import os
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.memory.device import DeviceInfo, wired_limit_command
from tests.memory.machines import MACS, mac, pc


def test_the_current_device_is_described() -> None:
    device = DeviceInfo.current()
    assert 0 < device.gpu_bytes <= device.memory_bytes
    assert device.name


def test_a_raised_limit_is_enough_and_leaves_memory_to_everything_else() -> None:
    for memory in MACS:
        for needed in range(2**30, memory * 2**30, 2**30 + 12_345):
            raised = mac(memory).with_raised_limit(needed)
            spare = max(3 * 10**9, memory * 2**27)
            assert (raised is None) == (needed > memory * 2**30 - spare)
            if raised is not None:
                assert needed <= raised.gpu_bytes < needed + 2**28
                assert (
                    wired_limit_command(raised) == f"sudo sysctl iogpu.wired_limit_mb={raised.gpu_bytes // 2**20}"
                )
    assert pc(64).with_raised_limit(1) is None


def found(monkeypatch: pytest.MonkeyPatch, backend: str, info: dict[str, Any] | None) -> DeviceInfo:
    """The device as a machine with that backend describes it; None: MLX raises."""

    def device_info(device: object) -> dict[str, Any]:
        if info is None:
            raise RuntimeError("No Metal device available")
        return info

    monkeypatch.setattr(getattr(mx, backend), "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", device_info)
    return DeviceInfo.current()


def test_a_mac_states_its_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"device_name": "Apple M2", "memory_size": 2**34, "max_recommended_working_set_size": 11 * 2**30}
    device = found(monkeypatch, "metal", info)
    assert (device.name, device.memory_bytes, device.gpu_bytes) == ("Apple M2", 2**34, 11 * 2**30)


def test_a_graphics_card_has_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    device = found(monkeypatch, "cuda", {"device_name": "NVIDIA H100", "total_memory": 80 * 10**9})
    assert (device.name, device.memory_bytes, device.gpu_bytes) == ("NVIDIA H100", 80 * 10**9, 80 * 10**9)


def test_a_virtual_machine_without_a_metal_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    device = found(monkeypatch, "metal", None)
    assert device.name == "this machine"
    assert device.gpu_bytes == device.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
