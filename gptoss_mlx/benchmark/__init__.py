"""Measures how fast a model runs on this machine, alone or beside mlx-lm, for ``gptoss bench``.

    conversation.py a fixed chat, reply by reply
    engines.py      the engines that are measured: this library, and mlx-lm on the same weights
    kernels.py      kernels of one decoded token, counted on the graph
    measure.py      the plan, the measurements and their results

Times are those that a user waits: from the request to the first token, and from token to token. Knows nothing of
the terminal.
"""

from __future__ import annotations

from .conversation import RecordedReply, recorded_chat, recorded_replies
from .engines import Engine, GptOssEngine, MlxLmEngine
from .kernels import count_kernels
from .measure import Benchmark, DepthResult, EngineResult, Plan, RowsResult, Skipped, TurnResult

__all__ = [
    "Benchmark",
    "DepthResult",
    "Engine",
    "EngineResult",
    "GptOssEngine",
    "MlxLmEngine",
    "Plan",
    "RecordedReply",
    "RowsResult",
    "Skipped",
    "TurnResult",
    "count_kernels",
    "recorded_chat",
    "recorded_replies",
]
