"""A scripted model that clients talk to: it calls the tool that it finds, and answers in the form asked for."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tests.server.scripted import answer, call, say, think, turn

__all__ = ["CITY", "SAID", "THOUGHT", "respond"]

THOUGHT: Final = "The user wants to know it."
SAID: Final = "It is 4 C in Oslo, and it rains."
CITY: Final[dict[str, Any]] = {"city": "Oslo", "celsius": 4}
"""The answer in JSON, and the arguments of tools that have these names."""

_CALLS: Final[dict[str, dict[str, Any]]] = {
    "get_weather": {"city": "Oslo"},
    "exec_command": {"cmd": "echo from-the-tool"},
    "shell_command": {"command": "echo from-the-tool"},
    "shell": {"command": ["echo", "from-the-tool"]},
    "Bash": {"command": "echo from-the-tool", "description": "Says a word"},
    "City": CITY,
    "PartialCity": CITY,
    "final_result": CITY,
}
"""The tools that it calls, in this order, and how."""


_EDIT: Final = """hello.py
```python
<<<<<<< SEARCH
print('hello')
=======
print('hello, world')
>>>>>>> REPLACE
```
"""
"""An edit as aider asks for it."""


def respond(prompt: str) -> str:
    """The turn after a prompt: a call of a tool that it has not called yet, or the answer."""
    question = prompt.rpartition("<|start|>user")[2]
    if " to=assistant<|channel|>" in question:
        return turn(think("That is what I needed."), answer(SAID))
    if "SEARCH/REPLACE" in prompt:
        return turn(think(THOUGHT), answer(_EDIT))
    declared = set(re.findall(r"^type (\w+) = \(", prompt, flags=re.MULTILINE))
    name = next((name for name in _CALLS if name in declared), None)
    if name is not None:
        return turn(think(THOUGHT), say("Let me look."), call(name, **_CALLS[name]))
    if "# Response Formats" in prompt:
        return turn(think(THOUGHT), answer(json.dumps(CITY)))
    return turn(think(THOUGHT), answer(SAID))
