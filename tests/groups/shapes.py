"""Five shapes that two, three and four machines can divide, none of them evenly by three."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.checkpoints import FULL, SLIDING, write_random_checkpoint

__all__ = ["DIVISIBLE", "write_divisible"]

DIVISIBLE: dict[str, dict[str, Any]] = {
    "even": {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 128},
    "odd": {
        "num_hidden_layers": 5,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
        "intermediate_size": 160,
        "vocab_size": 323,
    },
    "full_first": {
        "num_hidden_layers": 4,
        "layer_types": [FULL, SLIDING, FULL, SLIDING],
        "hidden_size": 96,
        "intermediate_size": 224,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "sliding_window": 8,
    },
    "many_experts": {
        "num_hidden_layers": 6,
        "num_local_experts": 32,
        "num_attention_heads": 14,
        "num_key_value_heads": 7,
        "intermediate_size": 192,
        "sliding_window": 64,
        "vocab_size": 325,
    },
    "wide_heads": {
        "num_hidden_layers": 4,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_local_experts": 8,
        "original_context": 1024,
        "sliding_window": 32,
        "vocab_size": 3010,
    },
}


def write_divisible(directory: Path) -> dict[str, Path]:
    """Writes a random checkpoint of each shape; always the same ones."""
    return {
        name: write_random_checkpoint(directory / name, seed=number, **fields)
        for number, (name, fields) in enumerate(DIVISIBLE.items())
    }
