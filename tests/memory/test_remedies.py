"""One answer to "does it fit": what is printed anywhere agrees with loading, and a printed remedy works."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gptoss_mlx.cli.app import app
from gptoss_mlx.cli.chat.first_start import offers
from gptoss_mlx.cli.doctor import examine
from gptoss_mlx.cli.info import describe
from gptoss_mlx.cli.screen.spans import plain
from gptoss_mlx.config import PRECISIONS, RELEASED, ModelConfig, Precision, with_precision
from gptoss_mlx.engine.engine import Engine
from gptoss_mlx.errors import NotEnoughMemory
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.precision import COMFORTABLE_CONTEXT, choose_precision
from gptoss_mlx.quantization import MXFP4, Quantization
from gptoss_mlx.sampling import SamplingParams
from tests import DEMO
from tests.memory.machines import MACS, mac, pc

CONTEXTS = (4096, 32768, 131072)
COMMAND = re.compile(
    r"--context \d+|--kv-bits \d+|gptoss convert SOURCE --(?:dense|experts) \w+|"
    r"sudo sysctl iogpu\.wired_limit_mb=\d+"
)


def loads(budget: Budget) -> bool:
    """Loading's own check."""
    try:
        budget.check_load()
    except NotEnoughMemory:
        return False
    return True


def obey(budget: Budget, command: str) -> Budget:
    """The budget of the next load, after a printed command was carried out."""
    option, _, value = command.partition(" ")
    match option:
        case "--context":
            return replace(budget, context=int(value))
        case "--kv-bits":
            return replace(budget, kv_bits=int(value))
        case "gptoss" if "--experts mxfp4" in command:
            return replace(budget, config=replace(budget.config, experts=MXFP4))
        case "gptoss":
            precision: Precision = next(name for name in PRECISIONS if f"--dense {name}" in command)
            return replace(budget, config=with_precision(budget.config, precision))
        case _:
            limit = int(command.partition("=")[2]) * 2**20
            # macOS and everything else that runs keep at least 2.5 GB.
            assert limit <= budget.device.memory_bytes - 2.5e9
            return replace(budget, device=replace(budget.device, gpu_bytes=limit))


def cases() -> Iterator[Budget]:
    """Every released model at every precision and context, with and without 8-bit caches, on every machine."""
    devices = [*map(mac, MACS), pc(16), pc(64)]
    contexts = (None, *CONTEXTS)
    for name, precision, context, kv_bits, device in itertools.product(
        RELEASED, PRECISIONS, contexts, (None, 8), devices
    ):
        config = with_precision(RELEASED[name], precision)
        yield Budget(config=config, device=device, context=context, kv_bits=kv_bits)


def test_every_remedy_in_a_refusal_works() -> None:
    refused = 0
    for budget in cases():
        if budget.fits:
            assert loads(budget)
            continue
        refused += 1
        with pytest.raises(NotEnoughMemory) as caught:
            budget.check_load()
        said = str(caught.value)
        assert "\n" not in said
        commands = COMMAND.findall(said)
        if " with " in said.partition("what helps: ")[2]:
            together = budget
            for command in commands:
                assert not loads(together), said
                together = obey(together, command)
            assert loads(together), said
        else:
            assert all(loads(obey(budget, command)) for command in commands), said
            assert commands or "no setting makes it fit" in said
    assert refused > 100


@pytest.mark.parametrize("experts", [None, Quantization(bits=8, group_size=64)])
def test_experts_in_mxfp4_are_a_remedy_where_they_are_not(experts: Quantization | None) -> None:
    config = replace(RELEASED["20b"], experts=experts)
    budget = Budget(config=config, device=mac(24), context=8192)
    with pytest.raises(NotEnoughMemory, match="gptoss convert SOURCE --experts mxfp4") as caught:
        budget.check_load()
    assert loads(
        obey(budget, next(command for command in COMMAND.findall(str(caught.value)) if "--experts" in command))
    )


def test_a_printed_conversion_is_carried_out_and_what_it_writes_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "my models"))
    config = ModelConfig.from_directory(DEMO)
    device = pc(16)
    smaller = Budget(config=with_precision(config, "q8"), device=device, context=1024)
    device = replace(device, gpu_bytes=smaller.needed_bytes())
    settings: dict[str, Any] = {"dtype": "bfloat16", "context": 1024, "device": device}
    with pytest.raises(NotEnoughMemory) as caught:
        Engine(DEMO, **settings)
    printed = re.search(r"gptoss convert .* --dense q8", str(caught.value))
    assert printed is not None
    _, verb, *arguments = shlex.split(printed[0])
    ended = CliRunner().invoke(app, [verb, *arguments])
    assert ended.exit_code == 0, ended.output
    with Engine(tmp_path / "my models" / f"{DEMO.name}-q8", **settings) as engine:
        assert len(list(engine.generate([1, 2, 3], SamplingParams(max_tokens=2)))) > 0


def test_two_conversions_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_DATA", "/models")
    config = replace(RELEASED["20b"], experts=Quantization(bits=8, group_size=64))
    least = Budget(config=replace(with_precision(config, "q4"), experts=MXFP4), device=mac(64), context=8192)
    device = replace(mac(64), gpu_bytes=least.needed_bytes(), memory_bytes=least.needed_bytes() + 2**31)
    snapshot = Path("/hub/models--openai--gpt-oss-20b/snapshots/0123abcd")
    with pytest.raises(NotEnoughMemory) as caught:
        Budget(config=config, device=device, context=8192, source=snapshot).check_load()
    dense = f"gptoss convert {snapshot} /models/gpt-oss-20b-q4 --dense q4"
    experts = "gptoss convert /models/gpt-oss-20b-q4 /models/gpt-oss-20b-q4-mxfp4 --experts mxfp4"
    assert f"{dense} with {experts}" in str(caught.value)


def test_where_no_setting_helps_none_does() -> None:
    hopeless = 0
    for budget in cases():
        if loads(budget):
            continue
        with pytest.raises(NotEnoughMemory) as caught:
            budget.check_load()
        if "no setting" in str(caught.value):
            hopeless += 1
            least = replace(budget, config=with_precision(budget.config, "q4"), kv_bits=8, context=1024)
            assert not loads(least)
            assert least.wired_limit_command is None
    assert hopeless > 100


@pytest.mark.parametrize("memory", MACS)
@pytest.mark.parametrize("name", RELEASED)
def test_info_says_fits_where_the_model_loads_and_its_remedies_work(name: str, memory: int) -> None:
    device = mac(memory)
    for precision, figures in describe(RELEASED[name], device)["precisions"].items():
        for context, row in figures["memory"].items():
            budget = Budget(config=with_precision(RELEASED[name], precision), device=device, context=context)
            assert row["fits"] == loads(budget)
            if row["remedy"] is not None:
                assert loads(obey(budget, row["remedy"]))
            # Exactly as much memory as it says is enough; a byte less is not.
            for nbytes in (row["bytes"], row["bytes"] - 1):
                just = replace(device, gpu_bytes=nbytes)
                assert loads(replace(budget, device=just)) == (nbytes == row["bytes"])


@pytest.mark.parametrize("memory", MACS)
@pytest.mark.parametrize("name", RELEASED)
def test_convert_and_doctor_say_fits_where_the_result_loads(name: str, memory: int) -> None:
    config = RELEASED[name]
    choice = choose_precision(config, mac(memory))
    chosen = Budget(config=with_precision(config, choice.precision), device=mac(memory))
    assert choice.budget.fits == loads(chosen)
    command = choice.budget.wired_limit_command
    assert choice.budget.fits or command is None or loads(obey(chosen, command))
    for precision, command in re.findall(r"(\w+) fits after: (.*?)(?:;|$)", choice.reason):
        raised = obey(chosen, command).device
        assert PRECISIONS.index(choose_precision(config, raised).precision) <= PRECISIONS.index(precision)
        for context in (None, COMFORTABLE_CONTEXT):
            assert loads(Budget(config=with_precision(config, precision), device=raised, context=context))


def test_a_mac_of_16_gb_gets_q8_after_the_printed_command() -> None:
    config = RELEASED["20b"]
    reason = choose_precision(config, mac(16)).reason
    found = re.search(r"q8 fits after: (sudo sysctl iogpu\.wired_limit_mb=\d+)", reason)
    assert found is not None
    raised = obey(Budget(config=config, device=mac(16)), found[1]).device
    assert choose_precision(config, raised).precision == "q8"


def test_a_first_start_and_the_doctor_print_the_same_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Between the weights and what q4 needs: a Mac whose limit was lowered.
    device = replace(mac(16), gpu_bytes=10 * 10**9)
    monkeypatch.setattr(DeviceInfo, "current", classmethod(lambda cls: device))
    monkeypatch.setattr("gptoss_mlx.cli.doctor._self_test", lambda: iter(()))
    examine()
    expected = choose_precision(RELEASED["20b"], device).budget.wired_limit_command
    assert expected is not None
    assert f"it fits after: {expected}" in capsys.readouterr().out
    assert f"it fits after: {expected}" in "\n".join(plain(row) for row in offers(device))
    assert loads(obey(Budget(config=with_precision(RELEASED["20b"], "q4"), device=device), expected))


@pytest.mark.parametrize("memory", [16, 18, 24])
def test_the_remedies_for_a_long_prompt_work(memory: int) -> None:
    refused = 0
    for precision, length in itertools.product(PRECISIONS, (8_158, 20_000, 60_000, 131_071)):
        budget = Budget(config=with_precision(RELEASED["20b"], precision), device=mac(memory))
        if not budget.fits:
            continue
        try:
            budget.check_prompt(length)
        except NotEnoughMemory as error:
            refused += 1
            commands = COMMAND.findall(str(error))
            assert not [command for command in commands if command.startswith("--context")]
            if " with " in str(error):
                for command in commands:
                    budget = obey(budget, command)
                budget.check_prompt(length)
            else:
                for command in commands:
                    obey(budget, command).check_prompt(length)
    assert refused
