"""The table of Macs in README.md: ``python -m tests.memory.macs`` prints it, and a test compares the two."""

from __future__ import annotations

from gptoss_mlx.config import RELEASED, with_precision
from gptoss_mlx.files.units import format_bytes
from gptoss_mlx.memory.bandwidth import CHIPS
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.precision import choose_precision
from gptoss_mlx.memory.sizes import tokens_per_second_limit, weight_bytes

from .machines import mac

__all__ = ["table"]

SOLD = {
    16: ("M1", "M2 Pro"),
    24: ("M2", "M4 Pro"),
    32: ("M4", "M2 Max"),
    36: ("M3 Pro",),
    48: ("M4 Pro", "M4 Max"),
    64: ("M4 Pro", "M2 Ultra"),
    96: ("M2 Max", "M3 Ultra"),
    128: ("M4 Max", "M2 Ultra"),
    192: ("M2 Ultra",),
    512: ("M3 Ultra",),
}
"""For each size of memory in GiB a slow and a fast chip that it is sold with, or one chip."""

COLUMNS = ("memory", "model", "precision", "download", "on disk", "context", "tokens/s at most")


def table() -> str:
    """One row for each size of memory: the largest released model that fits, and what it needs."""
    rows = (_row(memory) for memory in SOLD)
    return "\n".join([f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *rows])


def _row(memory: int) -> str:
    device = mac(memory)
    choices = {name: choose_precision(config, device) for name, config in RELEASED.items()}
    name = [name for name, choice in choices.items() if choice.budget.fits][-1]
    config, precision = RELEASED[name], choices[name].precision
    positions = Budget(config=with_precision(config, precision), device=device).positions
    limits = [
        f"{chip}: {tokens_per_second_limit(config, CHIPS[chip] * 1e9, precision):.0f}" for chip in SOLD[memory]
    ]
    cells = (
        f"{memory} GB",
        f"gpt-oss-{name}",
        precision,
        format_bytes(weight_bytes(config, "bf16")),
        format_bytes(weight_bytes(config, precision)),
        f"{positions:,}",
        ", ".join(limits),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(table())
