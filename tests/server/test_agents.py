"""The tenth step of an agent computes what is new in it, whether or not the client sends the thinking back."""

from __future__ import annotations

import pytest

from tests.server.agents import MORE, Agent, conduct
from tests.server.apis import APIS, Api
from tests.server.scripted import ScriptedGptOss, SteeredGptOss
from tests.server.serving import in_process

STEPS = 10
DEMO_MORE = 24
"""The demo's vocabulary is small: the same words are more tokens."""


@pytest.mark.parametrize("reasoning", [True, False], ids=["returned", "dropped"])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_step_computes_what_is_new(api: Api, reasoning: bool) -> None:
    model = ScriptedGptOss(respond=conduct(STEPS))
    with in_process(model) as client:
        agent = Agent(client, api, model, reasoning=reasoning)
        first, *steps = [agent.step() for _ in range(STEPS + 1)]
    assert agent.texts == ["Done."]
    assert first.computed > 8000
    for step in steps:
        assert step.computed == step.reported
        assert step.computed <= step.new + MORE, steps
    assert "Step 3 needs entry 21" in model.shown[-1]


def test_two_agents_in_turn_do_not_evict_each_other() -> None:
    with SteeredGptOss(respond=conduct(3)) as model, in_process(model) as client:
        agents = [
            Agent(client, api, model, name=name, reasoning=reasoning, length=600)
            for name, api, reasoning in zip(("Ada", "Bob", "Eve"), APIS, (True, False, False), strict=True)
        ]
        firsts = [agent.step() for agent in agents]
        steps = [agent.step() for _ in range(3) for agent in agents]
    assert [agent.texts for agent in agents] == [["Done."]] * 3
    assert min(step.computed for step in firsts) > 500
    for step in steps:
        assert step.computed == step.reported
        assert step.computed <= step.new + DEMO_MORE, steps
