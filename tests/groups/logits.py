"""Run by every machine of a group: the leader compares the group's logits with its own of the whole model.

mlx.launch --backend ring -n 3 -- python -m tests.groups.logits tensor DIRECTORY...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.split import divide
from gptoss_mlx.engine.vocabulary import WHOLE, SplitVocabulary, Vocabulary
from gptoss_mlx.model.peers import Peers
from gptoss_mlx.model.transformer import Transformer, load_transformer
from gptoss_mlx.share import Split
from tests.model.test_parity import Logits

PROMPT, DECODED = 40, 3


def logits_of(transformer: Transformer, tokens: list[int], vocabulary: Vocabulary) -> Logits:
    """The logits of a prompt at once, then of a token at a time."""
    cache, found = transformer.make_cache(), []
    for part in (tokens[:PROMPT], *([token] for token in tokens[PROMPT:])):
        logits = transformer(mx.array([part]), cache)[0]
        mx.eval(logits)  # on every machine before the next exchange
        found.append(np.array(vocabulary.all(logits).astype(mx.float32)))
    return np.concatenate(found)


def compare(directory: Path, split: Split, group: mx.distributed.Group, compiled: bool) -> dict[str, object]:
    """The largest difference of a logit, and whether all most likely tokens are the same."""
    config = ModelConfig.from_directory(directory)
    share = divide(config, split, [1] * group.size())[group.rank()]
    peers = Peers(share=share, group=group)
    rng = np.random.default_rng(7)
    tokens = [int(token) for token in rng.integers(0, config.vocab_size, PROMPT + DECODED)]
    transformer = load_transformer(directory, mx.float32, compiled=compiled, peers=peers)
    found = logits_of(transformer, tokens, SplitVocabulary(peers, config.vocab_size))
    if group.rank():
        return {}
    expected = logits_of(load_transformer(directory, mx.float32, compiled=compiled), tokens, WHOLE)
    same = bool((found.argmax(-1) == expected.argmax(-1)).all())
    return {"distance": float(np.abs(found - expected).max()), "same": same}


def main(split: Split, compiled: str, *directories: str) -> None:
    """Prints a line for each checkpoint."""
    group = mx.distributed.init(strict=True, backend="ring")
    for directory in map(Path, directories):
        compared = compare(directory, split, group, compiled == "compiled")
        if compared:
            print(json.dumps(compared | {"name": directory.name}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
