"""Tokens that an agent's steps compute, with 8k tokens of tools and instructions.

    python -m tests.benchmarks.server_agents --steps 10

The model has random weights, the vocabulary of o200k_harmony and an engine that computes everything; the tokens of
its turns are scripted. An agent of each API sends the thinking back and another drops it; then six agents take
turns. A step may compute the tokens of what is new in it, and 16 more.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import mlx.core as mx

from gptoss_mlx.tokenizer import Tokenizer
from tests.benchmarks.engine_models import checkpoint
from tests.harmony.fixtures import tokenizer as o200k
from tests.server.agents import MORE, Agent, Step, conduct
from tests.server.apis import APIS
from tests.server.scripted import SteeredGptOss
from tests.server.serving import in_process


def excess(steps: Iterable[Step]) -> int:
    """The most that a step computed beyond what is new in it."""
    return max(step.computed - step.new for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--length", type=int, default=8192)
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    worst = 0
    vocabulary = mock.patch.object(Tokenizer, "from_directory", return_value=o200k())
    with tempfile.TemporaryDirectory() as name, vocabulary:
        shape = {"num_hidden_layers": 2, "num_local_experts": 4, "num_attention_heads": 4, "head_dim": 16}
        place = checkpoint(Path(name), "wide", vocab_size=201_088, **shape)
        model = SteeredGptOss(respond=conduct(arguments.steps), directory=place)
        with model, in_process(model) as client:
            for api in APIS:
                for reasoning in (True, False):
                    agent = Agent(client, api, model, reasoning=reasoning, length=arguments.length)
                    first, *steps = [agent.step() for _ in range(arguments.steps + 1)]
                    assert agent.texts == ["Done."]
                    worst = max(worst, excess(steps))
                    computed, new = [step.computed for step in steps], [step.new for step in steps]
                    print(f"{api.name}, thinking {'returned' if reasoning else 'dropped'}:", end=" ")
                    print(f"{first.computed} tokens, then {computed}, of which {new} are new", flush=True)
                    model.clear_caches()
            agents = [
                Agent(client, api, model, name=f"{name} {n}", reasoning=n == 0, length=arguments.length)
                for api, name in zip(APIS, ("Ada", "Bob", "Eve"), strict=True)
                for n in range(2)
            ]
            for agent in agents:
                agent.step()
            taken = [agent.step() for _ in range(arguments.steps) for agent in agents]
            worst = max(worst, excess(taken))
            print(f"six agents in turn: {max(step.computed for step in taken)} tokens at most a step")
    print(f"the most beyond what is new: {worst}, allowed: {MORE}")
    raise SystemExit(worst > MORE)


if __name__ == "__main__":
    main()
