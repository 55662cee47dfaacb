"""The tests, in the folders of what they test."""

from pathlib import Path
from typing import Final

__all__ = ["DATA", "DEMO", "ROOT"]

ROOT: Final = Path(__file__).parents[1]
"""Of the repository."""
DATA: Final = ROOT / "tests" / "data"
DEMO: Final = ROOT / "gptoss_mlx" / "demo" / "checkpoint"
"""The embedded model."""
