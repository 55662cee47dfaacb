"""Conversion of checkpoints between layouts, and their verification: ``gptoss convert`` without the terminal.

Uses the library; knows nothing of the command line.
"""

from .compare import Comparison, LogitsComparison, compare_logits, compare_weights
from .pipeline import ConversionReport, carry_out, convert_checkpoint
from .plan import ConversionPlan, ConversionProgress, plan_conversion
from .verify import VerifyReport, verify_checkpoint

__all__ = [
    "Comparison",
    "ConversionPlan",
    "ConversionProgress",
    "ConversionReport",
    "LogitsComparison",
    "VerifyReport",
    "carry_out",
    "compare_logits",
    "compare_weights",
    "convert_checkpoint",
    "plan_conversion",
    "verify_checkpoint",
]
