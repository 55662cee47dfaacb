"""Kills a chat at random moments and looks at what is saved: every finished turn must be there.

python -m tests.benchmarks.cli_kills [KILLS]

2026-11-21, on a busy machine: 200 kills, 1,708 finished turns, none lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cli.pty_session import FAKE


def kill(home: Path, after: float) -> tuple[int, int]:
    """Turns that had surely finished, and turns saved, after a kill ``after`` seconds into the first answer."""
    environ = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "GPTOSS_FAKE_DELAY": "0.001"}
    command = [*FAKE, "chat", "-m", "demo"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(f"question {number}\n" for number in range(5000)))
        process.stdin.flush()
        process.stdout.readline()
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        answered = process.stdout.read().count("\n") + 1
    files = list((home / "data" / "gptoss" / "chats").glob("*.json"))
    messages = json.loads(files[0].read_text())["messages"] if files else []
    return answered - 1, sum(message["role"] == "user" for message in messages)


def main() -> None:
    """Kill, look, count."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    chooser = random.Random(1)
    turns = lost = 0
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as home:
            finished, saved = kill(Path(home), chooser.random() * 0.5)
        turns += finished
        lost += max(finished - saved, 0)
    print(f"{kills} kills, {turns} finished turns, {lost} lost")


if __name__ == "__main__":
    main()
