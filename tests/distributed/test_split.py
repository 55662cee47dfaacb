"""The shares of several machines make up the model, evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.checkpoint.layouts import kept, sizes
from gptoss_mlx.checkpoint.tensors import open_model
from gptoss_mlx.config import (
    GPT_OSS_20B,
    GPT_OSS_120B,
    PRECISIONS,
    RELEASED,
    ModelConfig,
    Precision,
    with_precision,
)
from gptoss_mlx.distributed.split import bytes_sent, divide
from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.memory.sizes import weight_bytes
from gptoss_mlx.model.weights import load_weights
from gptoss_mlx.quantization import Quantization
from gptoss_mlx.share import Share, Split
from tests.checkpoints import random_config, write_random_checkpoint

MACHINES = (2, 3, 4, 8)
EVEN = 0.03
MAC = 48 * 10**9  # what the GPU of a Mac with 64 GB may use

of_the_released = pytest.mark.parametrize(
    ("name", "machines"), [(name, machines) for name in RELEASED for machines in MACHINES]
)


def repeated_bytes(config: ModelConfig) -> int:
    """What every machine of a tensor group has: norms, routers, and the biases of sums."""
    layer = 2 * (config.num_local_experts * (2 * config.hidden_size + 1) + 3 * config.hidden_size)
    return config.num_hidden_layers * layer + 2 * config.hidden_size


@of_the_released
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_shares_add_up_to_the_model(name: str, machines: int, precision: Precision) -> None:
    config = with_precision(RELEASED[name], precision)
    total = weight_bytes(config)
    pipeline = [weight_bytes(config, share=share) for share in divide(config, "pipeline", [MAC] * machines)]
    tensor = [weight_bytes(config, share=share) for share in divide(config, "tensor", [MAC] * machines)]
    assert sum(pipeline) == total
    assert sum(tensor) == total + (machines - 1) * repeated_bytes(config)


@pytest.mark.parametrize("machines", MACHINES)
def test_no_group_of_quantised_experts_is_cut(machines: int) -> None:
    config = replace(GPT_OSS_20B, experts=Quantization(bits=8, group_size=64))
    shares = divide(config, "tensor", [MAC] * machines)
    assert all(part.start % 2 == part.stop % 2 == 0 for share in shares for part in share.groups)
    total = sum(weight_bytes(config, share=share) for share in shares)
    assert total == weight_bytes(config) + (machines - 1) * repeated_bytes(config)


@of_the_released
def test_the_shares_are_even(name: str, machines: int) -> None:
    """In tensor form by their bytes; in a pipeline, whose layers are whole, by how full each machine is."""
    config = RELEASED[name]
    even = weight_bytes(config) / machines
    tensor = [weight_bytes(config, share=share) for share in divide(config, "tensor", [MAC] * machines)]
    assert all(abs(held / even - 1) <= EVEN for held in tensor)
    pipeline = [weight_bytes(config, share=share) for share in divide(config, "pipeline", [MAC] * machines)]
    assert all(abs(held - even) / MAC <= EVEN for held in pipeline)


@pytest.mark.parametrize("memory", [[96, 36], [36, 96], [48, 16, 64], [20, 20, 20, 192], [64] * 3 + [24] * 5])
def test_a_pipeline_fills_machines_in_proportion_to_their_memory(memory: list[int]) -> None:
    gigabytes = [10**9 * each for each in memory]
    config = GPT_OSS_120B
    wanted = weight_bytes(config) / sum(gigabytes)
    shares = divide(config, "pipeline", gigabytes)
    held = [weight_bytes(config, share=share) for share in shares]
    layer = weight_bytes(config) / config.num_hidden_layers
    assert all(abs(own - wanted * room) <= layer for own, room in zip(held, gigabytes, strict=True))
    assert [index for share in shares for index in share.layers] == list(range(config.num_hidden_layers))


@of_the_released
def test_every_row_and_column_is_on_exactly_one_machine(name: str, machines: int) -> None:
    config = with_precision(RELEASED[name], "q8")
    shares = divide(config, "tensor", [MAC] * machines)
    for target in (
        "embed_tokens.weight",
        "lm_head.weight",
        "layers.0.mlp.experts.bias",
        "layers.17.self_attn.sinks",
    ):
        for letter in kept(config, shares[0], target):
            if letter != "2I+H":  # every machine has H, the bias of a sum
                parts = [kept(config, share, target)[letter] for share in shares]
                assert sorted(chain(*chain(*parts))) == list(range(sizes(config)[letter]))


def test_over_all_layers_every_machine_has_the_larger_part_equally_often() -> None:
    for machines in MACHINES:
        groups = [sum(map(len, share.groups)) for share in divide(GPT_OSS_20B, "tensor", [MAC] * machines)]
        assert max(groups) - min(groups) <= 1


@pytest.mark.parametrize("split", ["pipeline", "tensor"])
def test_too_many_machines_are_refused(split: Split) -> None:
    with pytest.raises(InvalidRequest, match="use at most"):
        divide(GPT_OSS_20B, split, [MAC] * 25)


def test_what_is_sent_a_token_is_small() -> None:
    """Two sums a layer and one for the embedding; or one hidden state for each boundary; and the choice."""
    assert bytes_sent(GPT_OSS_20B, "tensor", 2) == (50, 49 * 5760 + 8)
    assert bytes_sent(GPT_OSS_120B, "tensor", 4) == (74, 73 * 5760 + 8)
    assert bytes_sent(GPT_OSS_120B, "pipeline", 3) == (3, 2 * 5760 + 8)


SHAPE: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 160,
    "vocab_size": 323,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint that is divided unevenly."""
    return write_random_checkpoint(tmp_path_factory.mktemp("divided") / "checkpoint", **SHAPE)


@pytest.mark.parametrize("machines", [2, 3, 4])
def test_a_machine_loads_its_part_of_every_tensor(machines: int, checkpoint: Path) -> None:
    config = ModelConfig.from_dict(random_config(**SHAPE))
    whole = load_weights(open_model(checkpoint), mx.float32)
    shares = divide(config, "tensor", [1] * machines)
    loaded = [load_weights(open_model(checkpoint), mx.float32, share=share) for share in shares]
    groups = [share.groups[1] for share in shares]
    assert {name: value.shape for name, value in loaded[0].items()}.keys() == whole.keys()
    for name, axis in (("lm_head.weight", 0), ("layers.1.self_attn.o_proj.weight", 1)):
        assert same(whole[name], [part[name] for part in loaded], axis)
    experts = "layers.1.mlp.experts"
    assert same(
        whole[f"{experts}.gate_up_proj.weight"], [part[f"{experts}.gate_up_proj.weight"] for part in loaded], 1
    )
    assert same(whole[f"{experts}.down_proj.scales"], [part[f"{experts}.down_proj.scales"] for part in loaded], 2)
    biases = [np.array(part[f"{experts}.bias"]) for part in loaded]
    hidden = config.hidden_size
    assert np.array_equal(biases[0][:, -hidden:], np.array(whole[f"{experts}.bias"])[:, -hidden:])
    assert not any(bias[:, -hidden:].any() for bias in biases[1:])
    assert [bias.shape[1] - hidden for bias in biases] == [64 * len(group) for group in groups]


def same(whole: mx.array, parts: Sequence[mx.array], axis: int) -> bool:
    """Whether the parts make up the whole."""
    return np.array_equal(np.array(whole), np.concatenate([np.array(part) for part in parts], axis=axis))


def test_a_machine_of_a_pipeline_loads_its_layers(checkpoint: Path) -> None:
    config = ModelConfig.from_dict(random_config(**SHAPE))
    whole = load_weights(open_model(checkpoint), mx.float32)
    shares = divide(config, "pipeline", [1, 2])
    begin = shares[1].layers.start
    for share in shares:
        for name, value in load_weights(open_model(checkpoint), mx.float32, share=share).items():
            assert same(whole[whole_name(name, share)], [value], 0)
    assert 0 < begin < 3


def whole_name(name: str, share: Share) -> str:
    """A parameter's name in the whole model."""
    module, *rest = name.split(".")
    return ".".join([module, str(int(rest[0]) + share.layers.start), *rest[1:]]) if module == "layers" else name
