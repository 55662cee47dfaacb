"""Several machines on the command line: how they divide a model, and ``--hostfile``.

``chat`` and ``run`` with a hostfile start ``gptoss serve`` on every machine with ``mlx.launch``, and are then
clients of the first one: terminal, history and chat file are in a process that holds no MLX and survives every
machine.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import GptOssError, InvalidRequest, MachineLost
from .hosts import checked_split, hosts_of
from .screen.spans import DIM, Span
from .screen.terminal import Terminal

if TYPE_CHECKING:
    from ..share import Split
    from .settings import Settings

__all__ = ["IN_THE_CLEAR", "ended_first", "on_machines", "served", "split_of"]

IN_THE_CLEAR: Final = "they speak in the clear: use a cable between them, or a network that you trust"
_HEALTH_SECONDS: Final = 3.0
_ENDING_SECONDS: Final = 10.0
_WORDS_SECONDS: Final = 5.0
_SETTLING_SECONDS: Final = 3.0
"""After an error, until it is clear whether a machine was lost."""
_STARTING_PORT: Final = 32323


def split_of(split: str | None) -> Split | None:
    """How the machines that ``mlx.launch`` has started divide a model; None if this one is alone.

    Args:
        split: the option's value.

    Raises:
        InvalidRequest: another value.
    """
    from ..distributed.launched import default_split

    default = default_split()
    return default if default is None or split is None else checked_split(split)


@contextlib.contextmanager
def on_machines(settings: Settings, hostfile: str | None, split: str | None) -> Iterator[Settings]:
    """Settings with the URL of a model that the machines of a hostfile have, until the block ends.

    Args:
        settings: of ``chat`` or ``run``.
        hostfile: the option's value.
        split: the option's value.

    Raises:
        InvalidRequest: there is an adapter, or no hostfile.
        InvalidRequest, MachineLost: see :func:`served`.
    """
    if hostfile is None:
        raise InvalidRequest("--split is for several machines; name them with --hostfile FILE")
    if settings.adapter is not None:
        raise InvalidRequest("--adapter: several machines compute none; merge it with gptoss convert --adapter")
    from .chat.first_start import choose_model

    terminal = Terminal(sys.stderr)
    arguments = ["--model", choose_model(settings.model, terminal, interactive=False)]
    if split is not None:
        arguments += ["--split", checked_split(split)]
    for name in ("context", "kv_bits"):
        if (value := getattr(settings, name)) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    with served(Path(hostfile), arguments, terminal) as url:
        yield replace(settings, url=url)


@contextlib.contextmanager
def served(path: Path, arguments: Sequence[str], terminal: Terminal) -> Iterator[str]:
    """The URL of ``gptoss serve`` on the machines of a hostfile, until the block ends. Its key is in the
    environment of this process, and no process is left behind.

    Args:
        path: the hostfile.
        arguments: of ``gptoss serve``.
        terminal: shows that the model is loading.

    Raises:
        InvalidRequest: it is no hostfile, or does not begin with this machine.
        MachineLost: a machine was lost. An error in the block that this caused is replaced.
    """
    hosts = hosts_of(path)
    if not hosts[0].is_this_machine:
        raise InvalidRequest(
            f'{path}: begins with {hosts[0].ssh}; the first machine must be this one, as "ssh": "127.0.0.1"'
        )
    launcher = _Launcher(path, len(hosts), arguments)
    try:
        terminal.line(f"{len(hosts)} machines: {IN_THE_CLEAR}", DIM)
        launcher.wait_until_ready(terminal)
        os.environ["GPTOSS_API_KEY"] = launcher.key
        yield launcher.url
        launcher.raise_if_lost()
    except (GptOssError, SystemExit) as error:
        launcher.raise_if_lost(after=error)
        raise
    finally:
        launcher.end()


class _Launcher:
    """``mlx.launch`` with ``gptoss serve`` on every machine."""

    def __init__(self, path: Path, machines: int, arguments: Sequence[str]) -> None:
        self.key = secrets.token_urlsafe(32)
        self._port = _free_ports(1, first=0)
        self.url = f"http://127.0.0.1:{self._port}"
        self._lost: str | None = None
        self._ready = self._ending = False
        self._lines: collections.deque[str] = collections.deque(maxlen=50)
        script = Path(sys.executable).with_name("mlx.launch")
        serve = [sys.executable, "-m", "gptoss_mlx.cli", "serve", "--port", str(self._port), *arguments]
        serve += ["--quiet", "--api-key", "-", "--owner", str(os.getpid())]
        ports = ["--starting-port", str(_free_ports(machines, first=_STARTING_PORT))]
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--hostfile", str(path), *ports, "--", *serve],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the chat alone
        )
        assert self._process.stdin is not None
        # Not as an argument, which every user of this machine can read. The pipe stays open, since without it
        # mlx.launch would spin.
        self._process.stdin.write(self.key + "\n")
        self._process.stdin.flush()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self, terminal: Terminal) -> None:
        """Waits until the model is loaded.

        Raises:
            GptOssError: it cannot be loaded; the error and its kind are those of the machine that said so.
        """
        began = time.monotonic()
        with terminal.live():
            while not self._is_healthy(1.0):
                if self._process.poll() is not None:
                    self._reader.join(1.0)
                    raise self._failure()
                terminal.frame((), [(Span(f"loading {time.monotonic() - began:.0f} s", DIM),)])
                time.sleep(0.1)
        self._ready = True
        threading.Thread(target=self._watch, daemon=True).start()

    def raise_if_lost(self, after: BaseException | None = None) -> None:
        """Raises the error of a machine that was lost.

        Args:
            after: an error that this may have caused; a lost machine may not be known yet.
        """
        began = time.monotonic()
        while self._lost is None and self._ready and type(after) is GptOssError:
            passed = time.monotonic() - began
            if passed > 2 * _ENDING_SECONDS or (passed > _SETTLING_SECONDS and self._is_healthy(_HEALTH_SECONDS)):
                break
            time.sleep(0.1)
        if self._lost is not None:
            raise MachineLost(self._lost) from after

    def end(self) -> None:
        """Ends all machines: the first in order, so that it ends the others."""
        self._ending = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            deadline = time.monotonic() + _ENDING_SECONDS
            while self._any_left() and time.monotonic() < deadline:
                self._process.poll()
                time.sleep(0.05)

    def _any_left(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _watch(self) -> None:
        """Notices that the machines have ended or that the first one hangs, and ends the chat."""
        failures = 0
        while not self._ending and failures < 2 and self._process.poll() is None and self._said() is None:
            time.sleep(0.5)
            failures = 0 if self._is_healthy(_HEALTH_SECONDS) else failures + 1
        if self._ending:
            return
        self._wait_for_words()
        silent = "machine 0 (this one) has ended, or does not answer"
        self._lost = self._said() or ended_first(tuple(self._lines)) or silent
        time.sleep(1.0)  # in which an answer that was cut off is shown and saved
        if not self._ending:
            os.kill(os.getpid(), signal.SIGTERM)

    def _wait_for_words(self) -> None:
        """What the first machine has said comes through ssh and mlx.launch, and when they end."""
        deadline = time.monotonic() + _WORDS_SECONDS
        while self._said() is None and self._reader.is_alive() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _is_healthy(self, seconds: float) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line.strip())

    def _said(self) -> str | None:
        """What the first machine said of one that was lost."""
        lines = tuple(self._lines)
        return next((line.removeprefix("error: ") for line in lines if line.startswith("error: machine ")), None)

    def _failure(self) -> GptOssError:
        """The error with which the machines ended before they were ready."""
        from .errors import _EXIT_CODES

        lines = tuple(self._lines)
        text = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
        codes = re.findall(r"exited with code (\d+)", " ".join(lines))
        kinds = [kind for kind, code in _EXIT_CODES if str(code) in codes and issubclass(kind, GptOssError)]
        kind = kinds[0] if kinds else GptOssError
        return kind(text or f"the machines do not start: {' '.join(lines[-3:]) or 'without a word'}")


def ended_first(lines: Iterable[str]) -> str | None:
    """The machine that ``mlx.launch`` saw end first, as a sentence. It may end without passing on what the first
    machine has said of it.

    Args:
        lines: the launcher's.
    """
    found = re.search(r"Node with rank (\d+) (?:exited with code -|was killed)", "\n".join(lines))
    return f"machine {found[1]} has ended" if found else None


def _free_ports(count: int, *, first: int) -> int:
    """The first of so many ports in a row that nobody listens on.

    Args:
        count: how many.
        first: where to look; 0 takes any.
    """
    for begin in range(first, 65536 - count, count) if first else (0,):
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            found = [
                sockets.enter_context(socket.create_server(("127.0.0.1", port)))
                for port in range(begin, begin + count)
            ]
            return int(found[0].getsockname()[1])
    raise InvalidRequest(f"{count} ports in a row are not free on this machine")
