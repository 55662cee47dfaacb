"""Ends one machine of a group, and sees what the others do."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx import GptOss
from tests.groups.launched import started

__all__ = ["Loss", "lose", "runs"]

_WAIT = 60


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What happened after a machine was ended."""

    seconds: float
    """Until the leader said so."""
    said: str
    relayed: bool
    """Whether mlx.launch passed on what the leader said."""
    left: int
    """Processes that were there 10 seconds later."""
    messages: int
    """In the saved chat."""


def lose(model: GptOss, split: str, machines: int, rank: int, sign: signal.Signals, after: float) -> Loss:
    """Sends a signal to one machine of a group that chats.

    Args:
        model: reads the saved chat.
        split: the form of the group.
        machines: its size.
        rank: the machine that is ended.
        sign: the signal.
        after: seconds after the first turn.
    """
    with tempfile.TemporaryDirectory() as home:
        saved = Path(home) / "chat.json"
        command = (sys.executable, "-m", "tests.groups.chatting", split, str(saved), home)
        with started(machines, *command) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            next(line for line in lines if line.startswith("turn"))
            time.sleep(after)
            pids = [int((Path(home) / str(number)).read_text()) for number in range(machines)]
            sent = time.time()
            os.kill(pids[rank], sign)
            relayed = any(line.startswith("lost") for line in lines)
            said = Path(home) / "said"
            lost = (said.read_text() if said.exists() else "lost 0 nothing").split(maxsplit=2)
            deadline = time.monotonic() + 10
            while (left := sum(map(runs, pids))) and time.monotonic() < deadline:
                time.sleep(0.1)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return Loss(
            seconds=float(lost[1]) - sent,
            said=lost[2].strip(),
            relayed=relayed,
            left=left,
            messages=len(model.load_chat(saved).messages),
        )


def runs(pid: int) -> bool:
    """Whether a process is there and not only waits to be collected."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
