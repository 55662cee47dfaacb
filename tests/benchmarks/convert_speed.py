"""Compares a conversion with a plain copy of the same files on the same disk, and loading with ``cat``.

    python -m tests.benchmarks.convert_speed PLACE [--layers 4] [--rounds 3] [--peer]

Writes a 20b-shaped checkpoint into PLACE (4.2 GB for 4 layers; three times that is needed). Copy, bf16 and q8
alternate, each followed by a sync. Prints medians, the ratios to the copy, and the peak memory of each conversion.
``--peer`` adds mlx-lm's own conversion to 8 bits.

On two hyperthreads of one core (2026-11-21), medians of three alternating runs, 4 layers: copy 9.2 s, bf16 6.5 s
(0.71 times; in another run 6.9 and 5.7 s, 0.83 times), q8 12.3 s (1.35 times), mlx-lm 32.9 s (3.6 times, 4,647
MB). 24 layers (13.7 GB), one round: copy 41.8 s, bf16 18.8 s, q8 25.0 s. Peak memory of ours: 63 MB for bf16, 89
MB for q8, at 4 and at 24 layers. Copying goes through the system's cache and a conversion does not; with free
memory the copy is faster: its best was 5.4 s, beside 5.3 s for bf16. Loading took 1.62 s for 3.04 GB of the cache,
``cat`` 0.35 s (4.6 times, because memory is allocated), and 7.98 s for 12.08 GB that were not in the cache,
``cat`` 7.44 s (1.07).

2026-11-26, the same machine with a faster disk, and every byte hashed once instead of twice: five rounds with
nothing else running, copy 3.3 s, bf16 4.0 s (1.21 times), q8 8.8 s (2.66 times); three rounds before, with one
writing thread fewer, 2.7 and 3.8 s (1.38 times). Hashed twice they had been 1.89 and 3.83 times a copy of 2.4 s.
Without hashing, bf16 takes 2.7 s; without writing, 3.2 s: what is left is one SHA-256 of every byte, on a core
that also reads and writes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

_CONVERT = """
import json, sys
from gptoss_mlx.convert import convert_checkpoint
report = convert_checkpoint(sys.argv[1], sys.argv[2], dense=sys.argv[3])
print(json.dumps(report.as_dict()))
"""
_LOAD = """
import resource, sys, time
import mlx.core as mx
from gptoss_mlx.checkpoint.tensors import open_model
from gptoss_mlx.model.weights import load_weights
began = time.perf_counter()
weights = load_weights(open_model(sys.argv[1]), mx.bfloat16)
print(time.perf_counter() - began, sum(array.nbytes for array in weights.values()))
"""
_PEER = """
import resource, sys
from mlx_lm.convert import convert
convert(sys.argv[1], sys.argv[2], quantize=True, q_bits=8, q_group_size=64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    source = options.place / f"layers-{options.layers}"
    if not source.exists():
        # In a process of its own, because on Linux a child's peak memory begins with its parent's.
        command = [sys.executable, "-m", "tests.benchmarks.convert_shaped", str(source)]
        subprocess.run([*command, "--layers", str(options.layers)], check=True)
        subprocess.run(["sync"], check=True)
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    names = ["copy", "bf16", "q8"] + (["mlx-lm q8"] if options.peer else [])
    _read(source)
    for _ in range(options.rounds):
        for name in names:
            target = options.place / "out"
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run(["sync"], check=True)
            began = time.perf_counter()
            peak = _carry_out(name, source, target)
            subprocess.run(["sync"], check=True)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            peaks[name] = max(peaks.get(name, 0), peak)
            print(f"{name}: {seconds[name][-1]:.2f} s, peak {peak / 1e6:.0f} MB", flush=True)
    copy = statistics.median(seconds["copy"])
    for name in names:
        median = statistics.median(seconds[name])
        print(f"{name}: median {median:.2f} s, {median / copy:.2f} of the copy, peak {peaks[name] / 1e6:.0f} MB")
    _compare_loading(source, options.place / "out", options.rounds)


def _carry_out(name: str, source: Path, target: Path) -> int:
    """Runs it once; returns the peak resident memory, 0 for the copy."""
    if name == "copy":
        subprocess.run(["cp", "-r", str(source), str(target)], check=True)
        return 0
    if name == "mlx-lm q8":
        return int(_python(_PEER, str(source), str(target)).split()[-1]) * 1024
    peak: int = json.loads(_python(_CONVERT, str(source), str(target), name))["peak_memory"]
    return peak


def _python(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    ).stdout


def _read(directory: Path) -> float:
    """Times ``cat`` of the shards to /dev/null, with the shards in the page cache if they fit."""
    shards = [str(path) for path in sorted(directory.glob("*.safetensors"))]
    began = time.perf_counter()
    with Path(os.devnull).open("wb") as sink:
        subprocess.run(["cat", *shards], stdout=sink, check=True)
    return time.perf_counter() - began


def _compare_loading(source: Path, target: Path, rounds: int) -> None:
    """Times both from the page cache, alternately."""
    shutil.rmtree(target, ignore_errors=True)
    _carry_out("q8", source, target)
    _read(target)
    loads, reads = [], []
    nbytes = 0
    for _ in range(rounds):
        reads.append(_read(target))
        elapsed, size = _python(_LOAD, str(target)).split()
        loads.append(float(elapsed))
        nbytes = int(size)
    load, read = statistics.median(loads), statistics.median(reads)
    print(f"loading {nbytes / 1e9:.2f} GB: {load:.2f} s; cat: {read:.2f} s; ratio {load / read:.2f}")


if __name__ == "__main__":
    main()
