"""Starts a program in a group, and returns what its leader printed."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT

__all__ = ["launch", "launch_command", "started"]

TIMEOUT = 900


def launch_command(machines: int, *command: str) -> list[str]:
    """``mlx.launch`` with this interpreter, and ports that no other group has."""
    launcher = Path(sys.executable).with_name("mlx.launch")
    ring = ["--backend", "ring", "-n", str(machines), "-p", str(free_ports(machines)), "--cwd", str(ROOT)]
    return [sys.executable, str(launcher), *ring, "--", *command]


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    while True:
        first = random.randrange(20000, 32000)  # above are the ports of outgoing connections
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for port in range(first, first + count):
                sockets.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@contextlib.contextmanager
def started(machines: int, *command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A group while it runs. Whatever is left of it afterwards is killed."""
    process = subprocess.Popen(
        launch_command(machines, *command),
        stdin=subprocess.PIPE,  # stays open: without it mlx.launch spins
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.communicate()


def launch(machines: int, *command: str, **environment: str) -> str:
    """What the leader of a group prints; the group must end well."""
    with started(machines, *command, **environment) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert not any(sign in errors for sign in ("exited with code", "Traceback")), errors + output
    return output
