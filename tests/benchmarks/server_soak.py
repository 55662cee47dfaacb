"""Many clients for ten minutes on the demo: no error, and flat memory, files and threads.

    python -m tests.benchmarks.server_soak --clients 32 --minutes 10

Each client is a thread that asks one question after another, through each API in turn, streamed and not, with and
without a tool, and goes on with its conversation for a while. A 429 is waited for, as its Retry-After says.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import threading
import time
from collections import Counter

import httpx2
import mlx.core as mx

from gptoss_mlx import GptOss
from tests import DEMO
from tests.benchmarks.api_cancellation import resident_megabytes
from tests.server.apis import APIS, CHAT, MESSAGES, RESPONSES, WEATHER, Api
from tests.server.serving import events_of, listening

QUESTIONS = ("What is 12+30?", "Who are you?", "What is MXFP4?", "How warm is it in Oslo?", "hi")
LIMITS = {CHAT.name: "max_completion_tokens", RESPONSES.name: "max_output_tokens", MESSAGES.name: "max_tokens"}


class Clients:
    """The clients, and what they saw."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.end = time.monotonic() + seconds
        self.statuses: Counter[int] = Counter()
        self.errors: list[str] = []

    def run(self, number: int) -> None:
        """One client's life."""
        rng = random.Random(number)
        with httpx2.Client(base_url=self.url, timeout=600) as client:
            while time.monotonic() < self.end:
                api = rng.choice(APIS)
                try:
                    self._talk(client, api, rng)
                except Exception as error:
                    self.errors.append(f"{api.name}: {type(error).__name__}: {error}"[:500])

    def _talk(self, client: httpx2.Client, api: Api, rng: random.Random) -> None:
        """A conversation of a few turns."""
        history = list[object]()
        tools = [WEATHER] if rng.random() < 0.5 else []
        for _ in range(rng.randint(1, 3)):
            history += api.user(rng.choice(QUESTIONS))
            stream = rng.random() < 0.5
            body = api.body(history, tools, "Be terse.") | {"stream": stream, LIMITS[api.name]: 60}
            response = client.post(api.path, json=body)
            self.statuses[response.status_code] += 1
            if response.status_code == 429:
                time.sleep(float(response.headers["retry-after"]))
                return
            assert response.status_code == 200, response.text
            reply = api.streamed(events_of(response.text)) if stream else api.whole(response.json())
            history += api.said(reply)
            if reply.calls:
                history += api.results(reply, *["4 C, rain" for _ in reply.calls])
            if not reply.items or reply.reason == "length":
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    with GptOss(DEMO, name="demo", dtype="float32") as model, listening(model) as url:
        clients = Clients(url, arguments.minutes * 60)
        threads = [threading.Thread(target=clients.run, args=(n,)) for n in range(arguments.clients)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(arguments.minutes * 60 / 20)
            gc.collect()
            print(
                f"{time.monotonic() - began:5.0f} s: {dict(clients.statuses)}, {len(clients.errors)} errors, "
                f"{resident_megabytes():.1f} MB resident, {mx.get_active_memory() / 2**20:.1f} MB in MLX, "
                f"{threading.active_count()} threads, {len(os.listdir('/dev/fd'))} files",
                flush=True,
            )
    print("\n".join(clients.errors[:10]))
    raise SystemExit(bool(clients.errors))


if __name__ == "__main__":
    main()
