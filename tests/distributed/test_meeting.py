"""How machines meet and lose each other, without MLX's connections."""

from __future__ import annotations

import atexit
import json
import pickle
import queue
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import mlx.core as mx
import pytest

from gptoss_mlx.distributed import link as links
from gptoss_mlx.distributed.group import Group
from gptoss_mlx.distributed.launched import default_split, launched, leader_address
from gptoss_mlx.distributed.link import Link, Message

Events = queue.SimpleQueue[tuple[str, Any]]


class OfTwo:
    """In the place of MLX's group: of the first of two machines."""

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 2


@pytest.fixture
def group() -> Group:
    """The leader of two machines that have not met."""
    group = Group(cast(mx.distributed.Group, OfTwo()))
    group._machines[0] = {"facts": {}, "device": {}, "host": "studio", "pid": 1}
    return group


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def linked(connection: socket.socket) -> tuple[Link, Events]:
    """A link, and what it reports."""
    events: Events = queue.SimpleQueue()
    link = Link(
        connection,
        lambda message: events.put(("message", message)),
        lambda reason: events.put(("lost", reason)),
    )
    return link, events


def test_messages_arrive_in_order_and_heartbeats_are_no_messages(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "BEAT_SECONDS", 0.01)
    (near, _), (far, heard) = linked(ends[0]), linked(ends[1])
    messages: list[Message] = [["chunk", 3, list(range(5000))], ["forward", 3, None], ["evict", [1, 2]]]
    for message in messages:
        near.send(message)
    assert [heard.get(timeout=5) for _ in messages] == [("message", message) for message in messages]
    time.sleep(0.05)
    assert heard.empty()
    near.close()
    far.close()


def test_a_machine_that_ends_is_lost_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    link, events = linked(ends[0])
    ends[1].close()
    kind, reason = events.get(timeout=5)
    assert kind == "lost"
    assert "ended" in reason
    link.send(["forward"])  # does nothing
    assert events.empty()


def test_a_machine_that_is_silent_is_lost(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was stopped, or whose cable was pulled: its connection stays open."""
    monkeypatch.setattr(links, "SILENCE_SECONDS", 0.2)
    _, events = linked(ends[0])
    assert events.get(timeout=5) == ("lost", "has not answered for 0 seconds")


@pytest.mark.parametrize(
    "sent",
    [
        pickle.dumps(print) + b"\n",
        b'{"forward": 1}\n',
        b"[]\n",
        b"[1]\n",
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"forward()\n",
        b'["' + b"a" * 5000 + b'"]\n',
    ],
)
def test_what_is_no_message_ends_the_connection(
    sent: bytes, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_MAX_LINE", 4096)
    _, events = linked(ends[0])
    ends[1].sendall(sent)
    kind, _ = events.get(timeout=5)
    assert kind == "lost"


def test_who_closes_a_connection_does_not_lose_it(ends: tuple[socket.socket, socket.socket]) -> None:
    link, events = linked(ends[0])
    link.send(["close"])
    threading.Timer(0.05, ends[1].close).start()
    link.close()
    assert events.empty()


@pytest.mark.parametrize(("ended", "named"), [([1, 2], "machine 2"), ([2, 1], "machine 2"), ([1], "machine 1")])
def test_a_machine_that_fails_because_of_another_is_not_named(
    ended: list[int], named: str, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three fails in MLX when the third has been killed, and both connections are lost."""
    monkeypatch.setattr(atexit, "register", lambda function: None)
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    group.on_lost = lambda error: said.put(str(error))
    group._receive(1, ["failed", "RuntimeError: [ring] a socket was closed"])
    for rank in ended:
        group._disconnected(rank, "has closed its connection")
    assert said.get(timeout=5).startswith(named)
    assert said.empty()


def greeting(secret: str, rank: object = 1, **changes: Any) -> bytes:
    """What a machine sends when it comes."""
    machine = {"facts": {}, "device": {}, "host": "laptop", "pid": 2} | changes
    return json.dumps(["greeting", secret, rank, machine]).encode() + b"\n"


def admitted(group: Group, ends: tuple[socket.socket, socket.socket], sent: bytes, secret: str) -> bool:
    """Whether a group admits a connection that begins so."""
    ends[1].sendall(sent)
    ends[1].shutdown(socket.SHUT_WR)
    group._closed = True  # what follows the greeting does not matter here
    group._admit(ends[0], secret)
    return 1 in group._machines


def test_who_knows_the_secret_is_admitted(group: Group, ends: tuple[socket.socket, socket.socket]) -> None:
    secret = secrets.token_hex(16)
    assert admitted(group, ends, greeting(secret), secret)


@pytest.mark.parametrize(
    "sent",
    [
        greeting("guessed"),
        greeting(""),
        b"\n",
        b"",
        b"GET / HTTP/1.1\r\n",
        pickle.dumps(print),
        b"[" * 60_000 + b"\n",
        b'["greeting", null, 1, {}]\n',
        greeting("secret", rank=0),
        greeting("secret", rank=2),
        greeting("secret", rank="1"),
        b'["greeting", "secret", 1, {"facts": {}}]\n',
        b'["greeting", "secret", 1, 7]\n',
        b"a" * 200_000,
    ],
)
def test_nobody_else_is(sent: bytes, group: Group, ends: tuple[socket.socket, socket.socket]) -> None:
    assert not admitted(group, ends, sent, "secret")


def test_machines_that_differ_are_refused_by_name(group: Group) -> None:
    group._machines[1] = {"facts": {"the version of mlx": "0.33"}, "device": {}, "host": "laptop", "pid": 2}
    assert not group._difference({"the version of mlx": "0.33"})
    said = group._difference({"the version of mlx": "0.32.4"})
    assert said.startswith("the version of mlx differs: 0.33 on machine 1 (laptop), 0.32.4 on machine 0 (studio)")


def test_a_process_that_nobody_launched_is_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("MLX_RANK", "MLX_HOSTFILE", "MLX_IBV_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert (launched(), default_split()) == ((0, 1), None)
    hosts = tmp_path / "hosts"
    monkeypatch.setenv("MLX_RANK", "1")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    hosts.write_text("\n")  # as mlx.launch writes it for one machine
    assert (launched(), default_split()) == ((0, 1), None)
    hosts.write_text('[["10.0.0.1:32323"], ["10.0.0.2:32324"]]\n')
    assert (launched(), default_split(), leader_address()) == ((1, 2), "pipeline", "10.0.0.1")
    hosts.write_text('[[null, "rdma_en2"], ["rdma_en2", null]]\n')
    monkeypatch.setenv("MLX_IBV_DEVICES", str(hosts))
    monkeypatch.setenv("MLX_JACCL_COORDINATOR", "10.0.0.1:32323")
    assert (launched(), default_split(), leader_address()) == ((1, 2), "tensor", "10.0.0.1")
