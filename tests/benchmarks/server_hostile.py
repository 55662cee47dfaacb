"""Hostile requests: none may lead to a 5xx, a traceback or more memory.

    python -m tests.benchmarks.server_hostile --requests 10000

By turns a valid body with changed values, a body that is no JSON object, and broken HTTP on a raw socket, through
a port of the loopback interface. A hundred connections that send one byte a second stay open meanwhile, and every
five hundred requests the server is asked for its health.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import socket
import time
from collections import Counter
from urllib.parse import urlsplit

import httpx2

from tests.benchmarks.api_cancellation import resident_megabytes
from tests.server.apis import APIS
from tests.server.hostile import RAW, changed_request, connected, http, malformed_body
from tests.server.scripted import ScriptedGptOss, answer, think, turn
from tests.server.serving import listening

SLOW = 100


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


def send_raw(url: str, name: str) -> str:
    """Sends broken HTTP; the status, or what else came of it."""
    with connected(url, seconds=0.05) as connection:
        try:
            connection.sendall(RAW[name])
            reply = connection.recv(100)
        except TimeoutError:
            return "waits"
        except OSError:
            return "closed"
    return reply[9:12].decode("latin-1") or "closed"


def slow_connections(url: str) -> list[socket.socket]:
    """Connections that have begun a request."""
    parts = urlsplit(url)
    connections = []
    for number in range(SLOW):
        connections.append(socket.create_connection(("127.0.0.1", parts.port), timeout=5))
        connections[-1].sendall(http("/v1/responses", content_length="100000")[: 20 + number])
    return connections


def attack(url: str, model: ScriptedGptOss, requests: int, seed: int) -> Counter[str]:
    """Sends requests; how often there was which status."""
    statuses: Counter[str] = Counter()
    slow = slow_connections(url)
    slowed = time.monotonic()
    rng = random.Random(seed)
    with httpx2.Client(base_url=url, timeout=60) as client:
        for number in range(requests):
            if number % 3 == 0:
                statuses[send_raw(url, rng.choice(list(RAW)))] += 1
            else:
                api, _, body = (
                    changed_request(rng) if number % 3 == 1 else (rng.choice(APIS), "", malformed_body(rng))
                )
                reply = client.post(api.path, content=body, headers={"content-type": "application/json"})
                statuses[str(reply.status_code)] += 1
                if reply.status_code not in (200, 429):
                    api.error(reply.json())
                if reply.status_code >= 500:
                    print(reply.text[:500], body[:2000])
            if time.monotonic() - slowed > 1:
                slowed = time.monotonic()
                for connection in slow:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"a")
            model.forget()
            if number % 500 == 0:
                assert client.get("/health").status_code == 200
                print(f"{number:6} requests: {resident_megabytes():.1f} MB resident", flush=True)
    for connection in slow:
        connection.close()
    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    model = ScriptedGptOss(respond=lambda prompt: turn(think("Hm."), answer('{"city": "Oslo"}')))
    with listening(model) as url:
        statuses = attack(url, model, arguments.requests, arguments.seed)
    print(dict(statuses.most_common()), f"{len(errors.records)} errors logged")
    print("\n".join(errors.records[:3]))
    raise SystemExit(bool(errors.records or any(status.startswith("5") for status in statuses)))


if __name__ == "__main__":
    main()
