"""Random schedules of requests that decode together on several machines: each has the tokens of one machine.

mlx.launch --backend ring -n 3 -- python -m tests.groups.schedules pipeline CHECKPOINT FIRST_SEED COUNT [KV_BITS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.group import join
from gptoss_mlx.engine.group import Team
from gptoss_mlx.engine.runner import ModelRunner
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.metal import MLX_MEMORY
from gptoss_mlx.model.transformer import load_transformer
from tests.engine.schedules import Outcome, check_schedule

PARALLEL: Final = 4


def main(split: Any, directory: str, first: str, count: str, kv_bits: str = "") -> None:
    """Prints what became of the schedules."""
    path = Path(directory)
    budget = Budget(
        config=ModelConfig.from_directory(path),
        device=DeviceInfo.current(),
        element_bytes=4,
        kv_bits=int(kv_bits) if kv_bits else None,
        context=8192,
    )
    group = join()
    assert group is not None
    team, budget = Team.form(group, split, {}, budget)

    def load() -> Any:
        return load_transformer(path, mx.float32, compiled=False, peers=team.peers)

    if not team.leads:
        team.follow(load, budget, PARALLEL)
    runner = ModelRunner(lambda cancelled: load(), budget, MLX_MEMORY, team, PARALLEL)
    reference = load_transformer(path, mx.float32, compiled=False)
    total = Outcome()
    for seed in range(int(first), int(first) + int(count)):
        found = check_schedule(runner, reference, seed, longest=1200)
        total.tokens += found.tokens
        total.ties += found.ties
        total.most_rows = max(total.most_rows, found.most_rows)
        total.wrong += found.wrong
    runner.close()
    print(json.dumps(vars(total)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
