"""Kills and stops machines of a group at random moments, and looks at what the others do.

python -m tests.benchmarks.group_faults [--kills 100] [--stops 20]

Every loss must be named by the leader within 10 seconds, with no process left and a saved chat that can be read.

2026-11-26, on a busy machine: 100 kills were all named, after at most 2.1 s, and 20 stops after at most 6.1 s.
No process was left and no chat unreadable.
"""

from __future__ import annotations

import argparse
import random
import signal

from gptoss_mlx import GptOss
from tests import DEMO
from tests.groups.faults import lose


def main() -> None:
    """Prints a line for each kind of fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with GptOss(DEMO, dtype="float32") as model:
        for sign, count in ((signal.SIGSTOP, options.stops), (signal.SIGKILL, options.kills)):
            seconds, unnamed, dropped, left, unread = [0.0], 0, 0, 0, 0
            for _ in range(count):
                split = chance.choice(["pipeline", "tensor"])
                machines = 2 if split == "tensor" else chance.choice([2, 3])
                rank = chance.randrange(1, machines)
                loss = lose(model, split, machines, rank, sign, 2 * chance.random())
                named = loss.said.startswith(f"machine {rank} (")
                seconds.append(loss.seconds if named else 0.0)
                unnamed += not named
                if not named:
                    print(
                        f"machine {rank} of {machines} ({split}) was lost; the leader said: {loss.said}",
                        flush=True,
                    )
                dropped += named and not loss.relayed
                left += loss.left > 0
                unread += loss.messages == 0
            print(
                f"{count} x {sign.name}: named after at most {max(seconds):.2f} s, {unnamed} unnamed, "
                f"{dropped} not passed on by mlx.launch, {left} with a process left, {unread} chats unreadable",
                flush=True,
            )


if __name__ == "__main__":
    main()
