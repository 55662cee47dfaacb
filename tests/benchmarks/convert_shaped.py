"""Writes a checkpoint of random weights in the shape of gpt-oss-20b, with any number of layers.

    python -m tests.benchmarks.convert_shaped DIRECTORY [--layers 4] [--shard-bytes 5000000000]

Bytes are streamed, so memory does not depend on the size. Four layers have 4.2 GB, all 24 have 13.8 GB. Weights
have ordinary magnitudes, so that the checkpoint can be loaded and run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptoss_mlx.checkpoint.safetensors import DTYPE_BYTES, INDEX_NAME
from gptoss_mlx.config import GPT_OSS_20B
from gptoss_mlx.hub.models import resolve
from tests.checkpoints import hugging_face_tensors

_CHUNK = 16 * 1024**2


def write_shaped(directory: Path, layers: int, *, shard_bytes: int = 5_000_000_000, seed: int = 0) -> Path:
    """Writes config.json, the shards, their index and the demo's tokenizer, which other programs can load too."""
    types = GPT_OSS_20B.layer_types[:layers]
    config = dataclasses.replace(GPT_OSS_20B, num_hidden_layers=layers, layer_types=types)
    directory.mkdir(parents=True)
    tensors = [
        (name, "U8" if name.endswith(("_blocks", "_scales")) else "BF16", shape)
        for name, shape in hugging_face_tensors(config)
    ]
    shards: list[list[_Tensor]] = [[]]
    for tensor in tensors:
        if sum(map(_nbytes, shards[-1])) + _nbytes(tensor) > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    rng = np.random.default_rng(seed)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = f"model-{number:05}-of-{len(shards) - 1:05}.safetensors"  # numbered from 0, as OpenAI's are
        _write_shard(directory / name, shard, rng)
        weight_map |= {tensor[0]: name for tensor in shard}
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(_config_json(layers), indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(resolve("demo") / name, directory)
    return directory


_Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape."""


def _nbytes(tensor: _Tensor) -> int:
    _, dtype, shape = tensor
    return math.prod(shape) * DTYPE_BYTES[dtype]


def _write_shard(path: Path, tensors: list[_Tensor], rng: np.random.Generator) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        name, dtype, shape = tensor
        end = position + _nbytes(tensor)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for chunk in _random(tensor[0], _nbytes(tensor), rng):
                file.write(chunk)


def _random(name: str, nbytes: int, rng: np.random.Generator) -> Iterator[bytes]:
    while nbytes:
        size = min(nbytes, _CHUNK)
        nbytes -= size
        if name.endswith("_blocks"):
            yield rng.bytes(size)
        elif name.endswith("_scales"):
            yield rng.integers(118, 122, size, dtype=np.uint8).tobytes()
        else:
            # bfloat16 of either sign between 1/128 and 1/8.
            words = np.frombuffer(rng.bytes(size), np.uint16)
            yield ((words & 0x81FF) | 0x3C00).tobytes()


def _config_json(layers: int) -> dict[str, Any]:
    config = GPT_OSS_20B
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "num_local_experts": config.num_local_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "sliding_window": config.sliding_window,
        "layer_types": list(config.layer_types[:layers]),
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "swiglu_limit": config.swiglu_limit,
        "rope_theta": config.rope.theta,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": config.rope.factor,
            "beta_fast": config.rope.beta_fast,
            "beta_slow": config.rope.beta_slow,
            "original_max_position_embeddings": config.rope.original_max_position_embeddings,
            "truncate": False,
        },
        "quantization_config": {"quant_method": "mxfp4"},
        "tie_word_embeddings": False,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    arguments = parser.parse_args()
    write_shaped(arguments.directory, arguments.layers, shard_bytes=arguments.shard_bytes)


if __name__ == "__main__":
    main()
