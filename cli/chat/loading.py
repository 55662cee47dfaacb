"""A model that loads in the background while the user types."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..screen.spans import DIM, Span
from ..screen.terminal import Terminal

if TYPE_CHECKING:
    from ...api import GptOss
    from ...remote import RemoteModel

__all__ = ["Loader", "is_url", "open_model"]


def is_url(reference: str) -> bool:
    """Whether a model is one on a server."""
    return reference.startswith(("http://", "https://"))


def open_model(reference: str, options: Mapping[str, Any]) -> GptOss | RemoteModel:
    """Loads a model, or connects to the server that has it.

    Args:
        reference: the model, or the URL of a server.
        options: of ``gptoss_mlx.load``.
    """
    if is_url(reference):
        from ...remote import connect

        return connect(reference, api_key=os.environ.get("GPTOSS_API_KEY"))
    from ... import load

    return load(reference, **options)


class Loader:
    """Loads one model in a thread, once.

    Args:
        reference: the model, or the URL of a server.
        options: of ``gptoss_mlx.load``.
    """

    def __init__(self, reference: str, options: Mapping[str, Any]) -> None:
        self.reference = reference
        self._options = options
        self._model: GptOss | RemoteModel | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def error(self) -> BaseException | None:
        """The error of a model that could not be loaded; None: it is loaded, or may yet be."""
        return self._error

    def start(self, when_failed: Callable[[BaseException], None] | None = None) -> None:
        """Begin loading, unless it has begun.

        Args:
            when_failed: called in the loading thread with the error, if there is one.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, args=(when_failed,), daemon=True)
            self._thread.start()

    def wait(self, terminal: Terminal) -> GptOss | RemoteModel:
        """The model, once it is loaded; until then the terminal shows that it is loading.

        Raises:
            GptOssError: it cannot be loaded.
        """
        self.start()
        began = time.monotonic()
        with terminal.live():
            while not self._done.wait(0.1):
                terminal.frame((), [(Span(f"loading {self.reference} {time.monotonic() - began:.0f} s", DIM),)])
        if self._error is not None:
            raise self._error
        assert self._model is not None
        return self._model

    def close(self) -> None:
        """Close the model, now or as soon as it is loaded."""
        self._closed = True
        if self._model is not None:
            self._model.close()

    def _load(self, when_failed: Callable[[BaseException], None] | None) -> None:
        try:
            self._model = open_model(self.reference, self._options)
        except BaseException as error:
            self._error = error
            if when_failed is not None:
                when_failed(error)
        finally:
            self._done.set()
        if self._model is not None and self._closed:
            self._model.close()
        elif self._model is not None:
            # Imported now rather than at the first word of the first answer.
            from . import live  # noqa: F401
