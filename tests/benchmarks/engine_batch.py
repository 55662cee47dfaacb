"""Rows that decode together: tokens a second of 1, 2, 4 and 8 rows, beside mlx-lm's BatchGenerator.

A random model of 24 layers of hidden 64, compiled, as in ``engine_speed``. Rows of equal lengths, and of mixed
ones, the first of which is about their mean. The programs alternate; the figures are those of the best round, in
processor time (which other programs on the machine disturb least) and in wall time.

    python -m tests.benchmarks.engine_batch [--rounds 5] [--tokens 48] [--dtype float32] [--lengths "equal, short"]
    python -m tests.benchmarks.engine_batch --steps

With --steps, steps of this library's model alone, and the bound that its products and attention set: MLX's CPU
backend computes these for one row after another.

On two hyperthreads of one core, nothing else running (2026-11-26, mlx 0.32.4, mlx-lm 0.32.2, float32), tokens a
second of processor time, and in brackets times those of one row:

    rows                         1       2              4              8
    equal, short  gptoss-mlx     64.4     88.4 (1.37)   127.5 (1.98)   171.6 (2.66)
                  mlx-lm         33.8     58.7 (1.74)    89.5 (2.65)   133.8 (3.96)
    mixed, short  gptoss-mlx     64.8     84.4 (1.30)   112.7 (1.74)   137.7 (2.13)
                  mlx-lm         34.7     58.7 (1.69)    88.6 (2.55)   112.3 (3.24)

MLX's wheel for Linux brings the reference BLAS, which computes 6.5 GFLOPS on a 512 x 512 product where OpenBLAS
computes 174; its products take time linear in the rows. Each further row adds 6.1 ms to a mixed step of either
program, 3.7 of them by its products. One row takes 15.4 ms, so that eight rows of 6.1 ms each would give 2.5 if
whatever they share cost nothing. The same programs with OpenBLAS in its place (LD_PRELOAD=libopenblas.so.0,
OPENBLAS_NUM_THREADS=1):

    equal, short  gptoss-mlx     74.1    119.8 (1.62)   187.8 (2.53)   305.5 (4.12)
                  mlx-lm         38.1     70.3 (1.85)   120.7 (3.17)   209.5 (5.50)
    mixed, short  gptoss-mlx     79.8    110.2 (1.38)   179.7 (2.25)   270.7 (3.39)
                  mlx-lm         37.8     68.5 (1.81)   121.8 (3.22)   198.6 (5.25)
    mixed, long   gptoss-mlx     57.3     81.1 (1.41)   105.5 (1.84)   115.8 (2.02)
                  mlx-lm         33.6     56.3 (1.68)    81.2 (2.42)    50.5 (1.50)

on the last code of that day:

    equal, short  gptoss-mlx     82.7    128.1 (1.55)   210.8 (2.55)   351.8 (4.25)
                  mlx-lm         42.4     77.3 (1.82)   137.4 (3.24)   234.1 (5.52)
    mixed, short  gptoss-mlx     85.0    120.6 (1.42)   194.1 (2.28)   301.4 (3.55)
                  mlx-lm         43.1     76.9 (1.79)   135.6 (3.15)   208.6 (4.84)

and a few hours before, when the machine was slower:

    equal, short  gptoss-mlx     59.1     89.6 (1.52)   146.8 (2.48)   251.7 (4.25)
                  mlx-lm         30.2     56.0 (1.85)    97.8 (3.24)   171.9 (5.70)
    mixed, short  gptoss-mlx     60.2     81.6 (1.36)   139.8 (2.32)   214.4 (3.56)
                  mlx-lm         29.9     55.1 (1.84)    96.5 (3.23)   150.4 (5.03)
    equal, long   gptoss-mlx     63.8     89.3 (1.40)   121.9 (1.91)   167.9 (2.63)
                  mlx-lm         34.9     51.9 (1.49)    88.6 (2.54)   135.1 (3.87)

Each number of rows is compiled when it first comes: 24 layers are traced in 10 to 18 ms.

Steps of the model with the reference BLAS, times the tokens of one row, and their bound:

    equal, short  model                  1.40           1.97           2.61
                  bound                  1.44           2.00           2.44
    mixed, short  model                  1.14           1.65           1.85
                  bound                  1.37           1.87           2.36
    equal, long   model                  1.18           1.44           1.56
                  bound                  1.25           1.46           1.61
    mixed, long   model                  1.39           1.48           1.32
                  bound                  1.64           1.68           1.44
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.cache.batch import BatchCache
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.cache.layers import SlidingKVCache, capacity
from gptoss_mlx.engine.runner import ModelRunner
from gptoss_mlx.memory.budget import Budget
from gptoss_mlx.memory.device import DeviceInfo
from gptoss_mlx.memory.metal import MLX_MEMORY
from gptoss_mlx.model.transformer import Transformer, load_transformer
from gptoss_mlx.sampling import SamplingParams
from tests.benchmarks.engine_models import checkpoint, load_peer

ROWS = (1, 2, 4, 8)
STEPS = 12
LENGTHS = {
    "equal, short": [16] * 8,
    "mixed, short": [16, 40, 6, 24, 60, 12, 4, 32],
    "equal, long": [256] * 8,
    "mixed, long": [440, 40, 700, 128, 1500, 300, 90, 512],
}
Rate = tuple[float, float]
"""Seconds of processor time and of wall time for a token."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--lengths", choices=LENGTHS, action="append")
    parser.add_argument("--steps", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        source = checkpoint(Path(place), "rows")
        dtype = {"bfloat16": mx.bfloat16, "float32": mx.float32}[chosen.dtype]
        if chosen.steps:
            transformer = load_transformer(source, dtype, compiled=True)
            for kind in chosen.lengths or LENGTHS:
                measure_steps(kind, LENGTHS[kind], transformer, chosen.rounds)
            return
        ours, peer = own_runner(source, dtype), load_peer(source)
        peer.set_dtype(dtype)  # biases are float32 in the checkpoint, and would make the cache so
        programs: dict[str, Callable[[list[list[int]], int], Rate]] = {
            "gptoss-mlx": lambda prompts, count: decode(ours, prompts, count),
            "mlx-lm": lambda prompts, count: decode_peer(peer, prompts, count),
        }
        for kind in chosen.lengths or LENGTHS:
            measure(kind, LENGTHS[kind], programs, chosen.rounds, chosen.tokens)
        ours.close()


def measure(kind: str, lengths: list[int], programs: dict[str, Any], rounds: int, tokens: int) -> None:
    """Prints one table."""
    found: dict[tuple[str, int], list[Rate]] = {}
    for _ in range(rounds + 1):  # the first one compiles and is not counted
        for rows in ROWS:
            prompts = [[n * 7 % 300 + row for n in range(length)] for row, length in enumerate(lengths[:rows])]
            for name, program in programs.items():
                found.setdefault((name, rows), []).append(program(prompts, tokens))
    for unit, which in (("processor", 0), ("wall", 1)):
        print(f"\n{kind} lengths, tokens a second of {unit} time")
        for name in programs:
            rates = [1 / min(rate[which] for rate in found[name, rows][1:]) for rows in ROWS]
            ratios = "".join(f"{rate:>9.1f} ({rate / rates[0]:.2f})" for rate in rates)
            print(f"  {name:<12}{ratios}", flush=True)


def measure_steps(kind: str, lengths: list[int], transformer: Transformer, rounds: int) -> None:
    """Prints steps of the model, and the most that its products and attention would allow."""
    found: dict[int, list[tuple[float, float]]] = {}
    for _ in range(rounds + 1):
        for rows in ROWS:
            cache = BatchCache(transformer.make_cache(), max(ROWS))
            for length in lengths[:rows]:
                cache.enter(filled(transformer, length), length + STEPS)
            if rows == 1:
                step = partial(transformer, mx.zeros((1, 1), dtype=mx.int32), filled(transformer, lengths[0]))
            else:
                step = partial(transformer, mx.arange(rows)[:, None], cache)
            found.setdefault(rows, []).append((seconds(step), seconds(partial(bare, transformer, lengths[:rows]))))
    whole, alone = ({rows: min(each[n] for each in times[1:]) for rows, times in found.items()} for n in (0, 1))
    print(f"\n{kind} lengths, milliseconds of processor time for a step (times the tokens of one row)")
    for name, times in (("model", whole), ("bound", {r: whole[1] - alone[1] + alone[r] for r in ROWS})):
        figures = "".join(f"{1e3 * times[r]:>9.1f} ({r * times[1] / times[r]:.2f})" for r in ROWS)
        print(f"  {name:<12}{figures}", flush=True)


def filled(transformer: Transformer, length: int) -> PromptCache:
    """A prompt cache of random keys and values."""
    cache, config = transformer.make_cache(), transformer.config
    for layer in cache.layers:
        size = layer.window if isinstance(layer, SlidingKVCache) else capacity(length + STEPS)
        shape = (1, config.num_key_value_heads, size, config.head_dim)
        layer.restore(length, [mx.random.normal(shape) for _ in range(2)])
    mx.eval(cache.arrays())
    return cache


def seconds(step: Callable[[], Any]) -> float:
    """Processor time of one step."""
    mx.eval(step())
    began = time.process_time()
    for _ in range(STEPS):
        mx.async_eval(step())  # type: ignore[no-untyped-call]
    mx.synchronize()
    return (time.process_time() - began) / STEPS


def bare(transformer: Transformer, lengths: list[int]) -> list[mx.array]:
    """The products and the attention of one step, of inputs that are there."""
    config, rows, results = transformer.config, len(lengths), []
    x, heads = mx.zeros((rows, config.hidden_size)), mx.zeros((rows, config.query_size))
    experts = (mx.arange(4 * rows, dtype=mx.uint32) * 5 % config.num_local_experts).reshape(rows, 4)
    own = mx.arange(4 * rows, dtype=mx.uint32).reshape(rows, 4)
    hidden = mx.zeros((4 * rows, 1, config.intermediate_size))
    for block, kind in zip(transformer.layers, config.layer_types, strict=True):
        attention, moe = block.self_attn, block.mlp
        results += [attention.qkv_proj(x), attention.o_proj(heads, x)]
        results += [moe.experts.gate_up_proj(x[:, None], experts, rows=own // 4)]
        results += [moe.experts.down_proj(hidden, experts, rows=own)]
        for length in lengths:
            seen = min(length, config.sliding_window) if kind == "sliding_attention" else length
            keys = mx.zeros((1, config.num_key_value_heads, seen, config.head_dim))
            queries = mx.zeros((1, config.num_attention_heads, 1, config.head_dim))
            results.append(mx.fast.scaled_dot_product_attention(queries, keys, keys, scale=1.0))
    return results


def own_runner(directory: Path, dtype: mx.Dtype) -> ModelRunner:
    """This library, with place for all rows."""
    transformer = load_transformer(directory, dtype, compiled=True)
    budget = Budget(config=transformer.config, device=DeviceInfo.current(), context=8192, element_bytes=dtype.size)
    return ModelRunner(lambda cancelled: transformer, budget, MLX_MEMORY, parallel=max(ROWS))


def decode(runner: ModelRunner, prompts: list[list[int]], count: int) -> Rate:
    """Rows of this library. Counted from when all of them decode to when the first one ends."""
    for prompt in prompts:
        runner.prefill(prompt)
    generations = [
        runner.generate(prompt, SamplingParams(temperature=0, max_tokens=count), stop_tokens=frozenset())
        for prompt in prompts
    ]
    for generation in generations:
        next(generation)
    began = time.process_time(), time.perf_counter()
    before = [generation._channel.items.qsize() for generation in generations]
    for _ in generations[0]:
        pass
    ended = time.process_time(), time.perf_counter()
    after = [generation._channel.items.qsize() for generation in generations[1:]]
    produced = count - 1 + sum(after) - sum(before)
    for generation in generations:
        list(generation)
    return (ended[0] - began[0]) / produced, (ended[1] - began[1]) / produced


def decode_peer(model: Any, prompts: list[list[int]], count: int) -> Rate:
    """Rows of mlx-lm's BatchGenerator, counted in the same way."""
    from mlx_lm.generate import BatchGenerator

    generator: Any = BatchGenerator(model, max_tokens=count)
    generator.insert(prompts)
    seen: set[int] = set()
    while len(seen) < len(prompts):
        seen |= {response.uid for response in generator.next()[1]}
    began = time.process_time(), time.perf_counter()
    produced = 0
    while True:
        responses = generator.next()[1]
        produced += len(responses)
        if any(response.finish_reason for response in responses):
            break
    ended = time.process_time(), time.perf_counter()
    generator.close()
    return (ended[0] - began[0]) / produced, (ended[1] - began[1]) / produced


if __name__ == "__main__":
    main()
