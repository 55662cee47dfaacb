"""How a model is divided between machines, from its config and their memory alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from ..config import ModelConfig
from ..errors import InvalidRequest
from ..memory.sizes import weight_bytes
from ..quantization import MXFP4_GROUP_SIZE
from ..share import Share, Split, whole

__all__ = ["bytes_sent", "divide"]


def divide(config: ModelConfig, split: Split, memory: Sequence[int]) -> tuple[Share, ...]:
    """The share of each machine.

    Args:
        config: the model's.
        split: ``pipeline`` gives a machine whole layers, in proportion to its memory. ``tensor`` gives each the
            same part of every layer.
        memory: what each machine may use, in bytes.

    Raises:
        InvalidRequest: there are more machines than parts.

    Example:
        >>> from gptoss_mlx.config import GPT_OSS_20B
        >>> [len(share.layers) for share in divide(GPT_OSS_20B, "pipeline", [48 * 10**9, 16 * 10**9])]
        [18, 6]
        >>> [len(share.groups[0]) for share in divide(GPT_OSS_20B, "tensor", [1] * 4)]
        [23, 23, 22, 22]
    """
    if len(memory) == 1:
        return (whole(config),)
    return _pipeline(config, memory) if split == "pipeline" else _tensor(config, len(memory))


def _pipeline(config: ModelConfig, memory: Sequence[int]) -> tuple[Share, ...]:
    size, all_of_it = len(memory), whole(config)
    if size > config.num_hidden_layers:
        raise InvalidRequest(
            f"{size} machines for {config.num_hidden_layers} layers; use at most {config.num_hidden_layers}"
        )
    ends = _proportional(_layer_bytes(config), memory)
    nothing = range(0)
    return tuple(
        Share(
            split="pipeline",
            rank=rank,
            size=size,
            layers=range(begin, end),
            heads=all_of_it.heads,
            groups=all_of_it.groups[begin:end],
            embedding=all_of_it.embedding if rank == 0 else nothing,
            head=all_of_it.head if rank == size - 1 else nothing,
        )
        for rank, (begin, end) in enumerate(pairwise((0, *ends)))
    )


def _layer_bytes(config: ModelConfig) -> list[int]:
    """The weights of each layer, the embedding with the first and the head with the last."""
    everything = whole(config)

    def held(layers: range, embedding: range, head: range) -> int:
        share = Share(
            split=None,
            rank=0,
            size=1,
            layers=layers,
            heads=everything.heads,
            groups=everything.groups[: len(layers)],
            embedding=embedding,
            head=head,
        )
        return weight_bytes(config, share=share)

    nothing, one = range(0), range(1)
    layer = held(one, nothing, nothing)
    sizes = [layer] * config.num_hidden_layers
    sizes[0] += held(one, everything.embedding, nothing) - layer
    sizes[-1] += held(one, nothing, everything.head) - layer
    return sizes


def _proportional(sizes: Sequence[int], memory: Sequence[int]) -> list[int]:
    """Where each machine's layers end, so that the squares of the deviations from proportion are least.

    A deviation is counted relative to the machine's memory: what matters is how full it gets.
    """
    before = [0, *accumulate(sizes)]
    wanted = before[-1] / sum(memory)
    layers, machines = len(sizes), len(memory)
    # cost[end], path[end]: of the machines so far, which have the first ``end`` layers, at least one each.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for machine, room in enumerate(memory):
        following: dict[int, tuple[float, list[int]]] = {}
        for begin, (cost, ends) in best.items():
            for end in range(begin + 1, layers - (machines - machine - 1) + 1):
                total = cost + ((before[end] - before[begin]) / room - wanted) ** 2
                if end not in following or total < following[end][0]:
                    following[end] = total, [*ends, end]
        best = following
    return best[layers][1]


def _tensor(config: ModelConfig, size: int) -> tuple[Share, ...]:
    unit = _unit(config)
    heads, groups = config.num_key_value_heads, config.intermediate_size // (unit * MXFP4_GROUP_SIZE)
    if size > min(heads, groups):
        raise InvalidRequest(
            f"{size} machines for {heads} key-value heads and {groups} groups of the experts' width; use at most "
            f"{min(heads, groups)}, or split='pipeline'"
        )
    _check_columns(config)
    of_layer = [_turned(groups, size, layer) for layer in range(config.num_hidden_layers)]
    vocabulary = _even(config.vocab_size, size)
    return tuple(
        Share(
            split="tensor",
            rank=rank,
            size=size,
            layers=range(config.num_hidden_layers),
            heads=_even(heads, size)[rank],
            groups=tuple(range(parts[rank].start * unit, parts[rank].stop * unit) for parts in of_layer),
            embedding=vocabulary[rank],
            head=vocabulary[rank],
        )
        for rank in range(size)
    )


def _unit(config: ModelConfig) -> int:
    """The groups of 32 of the experts' width that are kept together, so that no group of a quantisation is cut."""
    forms = [config.experts, *(form for name, form in config.exceptions if ".experts." in name)]
    return max([1, *(form.group_size // MXFP4_GROUP_SIZE for form in forms if form is not None)])


def _check_columns(config: ModelConfig) -> None:
    """The output product is cut between heads: whole groups of its quantisation must be on either side."""
    width = config.query_size // config.num_key_value_heads
    for form in (config.form(f"layers.{n}.self_attn.o_proj") for n in range(config.num_hidden_layers)):
        if form is not None and width % form.group_size:
            raise InvalidRequest(
                f"the query heads of one key-value head are {width} values wide, which is not a multiple of the "
                f"quantisation's group of {form.group_size}; use split='pipeline'"
            )


def _even(count: int, size: int) -> list[range]:
    """``count`` in ``size`` parts that differ by at most one."""
    return [range(count * n // size, count * (n + 1) // size) for n in range(size)]


def _turned(count: int, size: int, layer: int) -> list[range]:
    """``count`` in ``size`` parts; over the layers every machine gets a larger part equally often."""
    least, larger = divmod(count, size)
    sizes = [least + ((n - layer * larger) % size < larger) for n in range(size)]
    return [range(begin, end) for begin, end in pairwise((0, *accumulate(sizes)))]


def bytes_sent(config: ModelConfig, split: Split, size: int, element_bytes: int = 2) -> tuple[int, int]:
    """What a machine contributes to the exchanges of one decoded token: their number, and their bytes.

    In tensor form these are a sum for the embedding and two a layer, each of one hidden state; in a pipeline one
    hidden state for each boundary. Either way one exchange of a score and a token chooses the next token.
    """
    states = 1 + 2 * config.num_hidden_layers if split == "tensor" else size - 1
    return states + 1, states * config.hidden_size * element_bytes + 8
