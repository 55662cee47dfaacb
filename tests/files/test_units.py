"""Sizes in words."""

from __future__ import annotations

import random

import pytest

from gptoss_mlx.files.units import format_bytes

UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "bytes": 1}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (64_840_000_000, "64.8 GB"),
        (3.71e9, "3.71 GB"),
        (5.12e11, "512.0 GB"),
    ],
)
def test_a_size_has_two_decimals_below_ten_and_one_above(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_a_size_is_right_to_half_a_percent() -> None:
    rng = random.Random(1)
    for _ in range(1000):
        count = round(10 ** rng.uniform(0, 13))
        value, unit = format_bytes(count).split()
        assert abs(float(value) * UNITS[unit] / count - 1) <= 0.0051
