"""The other machines that compute a model, as its transformer sees them: what it sends, receives and adds.

Knows arrays; knows nothing of tokens, requests or how the machines found each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from ..share import Share

__all__ = ["Peers", "Total"]

Total: TypeAlias = Callable[[mx.array], mx.array]
"""Adds up what several machines have computed of one array; :meth:`Peers.total`."""


@dataclass(frozen=True, kw_only=True)
class Peers:
    """A machine's share of the model, and the group of MLX that connects it with the others.

    All of it must be called, and what it returns evaluated, by every machine in the same order.
    """

    share: Share
    group: mx.distributed.Group

    def total(self, part: mx.array) -> mx.array:
        """The sum of the arrays of all machines, which have one shape."""
        return mx.distributed.all_sum(part, group=self.group)

    def gathered(self, part: mx.array) -> mx.array:
        """[...] -> [machines, ...], in the order of their ranks."""
        return mx.distributed.all_gather(part[None], group=self.group)

    def received(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """The array that the machine with the layers before sends."""
        return mx.distributed.recv(shape, dtype, self.share.rank - 1, group=self.group)

    def sent(self, x: mx.array) -> mx.array:
        """The same array. Evaluating it sends it to the machine with the layers that follow."""
        return mx.distributed.send(x, self.share.rank + 1, group=self.group)
