"""Exact by default: bf16 wherever it fits with 8k of context, else q8, else q4."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from gptoss_mlx.config import GPT_OSS_20B, GPT_OSS_120B, PRECISIONS, RELEASED, Precision, with_precision
from gptoss_mlx.files.units import format_bytes
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.precision import choose_precision, loss_of, token_bytes
from tests.memory.machines import MACS, mac, pc


def test_the_precision_of_every_mac() -> None:
    chosen = {memory: choose_precision(GPT_OSS_20B, mac(memory)).precision for memory in MACS}
    assert chosen == {8: "q4", 16: "q4", 18: "q8"} | dict.fromkeys(MACS[3:], "bf16")
    assert choose_precision(GPT_OSS_120B, mac(96)).precision == "bf16"


@pytest.mark.parametrize("name", RELEASED)
def test_lossless_is_chosen_from_the_first_byte_at_which_it_fits(name: str) -> None:
    config = RELEASED[name]
    for precision, next_one in itertools.pairwise(PRECISIONS):
        budget = Budget(config=with_precision(config, precision), device=mac(512), context=8192)
        enough = replace(mac(512), gpu_bytes=budget.needed_bytes())
        assert choose_precision(config, enough).precision == precision
        assert choose_precision(config, replace(enough, gpu_bytes=enough.gpu_bytes - 1)).precision == next_one


def test_the_reason_has_the_figures_of_every_precision_that_was_tried() -> None:
    for device in (mac(16), mac(18), mac(24), pc(13)):
        choice = choose_precision(GPT_OSS_20B, device)
        assert "\n" not in choice.reason
        user = "the GPU" if device.is_mac else "models"  # elsewhere there may be none
        assert f"and {user} may use {format_bytes(device.gpu_bytes)}" in choice.reason
        tried = PRECISIONS[: PRECISIONS.index(choice.precision) + 1]
        assert [precision for precision in PRECISIONS if f"{precision} needs" in choice.reason] == list(tried)


def test_the_last_resort_says_how_much_context_it_has() -> None:
    choice = choose_precision(GPT_OSS_20B, mac(16))
    assert choice.budget.fits
    assert f"q4 fits with {choice.budget.positions:,} tokens" in choice.reason
    assert "none fits" in choose_precision(GPT_OSS_120B, mac(16)).reason
    assert "sysctl" not in choose_precision(GPT_OSS_20B, pc(13)).reason


def test_only_bf16_loses_nothing() -> None:
    assert {precision: loss_of(precision) for precision in PRECISIONS} == {
        "bf16": None,
        "q8": "attention, embedding and head are rounded to 8 bits",
        "q4": "attention, embedding and head are rounded to 4 bits",
    }


@pytest.mark.parametrize(
    ("name", "read"), [("20b", ("3.71 GB", "2.57 GB", "1.96 GB")), ("120b", ("5.00 GB", "3.56 GB", "2.80 GB"))]
)
def test_bytes_a_token_reads(name: str, read: tuple[str, ...]) -> None:
    expected: dict[Precision, str] = dict(zip(PRECISIONS, read, strict=True))
    assert {
        precision: format_bytes(nbytes) for precision, nbytes in token_bytes(RELEASED[name]).items()
    } == expected
