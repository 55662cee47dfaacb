"""What the tests of conversions share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.convert.sources import LOSSLESS, write_layout


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every layout."""
    root = tmp_path_factory.mktemp("sources")
    return {name: write_layout(name, root / name) for name in [*LOSSLESS, "mlx-lm-q4"]}
