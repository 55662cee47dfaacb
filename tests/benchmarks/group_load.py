"""The memory that a machine of a group needs to load its share of a checkpoint in the shape of gpt-oss-20b.

python -m tests.benchmarks.group_load [--layers 4] [--machines 2]

Each share is loaded in a process of its own. Its peak must be at most the share and the largest tensor.

2026-11-26, four layers (4.2 GB), two machines, in GB: shares of 2.11; MLX's peak 2.12 and 3.27 (pipeline), 2.69
(tensor); growth of the process 2.07 and 3.23, 3.22; limit 3.27.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
from pathlib import Path

import mlx.core as mx

from gptoss_mlx.checkpoint.safetensors import Checkpoint
from gptoss_mlx.checkpoint.tensors import open_model
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.split import divide
from gptoss_mlx.model.weights import load_weights
from gptoss_mlx.share import Split
from tests.benchmarks.convert_shaped import write_shaped


def peak(directory: Path, split: Split, machines: int, rank: int) -> tuple[int, int, int]:
    """Bytes of the share, the peak of MLX's memory, and by how much the process grew at most."""
    config = ModelConfig.from_directory(directory)
    share = divide(config, split, [1] * machines)[rank]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = load_weights(open_model(directory), mx.bfloat16, share=share)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return sum(weight.nbytes for weight in weights.values()), mx.get_peak_memory(), grown


def main() -> None:
    """Prints a line for each share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--machines", type=int, default=2)
    options = parser.parse_args()
    splits: tuple[Split, ...] = ("pipeline", "tensor")
    with tempfile.TemporaryDirectory() as home:
        directory = write_shaped(Path(home) / "shaped", options.layers)
        largest = max(record.nbytes for record in Checkpoint.open(directory).tensors.values())
        print(f"largest tensor {largest / 1e9:.2f} GB; in GB: share, peak of MLX, growth of the process, limit")
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for split in splits:
                for rank in range(options.machines):
                    held, mlx, grown = pool.apply(peak, (directory, split, options.machines, rank))
                    figures = "  ".join(f"{each / 1e9:5.2f}" for each in (held, mlx, grown, held + largest))
                    print(f"{split:<9} {rank}  {figures}", flush=True)


if __name__ == "__main__":
    main()
