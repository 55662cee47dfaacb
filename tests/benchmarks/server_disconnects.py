"""Clients that go away at random moments: nothing may stay of them.

    python -m tests.benchmarks.server_disconnects --clients 1000

Each sends a request of one of the three APIs, streamed or not, on a raw socket, and closes it before the request,
inside it, after it, or inside the answer, orderly or with a reset. The model's answer never ends. Printed are the
generations that still run, the memory, threads and open files; at the end the server must answer an honest client.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import threading
import time
from collections import Counter

import httpx2

from tests.benchmarks.api_cancellation import resident_megabytes
from tests.server.apis import APIS, CHAT, ask
from tests.server.hostile import http, leave_early
from tests.server.scripted import ScriptedGptOss, answer, endless, turn
from tests.server.serving import listening


def settled(model: ScriptedGptOss, seconds: float = 5.0) -> float:
    """The seconds until no generation runs."""
    began = time.monotonic()
    while model.running and time.monotonic() - began < seconds:
        time.sleep(0.005)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    ways: Counter[str] = Counter()
    model = ScriptedGptOss(
        respond=lambda prompt: turn(answer("Yes.")) if "honest" in prompt else endless(), pause=0.001
    )
    requests = [
        http(api.path, json.dumps(api.body(api.user("Go"), (), None) | {"stream": stream}).encode())
        for api in APIS
        for stream in (True, False)
    ]
    with listening(model) as url:
        for number in range(arguments.clients):
            ways[leave_early(url, rng, rng.choice(requests))] += 1
            if number % (arguments.clients // 10 or 1) == 0:
                seconds = settled(model)
                gc.collect()
                print(
                    f"{number:6} clients: {model.running} running after {seconds:.2f} s, "
                    f"{resident_megabytes():.1f} MB resident, {threading.active_count()} threads, "
                    f"{len(os.listdir('/dev/fd'))} files",
                    flush=True,
                )
        settled(model)
        running = model.running
        with httpx2.Client(base_url=url) as client:
            reply = ask(client, CHAT, CHAT.user("I am honest"), stream=True)
    print(dict(ways), f"{running} running at the end, an honest client read {reply.text!r}")
    raise SystemExit(bool(running))


if __name__ == "__main__":
    main()
