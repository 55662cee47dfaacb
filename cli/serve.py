"""``gptoss serve``: loads a model and answers programs until a signal comes."""

from __future__ import annotations

import ipaddress
import logging
import signal
import sys
from dataclasses import dataclass

import typer

from ..errors import InvalidRequest
from .chat.first_start import choose_model
from .errors import INTERRUPTED
from .screen.spans import BOLD, DIM
from .screen.terminal import Terminal
from .settings import Settings

__all__ = ["Address", "serve"]


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


def serve(address: Address, settings: Settings, *, hide_thinking: bool, quiet: bool) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Raises:
        InvalidRequest: others could reach it without a key, or it cannot listen there.
        typer.Exit: Ctrl-C ended it.
    """
    if not address.is_local and not address.api_key:
        raise InvalidRequest(
            f"--host {address.host} lets other machines ask; give --api-key KEY, or set GPTOSS_API_KEY, so that "
            "only requests with that key are answered"
        )
    out, err = Terminal(sys.stdout), Terminal(sys.stderr)
    reference = choose_model(settings.model, err, interactive=False)
    from .. import load
    from ..server import create_app
    from ..server.about import welcome
    from ..server.run import listen, run

    with listen(address.host, address.port) as listener:
        name = f"[{address.host}]" if ":" in address.host else address.host
        url = f"http://{name}:{listener.getsockname()[1]}"
        if not quiet:
            err.line(f"loading {reference}", DIM)
        with load(reference, **settings.loading) as model:
            app = create_app(
                model,
                effort=settings.effort,
                hide_thinking=hide_thinking,
                api_key=address.api_key,
                hosts=(address.host,) if address.is_local else None,
                origins=address.origins,
            )

            def ready() -> None:
                if not quiet:
                    _log_to_stderr()
                    first, *rest = welcome(url, model, with_key=address.api_key is not None).splitlines()
                    out.line(first, BOLD)
                    for line in rest:  # as they are, because they are there to be copied
                        out.line(line, DIM)

            ended_by = run(app, listener, ready)
    if ended_by == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)


def _log_to_stderr() -> None:
    """One line for each request, and warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("gptoss_mlx.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
