"""Kills servers of MCP and cancels calls, and counts what stays: ``python -m tests.benchmarks.tools_kills``."""

from __future__ import annotations

import os
import sys
import threading
import time

from gptoss_mlx.tools.mcp import MCPServers
from gptoss_mlx.tools.toolbox import ToolBox
from tests.chat.scripted import ScriptedModel
from tests.tools.test_mcp import call, called, census, servers, settled_census

TIMES = 200


def kill(box: ToolBox) -> None:
    """Kills a server, and waits until it is back."""
    os.kill(int(call(box, "plain_pid").output), 9)
    while call(box, "plain_echo", text="x").output != "x":
        time.sleep(0.01)


def cancel(started: MCPServers, number: int) -> None:
    """Cancels an answer while a tool runs, at another moment each time."""
    model = ScriptedModel(called("plain_wait", number=60))
    with model.chat(tools=started.tools).stream("Wait") as stream:
        threading.Timer(0.0005 * number, stream.cancel).start()
        stream.finish()


def main() -> None:
    with servers() as started:
        started.wait()
    before = census()
    with servers() as started:
        box = ToolBox(started.tools)
        running = census()
        for _ in range(TIMES):
            kill(box)
        for number in range(TIMES):
            cancel(started, number)
        told = call(box, "plain_cancelled").output
        left = settled_census(running)
    after = settled_census(before)
    for words, counts, expected in (("while they run", left, running), ("afterwards", after, before)):
        names = "{} processes, {} files, {} threads".format(*counts)
        print(f"{TIMES} kills, {TIMES} cancellations, {words}: {names}; at first {expected}")
    print(f"the server was told of {told} cancellations")
    sys.exit((left, after) != (running, before))


if __name__ == "__main__":
    main()
