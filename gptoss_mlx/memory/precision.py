"""The precision of the dense layers: the most exact one that fits a machine, and what each costs.

The experts are not affected: they stay in MXFP4, as released. Knows configs, not checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..config import PRECISIONS, ModelConfig, Precision, with_precision
from ..files.units import format_bytes
from .budget import Budget
from .device import DeviceInfo
from .sizes import bytes_per_token

__all__ = ["COMFORTABLE_CONTEXT", "Choice", "choose_precision", "loss_of", "token_bytes"]

COMFORTABLE_CONTEXT: Final = 8192
"""The positions that must fit for a precision to be chosen over a smaller one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The precision chosen for a machine, and why."""

    precision: Precision
    budget: Budget
    """Of that precision. It does not fit if no precision does."""
    reason: str
    """One line for the user."""


def choose_precision(config: ModelConfig, device: DeviceInfo) -> Choice:
    """The most exact precision that fits with 8,192 tokens of context: bf16 loses nothing, then q8, then q4.

    If none fits, it is q4, which may fit with less context.

    Example:
        >>> from gptoss_mlx.config import GPT_OSS_20B
        >>> mac = DeviceInfo(name="M4", memory_bytes=32 * 2**30, gpu_bytes=32 * 2**30 * 2 // 3, is_mac=True)
        >>> choose_precision(GPT_OSS_20B, mac).reason
        'bf16 needs 14.1 GB with 8,192 tokens of context, and the GPU may use 22.9 GB'
    """
    context = min(COMFORTABLE_CONTEXT, config.max_position_embeddings)
    budgets = {
        precision: Budget(config=with_precision(config, precision), device=device, context=context)
        for precision in PRECISIONS
    }
    chosen = next((precision for precision in PRECISIONS if budgets[precision].fits), PRECISIONS[-1])
    tried = PRECISIONS[: PRECISIONS.index(chosen) + 1]
    needs = [f"{precision} needs {format_bytes(budgets[precision].needed_bytes())}" for precision in tried]
    user = "the GPU" if device.is_mac else "models"
    reason = f"{', '.join(needs)} with {context:,} tokens of context, and {user} may use "
    reason += format_bytes(device.gpu_bytes)
    budget = budgets[chosen]
    if not budget.fits:
        # No context was asked for: loading asks for less than this.
        budget = Budget(config=budget.config, device=device)
        reason += f"; {chosen} fits with {budget.positions:,} tokens" if budget.fits else "; none fits"
    commands = {precision: budgets[precision].wired_limit_command for precision in tried[:-1]}
    for precision, command in commands.items():
        reason += f"; {precision} fits after: {command}" if command else ""
    return Choice(precision=chosen, budget=budget, reason=reason)


def loss_of(precision: Precision) -> str | None:
    """The change that a conversion to ``precision`` makes to bfloat16 weights; None if it makes none."""
    if precision == "bf16":
        return None
    return f"attention, embedding and head are rounded to {precision.removeprefix('q')} bits"


def token_bytes(config: ModelConfig) -> dict[Precision, int]:
    """The bytes that a decoded token reads at each precision: memory bandwidth over these bounds the speed."""
    return {precision: bytes_per_token(config, precision) for precision in PRECISIONS}
