"""A short, deterministic replay of the fuzzers of ``tests/fuzz``: their findings, and mutations of good inputs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import DATA
from tests.fuzz.targets import TARGETS, seeds

FOUND = DATA / "fuzz"


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_is_mended(path: Path, tmp_path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_refused_or_read(name: str, tmp_path: Path) -> None:
    good = list(seeds(name))
    assert any(TARGETS[name](content, tmp_path) for content in good)
    generator = random.Random(0)
    for _ in range(50 if name == "tokenizer" else 300):
        content = bytearray(generator.choice(good))
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(content))
            content[at : at + generator.randint(0, 2)] = bytes(
                generator.randrange(256) for _ in range(generator.randint(0, 3))
            )
            content = content or bytearray(b"\x00")
        TARGETS[name](bytes(content), tmp_path)
