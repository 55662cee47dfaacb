"""The machines that ``mlx.launch`` has started together: how they meet, agree, and notice that one is lost.

MLX's own connections carry arrays. Beside them the leader, rank 0, has a :class:`Link` to each of the others, over
which it says what all do. The others take part in everything and decide nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import hmac
import json
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final, TypeVar

import mlx.core as mx

from ..errors import GptOssError, InvalidRequest, MachineLost
from ..memory.device import DeviceInfo
from .launched import backend_name, leader_address
from .link import SILENCE_SECONDS, Link, Message, receive_line

__all__ = ["LOST_EXIT_CODE", "Group", "join"]

Value = TypeVar("Value")
LOST_EXIT_CODE: Final = 6
_MEETING_SECONDS: Final = 60.0
_LAST_WORDS_SECONDS: Final = 1.0
_BLAME_SECONDS: Final = 0.5
"""After a machine failed, until it is clear that it did not fail because of another one."""
_INVITATION_BYTES: Final = 512
_MACHINE: Final = {"facts": dict, "device": dict, "host": str, "pid": int}
_MAX_GREETING: Final = 64 * 1024


def join() -> Group | None:
    """The group that this process was started in, or None if it is alone.

    Raises:
        MachineLost: the machines do not find each other.
    """
    backend = backend_name()
    if backend is None:
        return None
    try:
        group = mx.distributed.init(strict=True, backend=backend)
    except RuntimeError as error:
        raise MachineLost(f"the machines of the group do not find each other ({error})") from error
    return Group(group) if group.size() > 1 else None


class Group:
    """This process and the others of its group. See :func:`join`.

    Args:
        arrays: what connects them in MLX.
    """

    def __init__(self, arrays: mx.distributed.Group) -> None:
        self.arrays = arrays
        self.rank, self.size = arrays.rank(), arrays.size()
        self._links: dict[int, Link] = {}
        self._machines: dict[int, dict[str, Any]] = {}
        self._heard: queue.SimpleQueue[tuple[int, Message]] = queue.SimpleQueue()
        self._ending = threading.Lock()
        self._lost: MachineLost | None = None
        self._failed: set[int] = set()
        self._gone: int | None = None
        self._verdict = threading.Event()
        self._closed = False
        self.on_lost: Callable[[MachineLost], None] = lambda error: None
        """Is called on the leader when a machine is lost, from any thread."""

    @property
    def leads(self) -> bool:
        """Whether this process decides and speaks."""
        return self.rank == 0

    @property
    def is_lost(self) -> bool:
        """Whether a machine was lost."""
        return self._lost is not None

    def meet(self, facts: Mapping[str, Any], device: DeviceInfo) -> list[DeviceInfo]:
        """Connects the machines with each other.

        Args:
            facts: what has to be the same on all machines, by the name that an error gives it.
            device: this machine.

        Returns:
            All machines, by rank.

        Raises:
            InvalidRequest: they differ in a fact; the message names the machine. It is raised on all of them.
            MachineLost: they do not find each other.
        """
        facts = {"the version of mlx": version("mlx"), **facts}
        own = {"facts": facts, "device": asdict(device), "host": socket.gethostname(), "pid": os.getpid()}
        try:
            self._listen(own) if self.leads else self._greet(own)
        except (OSError, RuntimeError) as error:  # of the sockets, or of MLX
            raise MachineLost(f"the machines of the group do not find each other ({error})") from error
        if self.leads:
            self._outlive_the_launcher()
            difference = self._difference(facts)
            self.tell("refused" if difference else "met", difference or self._machines_by_rank())
            if difference:
                self.close()
                raise InvalidRequest(difference)
        else:
            name, value = self._next()
            if name == "refused":
                self.close()
                raise InvalidRequest(str(value))
            self._machines = dict(enumerate(value))
        return [DeviceInfo(**machine["device"]) for machine in self._machines_by_rank()]

    def decided(self, decide: Callable[[], Value]) -> Value:
        """A plain value that the leader decides on and all machines then know."""
        if self.leads:
            value = decide()
            self.tell("decided", value)
            return value
        name, value = self._next()
        assert name == "decided"
        return value

    def wait_until_ready(self) -> None:
        """Waits until every machine has come here.

        Raises:
            MachineLost: one does not.
        """
        if not self.leads:
            self._links[0].send(["ready"])
            return
        waiting = set(self._links)
        while waiting:
            rank, message = self._take()
            if message == ["ready"]:
                waiting.discard(rank)

    def tell(self, *message: Any) -> None:
        """Sends a message to all other machines; only the leader does."""
        for link in self._links.values():
            link.send(list(message))

    def heard(self) -> Iterator[Message]:
        """What the leader tells, until it closes the group."""
        while (message := self._next()) != ["close"]:
            yield message

    def failed(self, error: BaseException) -> None:
        """Reports to the leader that this machine cannot go on."""
        what = str(error) if isinstance(error, GptOssError) else f"{type(error).__name__}: {error}"
        self._links[0].send(["failed", " ".join(what.split())])

    @contextlib.contextmanager
    def computing(self, on_failure: Callable[[], None]) -> Iterator[None]:
        """Surrounds what the leader computes together with the others.

        Args:
            on_failure: is called after an error that is not of MLX.

        Raises:
            MachineLost: MLX cannot go on. It is not used any more then: it may wait for a lost machine.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            # The others may wait for this machine's part of a sum, so that none of them can go on.
            if not self._verdict.wait(SILENCE_SECONDS + 1):
                self._end(MachineLost(f"machine 0 ({self._name(0)}) cannot go on: {error}"))
            if self._lost is None:  # it was closed meanwhile
                raise
            raise self._lost from error
        except BaseException:
            on_failure()
            raise

    def check(self) -> None:
        """Raises the error of a machine that was lost.

        Raises:
            MachineLost: one was.
        """
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Ends the other machines; on one that follows, its own part."""
        was_open, self._closed = not self._closed, True
        if self.leads and self._lost is None and was_open:
            self.tell("close")
        if self._lost is not None:
            self._end_others()
        for link in self._links.values():
            link.close()

    # How they meet.

    def _listen(self, own: dict[str, Any]) -> None:
        secret = secrets.token_hex(16)
        with socket.create_server((leader_address(), 0), backlog=self.size) as server:
            server.settimeout(_MEETING_SECONDS)
            self._invite({"address": server.getsockname()[:2], "secret": secret})
            self._machines[0] = own
            while len(self._machines) < self.size:
                connection, _ = server.accept()
                self._admit(connection, secret)

    def _admit(self, connection: socket.socket, secret: str) -> None:
        """Takes a connection in, if the other side knows the secret."""
        connection.settimeout(SILENCE_SECONDS)
        greeting: Message = []
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb", buffering=0) as lines:
            greeting = receive_line(lines.readline, _MAX_GREETING)
        if len(greeting) == 4 and hmac.compare_digest(str(greeting[1]).encode(), secret.encode()):
            rank, machine = greeting[2], greeting[3]
            if rank in range(1, self.size) and rank not in self._machines and _is_machine(machine):
                self._machines[rank] = machine
                self._links[rank] = self._link(connection, rank)
                return
        connection.close()

    def _greet(self, own: dict[str, Any]) -> None:
        invitation = self._invite(None)
        connection = socket.create_connection(tuple(invitation["address"]), _MEETING_SECONDS)
        connection.sendall(json.dumps(["greeting", invitation["secret"], self.rank, own]).encode() + b"\n")
        self._links[0] = self._link(connection, 0)

    def _invite(self, invitation: dict[str, Any] | None) -> dict[str, Any]:
        """Where the leader listens, and the secret, which go over MLX's own connections."""
        text = b"" if invitation is None else json.dumps(invitation).encode()
        codes = mx.array(list(text.ljust(_INVITATION_BYTES)) if text else [0] * _INVITATION_BYTES, dtype=mx.int32)
        total = mx.distributed.all_sum(codes, group=self.arrays)
        found: dict[str, Any] = json.loads(bytes(total.tolist()))  # type: ignore[arg-type]
        return found

    def _difference(self, facts: Mapping[str, Any]) -> str:
        """The first fact in which a machine differs from this one, as a sentence; empty if there is none."""
        for rank in range(1, self.size):
            for name, value in facts.items():
                other = self._machines[rank]["facts"].get(name)
                if other != value:
                    return (
                        f"{name} differs: {other} on machine {rank} ({self._name(rank)}), {value} on machine 0 "
                        f"({self._name(0)}); make it the same on all machines"
                    )
        return ""

    # How a machine is lost.

    def _link(self, connection: socket.socket, rank: int) -> Link:
        return Link(
            connection,
            lambda message: self._receive(rank, message),
            lambda reason: self._disconnected(rank, reason),
        )

    def _disconnected(self, rank: int, reason: str) -> None:
        if rank not in self._failed:
            self._end(MachineLost(f"machine {rank} ({self._name(rank)}) {reason}"), rank)

    def _receive(self, rank: int, message: Message) -> None:
        if message[0] == "failed":
            error = MachineLost(f"machine {rank} ({self._name(rank)}) cannot go on: {message[1]}")
            # If MLX failed there because another machine has ended, that one's connection is lost too by now.
            self._failed.add(rank)
            _later(_BLAME_SECONDS, lambda: self._end(error, rank))
        elif message == ["end"]:
            self._end(MachineLost("the leader has ended the group"), rank)
        else:
            # After these the leader closes the connection, and is not lost.
            self._closed |= message[0] in ("close", "refused") and not self.leads
            self._heard.put((rank, message))

    def _end(self, error: MachineLost, rank: int | None = None) -> None:
        """Ends all machines after one was lost. On the leader the error goes on to whoever waits; a machine that
        follows ends at once, because it may wait in MLX for one that will never answer."""
        with self._ending:
            if self._closed or self._lost is not None:
                return
            self._lost = error
        if not self.leads:
            self._leave()
        self._verdict.set()
        # A thread that waits in MLX for a lost machine can never be joined.
        atexit.register(self._leave)
        self._heard.put((0, ["lost"]))
        self._gone = rank
        self.on_lost(error)
        # Whoever started the machines may end this one as soon as another has ended: first it says what it has to.
        _later(_LAST_WORDS_SECONDS, self._end_others)

    def _end_others(self) -> None:
        """Ends the other machines after one was lost."""
        for rank, link in self._links.items():
            link.send(["end"])
            # A stopped process does not end by itself; one on another machine ends when it runs again.
            if rank == self._gone and link.same_machine:
                with contextlib.suppress(OSError):
                    os.kill(self._machines[rank]["pid"], signal.SIGKILL)

    def _leave(self) -> None:
        """Ends this process without waiting for a thread that waits in MLX."""
        self._end_others()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(LOST_EXIT_CODE)

    def _outlive_the_launcher(self) -> None:
        """``mlx.launch`` sends SIGTERM as soon as a machine has ended: then this one first says which."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(
                signal.SIGTERM, lambda *_: threading.Thread(target=self._terminated, daemon=True).start()
            )

    def _terminated(self) -> None:
        if self._verdict.wait(_LAST_WORDS_SECONDS):
            time.sleep(3 * _LAST_WORDS_SECONDS)
        os._exit(LOST_EXIT_CODE if self._lost is not None else 128 + signal.SIGTERM)

    def _take(self) -> tuple[int, Message]:
        found = self._heard.get()
        self.check()
        return found

    def _next(self) -> Message:
        return self._take()[1]

    def _name(self, rank: int) -> str:
        return str(self._machines.get(rank, {}).get("host", "?"))

    def _machines_by_rank(self) -> list[dict[str, Any]]:
        return [self._machines[rank] for rank in range(self.size)]


def _later(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def _is_machine(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in _MACHINE.items())
