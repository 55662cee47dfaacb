"""How fast a model is on this machine, and beside mlx-lm: what ``gptoss bench`` shows.

    transcript.py   a fixed chat, reply by reply
    engines.py      what is measured: this library, or mlx-lm on the same weights
    kernels.py      kernels of one decoded token, counted on the graph
    measure.py      the plan, the measures and their results

Times are those a user waits: from the request to the first token, and from token to token.
"""

from __future__ import annotations

from .conversation import RecordedReply, recorded_chat, recorded_replies
from .engines import Engine, GptOssEngine, MlxLmEngine
from .kernels import count_kernels
from .measure import Benchmark, DepthResult, EngineResult, Plan, Skipped, TurnResult

__all__ = [
    "Benchmark",
    "DepthResult",
    "Engine",
    "EngineResult",
    "GptOssEngine",
    "MlxLmEngine",
    "Plan",
    "RecordedReply",
    "Skipped",
    "TurnResult",
    "count_kernels",
    "recorded_chat",
    "recorded_replies",
]
