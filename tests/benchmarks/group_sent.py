"""What a machine of a group sends for a decoded token: counted in its exchanges, and on the sockets of the ring.

    mlx.launch --backend ring -n 2 -- python -m tests.benchmarks.group_sent tensor

Reads the sockets' counters with ``ss``, so it runs on Linux.

2026-11-26, demo in float32, two machines: tensor 10 exchanges and 4,616 bytes, pipeline 2 and 520; both are what
``bytes_sent`` computes, and what the sockets counted.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.split import bytes_sent, divide
from gptoss_mlx.engine.vocabulary import SplitVocabulary
from gptoss_mlx.model.peers import Peers
from gptoss_mlx.model.transformer import load_transformer
from tests import DEMO

_TOKENS = 20
_exchanged: list[int] = []


class Counted(Peers):
    """Peers that note the bytes of every exchange."""

    def total(self, part: mx.array) -> mx.array:
        _exchanged.append(part.nbytes)
        return super().total(part)

    def gathered(self, part: mx.array) -> mx.array:
        _exchanged.append(part.nbytes)
        return super().gathered(part)

    def sent(self, x: mx.array) -> mx.array:
        _exchanged.append(x.nbytes)
        return super().sent(x)


def sent_by_sockets() -> int:
    """Bytes that this process has sent to the ring's addresses."""
    hosts = json.loads(Path(os.environ["MLX_HOSTFILE"]).read_text())
    ports = [address.rpartition(":")[2] for host in hosts for address in host]
    lines = subprocess.run(["ss", "-tinp"], capture_output=True, text=True, check=True).stdout.splitlines()
    total = 0
    for line, details in itertools.pairwise(lines):
        if f"pid={os.getpid()}," in line and any(f":{port} " in line for port in ports):
            found = re.search(r"bytes_sent:(\d+)", details)
            total += int(found.group(1)) if found else 0
    return total


def main(split: Any) -> None:
    """Prints the figures of the first machine."""
    group = mx.distributed.init(strict=True, backend="ring")
    config = ModelConfig.from_directory(DEMO)
    peers = Counted(share=divide(config, split, [1] * group.size())[group.rank()], group=group)
    transformer = load_transformer(DEMO, mx.float32, compiled=False, peers=peers)
    vocabulary, cache = SplitVocabulary(peers, config.vocab_size), transformer.make_cache()

    def step(tokens: mx.array) -> mx.array:
        following = vocabulary.argmax(transformer(tokens[None], cache, last_only=True)[:, -1])
        mx.eval(following)
        return following

    tokens = step(mx.array([1]))
    _exchanged.clear()
    before = sent_by_sockets()
    for _ in range(_TOKENS):
        tokens = step(tokens)
    sockets = (sent_by_sockets() - before) / _TOKENS
    if group.rank() == 0:
        exchanges, nbytes = bytes_sent(config, split, group.size(), element_bytes=4)
        print(f"computed: {exchanges} exchanges, {nbytes} bytes a token")
        print(f"counted:  {len(_exchanged) / _TOKENS:g} exchanges, {sum(_exchanged) / _TOKENS:g} bytes a token")
        print(f"on the sockets: {sockets:g} bytes a token")


if __name__ == "__main__":
    main(sys.argv[1])
