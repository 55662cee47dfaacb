"""``gptoss serve``: loads a model and answers programs until a signal comes."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import typer

from ..arguments import DEFAULT_PARALLEL
from ..errors import InvalidRequest, MachineLost
from .chat.first_start import choose_model
from .chat.tools import Tools
from .errors import INTERRUPTED
from .machines import IN_THE_CLEAR
from .screen.spans import BOLD, DIM, YELLOW
from .screen.terminal import Terminal
from .settings import Settings

if TYPE_CHECKING:
    from ..share import Split

__all__ = ["Address", "serve"]

_LAST_WORDS_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server listens, and who may ask."""

    host: str
    port: int
    api_key: str | None
    origins: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def serve(
    address: Address,
    settings: Settings,
    *,
    hide_thinking: bool,
    quiet: bool,
    split: Split | None = None,
    parallel: int = DEFAULT_PARALLEL,
    owner: int | None = None,
) -> None:
    """Serves until Ctrl-C or SIGTERM. Of several machines the first one serves.

    Args:
        address: where it listens.
        settings: the model and how it is loaded.
        hide_thinking: whether no answer shows the analysis.
        quiet: whether nothing but errors is printed.
        split: how the machines that ``mlx.launch`` has started divide the model.
        parallel: the most requests that run together.
        owner: a process of this machine that asks for the answers and runs the tools of its chat itself; when it
            has ended, so does this.

    Raises:
        InvalidRequest: others could reach it without a key, or it cannot listen there.
        MachineLost: a machine was lost.
        typer.Exit: Ctrl-C ended it.
    """
    if not address.is_local and not address.api_key:
        raise InvalidRequest(
            f"--host {address.host} lets other machines ask; give --api-key KEY, or set GPTOSS_API_KEY, so that "
            "only requests with that key are answered"
        )
    if owner is not None:
        settings = replace(settings, mcp=None, tools=None, python=None)
    err = Terminal(sys.stderr)
    reference = choose_model(settings.model, err, interactive=False)
    from .. import load
    from ..distributed.launched import launched
    from ..server import create_app
    from ..server.about import welcome
    from ..server.run import listen, run

    loading = {"split": split, "parallel": parallel, **settings.loading}
    if launched()[0] > 0:
        load(reference, **loading)  # takes part until the first machine has ended
    lost: list[MachineLost] = []
    with listen(address.host, address.port) as listener:
        name = f"[{address.host}]" if ":" in address.host else address.host
        url = f"http://{name}:{listener.getsockname()[1]}"
        if not quiet:
            err.line(f"loading {reference}", DIM)
        if split is not None and not quiet:
            err.line(f"{launched()[1]} machines ({split}): {IN_THE_CLEAR}", DIM)
        with Tools(settings) as tools, load(reference, **loading) as model:
            model.when_lost(lambda error: _end_after(lost, error))
            if owner is not None:
                threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
            options = tools.options(err)
            for notice in tools.notices():
                err.line(notice, YELLOW)
            app = create_app(
                model,
                tools=options.get("tools", ()),
                before_call=options.get("before_call"),
                after_call=options.get("after_call"),
                effort=settings.effort,
                hide_thinking=hide_thinking,
                api_key=address.api_key,
                hosts=(address.host,) if address.is_local else None,
                origins=address.origins,
            )
            text = "" if quiet else welcome(url, model, with_key=address.api_key is not None)
            ended_by = run(app, listener, lambda: _announce(text))
    if lost:
        raise lost[0]
    if ended_by == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)


def _announce(text: str) -> None:
    """Shows what to paste where, and from now on a line for each request; without a text nothing."""
    if not text:
        return
    _log_to_stderr()
    out = Terminal(sys.stdout)
    first, *rest = text.splitlines()
    out.line(first, BOLD)
    for line in rest:  # as they are, because they are there to be copied
        out.line(line, DIM)


def _end_after(lost: list[MachineLost], error: MachineLost) -> None:
    """Ends the server once the running requests have ended with the error."""
    lost.append(error)
    ending = threading.Timer(_LAST_WORDS_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
    ending.daemon = True
    ending.start()


def _end_with(owner: int) -> None:
    """Ends the server when another process has ended."""
    while True:
        time.sleep(1.0)
        try:
            os.kill(owner, 0)
        except (ProcessLookupError, PermissionError):  # the number may be another user's process by now
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _log_to_stderr() -> None:
    """One line for each request, and warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("gptoss_mlx.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
