"""A chat that a group answers, for tests that end one of its machines: saved after every turn.

mlx.launch --backend ring -n 3 -- python -m tests.groups.chatting pipeline CHAT_FILE PIDS_DIRECTORY
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

from gptoss_mlx import GptOss, MachineLost, SamplingParams
from tests import DEMO


def main(split: Any, saved: str, pids: str) -> None:
    """Chats until a machine is lost, says which and when, and ends with the code of the command line."""
    (Path(pids) / os.environ["MLX_RANK"]).write_text(str(os.getpid()))
    model = GptOss(DEMO, dtype="float32", split=split)
    chat = model.chat(effort="low", sampling=SamplingParams(temperature=0, max_tokens=12))
    try:
        for turn in itertools.count():
            chat.send(f"What is {turn % 50} + {turn % 7}?")
            chat.save(saved)
            print("turn", turn, flush=True)
            if turn % 20 == 19:
                chat = model.chat(effort="low", sampling=chat.sampling)
    except MachineLost as error:
        said = f"lost {time.time()} {error}"
        # Also in a file, because mlx.launch may end between reading this output and writing it.
        (Path(pids) / "said").write_text(said)
        chat.save(saved)
        print(said, flush=True)
        sys.exit(6)


if __name__ == "__main__":
    main(*sys.argv[1:])
