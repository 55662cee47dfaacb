"""Decoding and prefill on MLX's CPU backend, beside mlx-lm and over depth.

    python -m tests.benchmarks.engine_speed [--rounds 5]

Both models hold the same weights and run the same loop: one token after another, greedily, each evaluated before
the next; a prompt in one call with only its last position's logits. They take turns, and medians count. A C++
compiler is needed. Depth is measured on this library alone.

As users of a CPU have both: this library uncompiled in float32, its default there; mlx-lm in bfloat16, compiled
where it compiles. Processor time over mlx-lm's on two hyperthreads of one core, nothing else running (2026-11-26,
mlx 0.32.4, mlx-lm 0.32.2; four runs), in brackets this library's in bfloat16:

    24 layers of hidden 64    decode 0.63 to 0.65 (0.82)    prefill of 687 tokens 0.65 to 0.66 (0.67)
    the demo                  decode 0.41 (0.82)            prefill of 687 tokens 0.28 (0.92)

and with OpenBLAS in the place of the reference BLAS, which MLX's wheel for Linux brings (LD_PRELOAD):

    24 layers of hidden 64    decode 0.57                   prefill 0.65
    the demo                  decode 0.36                   prefill 0.12

In the programs' own loops, which build one token while the last one is computed, a token of the 24 layers takes
0.60 to 0.61 of mlx-lm's wall time after 128 tokens, and 0.59 with OpenBLAS (``gptoss bench DIRECTORY --depths
128,512 --turns 0 --against mlx-lm``: 0.62); after 512 tokens 0.69, because attention costs both the same.

Before rotation, norm and attention were written out in few operations it was 0.75 to 0.79 on the same day: a
decoded token took 17.1 ms in MLX, and then 14.0. Compiled, decoding in float32 was at 0.59 on the 24 layers and at
0.37 on the demo. That is not the default on a CPU: MLX then calls a C++ compiler for ten kernels, 5 s before the
first token that is ever asked for, and loads them from a directory of temporary files that other users can fill
first.

All that follows is compiled, as on a GPU, for both.

On two hyperthreads of one core of an x86-64 machine (2026-11-21, mlx 0.32.4, mlx-lm 0.32.2), medians of five
rounds by turns, bfloat16: decoding 35.7 ms a token against mlx-lm's 49.9 (0.71), later in the same run 0.76 and
0.78 as the caches grow, since attention costs both the same; once, while other work was going on, 0.81. Prefill
of 2,048 tokens 21.1 s against 34.3 (0.61). Uncompiled, as the engine runs on a CPU, decoding takes as long as
mlx-lm's in bfloat16.

Depth: 16k positions add 89.8 ms to a decoded token with two full and two sliding layers, 195.1 with four full
ones (the share 0.92), 0.3 with four sliding ones. A sliding layer's prefill of 16k tokens takes 1.08 times as
long a token as that of 1k.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.model.transformer import Transformer
from tests.benchmarks.engine_models import Row, alternate, checkpoint, demo, load_ours, load_peer, tokens

__all__ = ["measure"]

DECODED = 32
PROMPT = 128
CHUNK = 512
DEEP = 16_384
FULL, SLIDING = "full_attention", "sliding_attention"


def measure(place: Path, rounds: int) -> list[Row]:
    """Against mlx-lm, then over depth."""
    return [*as_users_have_them(place, rounds), *against_peer(place, rounds), *over_depth(place, rounds)]


def as_users_have_them(place: Path, rounds: int) -> list[Row]:
    """Processor time of decoding and prefill on a CPU, over mlx-lm's, each program as it comes.

    Ours is uncompiled, in float32 as a CPU's user has it, and in bfloat16; mlx-lm's is in bfloat16, and compiled
    where it compiles.
    """
    rows = []
    for name, directory, decode_limit, prefill_limit in (
        ("24 layers", checkpoint(place, "layers-24"), 0.65, 0.75),
        ("demo", demo(place), 0.65, 0.4),
    ):
        ours = [load_ours(directory, dtype=dtype, compiled=False) for dtype in (mx.float32, mx.bfloat16)]
        peer = load_peer(directory)
        actions = [*(decoding(transformer) for transformer in ours), peer_decoding(peer)]
        float32, bfloat16, theirs = alternate(actions, rounds, time.process_time)
        rows += [
            Row(f"{name}: decode in float32 / mlx-lm", float32 / theirs, decode_limit),
            Row(f"{name}: decode in bfloat16 / mlx-lm", bfloat16 / theirs),
        ]
        actions = [*(prefilling(transformer, 687) for transformer in ours), peer_prefilling(peer, 687)]
        float32, bfloat16, theirs = alternate(actions, -(-rounds // 2), time.process_time)
        rows += [
            Row(f"{name}: prefill of 687 tokens in float32 / mlx-lm", float32 / theirs, prefill_limit),
            Row(f"{name}: prefill of 687 tokens in bfloat16 / mlx-lm", bfloat16 / theirs),
        ]
    return rows


def against_peer(place: Path, rounds: int) -> list[Row]:
    """Time of decoding with 24 layers and of prefill with 4, over mlx-lm's."""
    directory = checkpoint(place, "layers-24")
    ours, peer = decoding(load_ours(directory)), peer_decoding(load_peer(directory))
    seconds = alternate([ours, peer], rounds)
    rows = [
        Row("decode, ms a token", seconds[0] / DECODED * 1e3),
        Row("decode of mlx-lm, ms a token", seconds[1] / DECODED * 1e3),
        Row("decode time, ours / mlx-lm", seconds[0] / seconds[1], 0.8),
    ]
    directory = checkpoint(place, "layers-4", num_hidden_layers=4)
    ours, peer = prefilling(load_ours(directory), 2048), peer_prefilling(load_peer(directory), 2048)
    seconds = alternate([ours, peer], rounds)
    return [
        *rows,
        Row("prefill of 2,048 tokens, s", seconds[0]),
        Row("prefill of mlx-lm, s", seconds[1]),
        Row("prefill time, ours / mlx-lm", seconds[0] / seconds[1], 0.7),
    ]


def over_depth(place: Path, rounds: int) -> list[Row]:
    """The cost of depth for a decoded token, and of length for a sliding layer's prefill."""
    kinds = {
        kind: checkpoint(place, kind, num_hidden_layers=4, layer_types=[kind] * 4) for kind in (FULL, SLIDING)
    }
    mixed = load_ours(checkpoint(place, "layers-4", num_hidden_layers=4))
    full, sliding = (load_ours(directory) for directory in kinds.values())
    grown = {}
    for name, transformer in (("mixed", mixed), ("full", full), ("sliding", sliding)):
        shallow, deep = alternate([decoding(transformer), decoding(transformer, DEEP)], rounds)
        grown[name] = (deep - shallow) / DECODED * 1e3
    flat = alternate([prefilling(sliding, length, CHUNK) for length in (1024, DEEP)], rounds)
    return [
        Row("16k against 0, ms more a decoded token, 2 full and 2 sliding layers", grown["mixed"]),
        Row("the same, 4 full layers", grown["full"]),
        Row("the same, 4 sliding layers", grown["sliding"]),
        Row("growth of the mixed layers / the full layers' share", grown["mixed"] / (grown["full"] / 2), 1.15),
        Row("prefill of sliding layers, time a token at 16k / at 1k", flat[1] / DEEP / (flat[0] / 1024), 1.1),
    ]


def decoding(transformer: Transformer, depth: int = PROMPT) -> Callable[[], None]:
    """Decodes after that many tokens; each call continues where the last one ended. The cached keys and values are
    random, since their content costs nothing."""
    cache = transformer.make_cache()
    config = transformer.config
    mx.random.seed(1)
    states = mx.random.normal((1, config.num_key_value_heads, depth, config.head_dim))
    states = states.astype(transformer.norm.weight.dtype)
    cache.reserve(depth + 16 * DECODED)
    for layer in cache.layers:
        layer.append(states, states)
    mx.eval(cache.arrays())
    return lambda: _decode(lambda token: transformer(token, cache))


def peer_decoding(model: Any) -> Callable[[], None]:
    """The same with mlx-lm."""
    cache = model.make_cache()
    model(mx.array([tokens(PROMPT)]), cache=cache)
    mx.eval([(layer.keys, layer.values) for layer in cache])
    return lambda: _decode(lambda token: model(token, cache=cache))


def _decode(step: Callable[[mx.array], mx.array]) -> None:
    token = mx.array([[3]])
    for _ in range(DECODED):
        token = mx.argmax(step(token)[:, -1:], axis=-1)
        mx.eval(token)


def prefilling(transformer: Transformer, length: int, chunk: int | None = None) -> Callable[[], None]:
    """Computes a prompt."""
    prompt, chunk = tokens(length), chunk or length

    def action() -> None:
        cache = transformer.make_cache()
        cache.reserve(length)
        for begin in range(0, length, chunk):
            logits = transformer(mx.array([prompt[begin : begin + chunk]]), cache, last_only=True)
            mx.eval(logits, cache.arrays())

    return action


def peer_prefilling(model: Any, length: int) -> Callable[[], None]:
    """The same with mlx-lm; its head is applied to the last position only, as ours is."""

    def action() -> None:
        cache = model.make_cache()
        hidden = model.model(mx.array([tokens(length)]), cache=cache)
        mx.eval(model.lm_head(hidden[:, -1:]), [(layer.keys, layer.values) for layer in cache])

    return action


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    with tempfile.TemporaryDirectory() as name:
        for row in measure(Path(name), options.rounds):
            print(f"{row.name}: {row.figure:.3f}", flush=True)


if __name__ == "__main__":
    main()
