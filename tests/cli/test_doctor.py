"""What ``gptoss doctor`` finds."""

from __future__ import annotations

import ctypes
import dataclasses
import getpass
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import typer

from gptoss_mlx.benchmark import agreement
from gptoss_mlx.benchmark.agreement import Agreement
from gptoss_mlx.cli import bench, doctor
from gptoss_mlx.cli.mac import MacFacts, check_mac
from gptoss_mlx.cli.screen.terminal import Terminal
from gptoss_mlx.memory.device import DeviceInfo
from tests.cli.screen.escapes import Tty

GOOD = MacFacts(
    macos=(26, 2),
    python="arm64",
    translated=False,
    wheel=(26, 0),
    gpu="applegpu_g17s",
    memory_mb=32768,
    wired_limit_mb=0,
    low_power=False,
)


@pytest.fixture
def quick(user: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A doctor that computes little; the user's directory."""
    monkeypatch.setenv("GPTOSS_CONFIG", str(user / "config.toml"))
    monkeypatch.setattr(agreement, "PREFILLS", (3,))
    monkeypatch.setattr(bench, "_QUICK", {"depths": (16,), "tokens": 2, "rounds": 1, "turns": 1})
    return user


def test_directories_that_cannot_be_written_to_are_found(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_CONFIG", str(user / "config.toml"))
    assert {state for state, _, _ in doctor._directories()} == {"ok"}
    (user / "config.toml").write_text("temperature = 500\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    findings = list(doctor._directories())
    assert [state for state, _, _ in findings] == ["bad"] * 5
    assert f"no permission to write in {user}" in findings[0][1]


@pytest.mark.parametrize(
    ("change", "state", "text", "remedy"),
    [
        ({"macos": (13, 6), "gpu": "applegpu_g13g"}, "bad", "macOS 13.6 is too old", "macOS 14 or newer"),
        ({"python": "x86_64", "translated": True}, "bad", "Rosetta", "arm64 Python"),
        ({"python": "x86_64"}, "bad", "Intel", "Apple silicon"),
        ({"gpu": ""}, "bad", "no Metal device", "outside"),
        ({"wheel": (14, 0)}, "note", "MLX is for macOS 14.0", "--force-reinstall"),
        ({"macos": (26, 1)}, "note", "macOS is 26.1", "26.2 or newer"),
        ({"wired_limit_mb": 31000}, "note", "less than 2 GB", "wired_limit_mb=0"),
        ({"wired_limit_mb": 28000}, "ok", "wired_limit_mb is 28000", ""),
        ({"low_power": True}, "note", "Low Power Mode", "System Settings"),
    ],
)
def test_what_is_wrong_with_a_mac_is_found(change: dict[str, Any], state: str, text: str, remedy: str) -> None:
    ((found_state, found_text, found_remedy),) = check_mac(dataclasses.replace(GOOD, **change))
    assert found_state == state
    assert text in found_text
    assert remedy in found_remedy


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"gpu": "applegpu_g16s", "macos": (14, 0), "wheel": (14, 0)},  # M4: older kernels are all it has
        {"gpu": "applegpu_g17p", "wheel": (15, 0)},  # a phone's
        {"wheel": None},  # built from source
    ],
)
def test_a_good_mac_has_no_findings(change: dict[str, Any]) -> None:
    assert not list(check_mac(dataclasses.replace(GOOD, **change)))


def test_the_facts_can_be_gathered_anywhere() -> None:
    facts = MacFacts.current()
    assert facts.python == platform.machine()


def test_a_doctor_without_complaints_ends_well(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.examine()
    printed = " ".join(capsys.readouterr().out.split())
    assert "✗" not in printed
    for case in ("demo, bf16", "demo, q8", "demo, kv_bits 8"):
        assert f"{case}: logits differ by " in printed


def test_a_machine_that_computes_wrong_fails(
    quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(case: str, directory: Path, *, kv_bits: int | None = None) -> Iterator[Agreement]:
        yield Agreement(
            case=case, prefill=7, largest=9, largest_logit=20, relative=0.01, partings=(4, 6), positions=27
        )

    monkeypatch.setattr(agreement, "measure_demo", measure)
    with pytest.raises(typer.Exit) as caught:
        doctor.examine()
    assert caught.value.exit_code == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "✗ demo, bf16: logits differ by 1.0% (limit 12%), one by 45% (limit 40%)" in printed
    assert "another at 2 of 27 places, first at 4 of prompt 7; this machine computes wrong" in printed


@pytest.mark.parametrize("device", [mx.DeviceType.cpu, mx.DeviceType.gpu])
def test_real_widths_are_computed_where_there_is_a_gpu(
    device: mx.DeviceType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, reference = agreement.runs()
    monkeypatch.setattr(agreement, "runs", lambda: (dataclasses.replace(run, device=device), reference))
    measured: list[tuple[Any, ...]] = []

    def measure(*arguments: Any, kv_bits: int | None = None) -> Iterator[Agreement]:
        measured.append((*arguments, kv_bits))
        yield Agreement(
            case=arguments[0], prefill=7, largest=0, largest_logit=20, relative=0, partings=(), positions=27
        )

    monkeypatch.setattr(agreement, "measure_demo", measure)
    monkeypatch.setattr(agreement, "measure_widths", measure)
    findings = list(doctor._agreement([], full=True))
    assert len(measured) == (6 if device == mx.DeviceType.gpu else 3)
    assert sum("no other device" in text or "skipped" in text for _, text, _ in findings) == (
        0 if device == mx.DeviceType.gpu else 2
    )
    assert "bad" not in {state for state, _, _ in findings}


def test_the_report_has_the_figures_and_no_paths_or_names(
    quick: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    doctor.examine(report=tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    report = json.loads(text)
    assert {entry["case"] for entry in report["agreement"]} == {"demo, bf16", "demo, q8", "demo, kv_bits 8"}
    assert all(entry["ok"] for entry in report["agreement"])
    assert report["versions"].keys() >= {"gptoss-mlx", "mlx"}
    assert report["bench"]["engines"][0]["depths"]
    assert "/" not in text.replace("GB/s", "")
    for name in (platform.node(), getpass.getuser(), Path.home().name):
        assert name not in text.split('"')


def test_a_narrow_window_breaks_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Tty()
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(doctor, "Terminal", lambda stream: Terminal(window, {"TERM": "xterm", "NO_COLOR": "1"}))
    for check in ("_machine", "_models", "_directories", "_self_test"):
        monkeypatch.setattr(doctor, check, lambda: iter(()))
    monkeypatch.setattr(doctor, "_agreement", lambda agreements, full: iter(()))
    doctor.examine()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", window.getvalue()).splitlines()
    assert max(map(len, lines)) <= 30
    words = {word for line in lines for word in line.split()}
    assert {"0.1.0,", f"{mx.__version__},"} <= words  # type: ignore[attr-defined]


@pytest.mark.parametrize(("speed", "said"), [(6.5, True), (100.0, False)])
def test_a_slow_blas_is_noted_on_a_cpu(speed: float, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_device", lambda: "cpu")
    monkeypatch.setattr(doctor, "_gigaflops", lambda: speed)
    linux = dataclasses.replace(DeviceInfo.current(), is_mac=False)
    monkeypatch.setattr(DeviceInfo, "current", lambda: linux)
    remedies = [remedy for _, text, remedy in doctor._machine() if "multiplies slowly" in text]
    assert bool(remedies) == said


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has a BLAS of its own")
def test_its_remedy_makes_products_faster() -> None:
    library = re.search(r"LD_PRELOAD=(\S+)", doctor._INSTALL_BLAS)
    assert library is not None
    try:
        ctypes.CDLL(library[1])
    except OSError:
        pytest.skip("OpenBLAS is not installed")
    measure = "from gptoss_mlx.cli import doctor; print(doctor._gigaflops())"
    speeds = []
    for environment in ({}, {"LD_PRELOAD": library[1]}):
        ended = subprocess.run(
            [sys.executable, "-c", measure],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        speeds.append(float(ended.stdout))
    assert speeds[0] >= doctor._SLOW_GIGAFLOPS or speeds[1] > 2 * speeds[0]
