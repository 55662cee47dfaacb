"""The part of a model that one of several machines has, as plain ranges.

From config.json alone. Knows nothing of tensors: ``checkpoint.layouts`` says which of their rows and columns a
share has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from .config import ModelConfig
from .quantization import MXFP4_GROUP_SIZE

__all__ = ["Share", "Split", "whole"]

Split: TypeAlias = Literal["pipeline", "tensor"]
"""How a model is divided. ``pipeline``: a machine has whole layers, and sends its output to the next one.
``tensor``: a machine has a part of every layer, and the machines add their outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one machine has of a model. A range that is empty means that another machine has all of it."""

    split: Split | None
    """None for all of a model."""
    rank: int
    """The machine's number; 0 leads."""
    size: int
    """The number of machines."""
    layers: range
    heads: range
    """Key-value heads, each with its query heads."""
    groups: tuple[range, ...]
    """Of each of its layers: groups of 32 of the experts' width."""
    embedding: range
    """Rows of the embedding."""
    head: range
    """Rows of the head: the tokens whose logits this machine computes."""

    @property
    def first(self) -> bool:
        """Whether it has the first layer, so that it begins with tokens and not with another's output."""
        return self.layers.start == 0

    def last(self, config: ModelConfig) -> bool:
        """Whether it has the last layer, so that its output is sent to no other machine."""
        return self.layers.stop == config.num_hidden_layers

    def has(self, target: str) -> bool:
        """Whether any of a parameter is here.

        Args:
            target: the name in the whole model, such as ``layers.3.self_attn.sinks``.
        """
        module, number, *_ = target.split(".")
        if module == "layers":
            return int(number) in self.layers
        return bool(self.embedding if module == "embed_tokens" else self.head)

    def config(self, config: ModelConfig, layer: int | None = None) -> ModelConfig:
        """The config of a model as small as this share: the shapes of its products and its caches.

        Args:
            config: the whole model's.
            layer: one of the share's layers, in the whole model's numbers. None takes the widest.
        """
        heads, queries = len(self.heads), config.num_attention_heads // config.num_key_value_heads
        groups = max(map(len, self.groups)) if layer is None else len(self.groups[layer - self.layers.start])
        return replace(
            config,
            num_hidden_layers=len(self.layers),
            layer_types=config.layer_types[self.layers.start : self.layers.stop],
            num_attention_heads=heads * queries,
            num_key_value_heads=heads,
            intermediate_size=groups * MXFP4_GROUP_SIZE,
        )


def whole(config: ModelConfig) -> Share:
    """All of a model, on one machine."""
    vocabulary, groups = range(config.vocab_size), range(config.intermediate_size // MXFP4_GROUP_SIZE)
    return Share(
        split=None,
        rank=0,
        size=1,
        layers=range(config.num_hidden_layers),
        heads=range(config.num_key_value_heads),
        groups=(groups,) * config.num_hidden_layers,
        embedding=vocabulary,
        head=vocabulary,
    )
