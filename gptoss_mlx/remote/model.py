"""The model of a server, and a chat with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, Unpack

from ..arguments import Effort
from ..chat.chat import Chat
from ..chat.options import ChatOptions, ChatSettings, lists_options
from ..chat.prompt import TraceEntry
from ..chat.turn import Step
from ..errors import GptOssError, InvalidRequest
from ..harmony import Message
from .connection import Responding, Server
from .turn import RemoteTurn

__all__ = ["RemoteChat", "RemoteModel", "connect"]

_HERE: Final = "needs a model that is loaded on this machine; this one is on a server"


def connect(url: str, *, api_key: str | None = None) -> RemoteModel:
    """Connects to a server.

    Args:
        url: of the server, such as ``http://127.0.0.1:8080``.
        api_key: that it asks for.

    Raises:
        InvalidRequest: the URL is not one.
        GptOssError: the server cannot be reached, or refuses.
    """
    return RemoteModel(url, api_key)


class RemoteModel:
    """A model on a server. Make one with :func:`connect`.

    Example:
        >>> connect("mac-studio")
        Traceback (most recent call last):
        gptoss_mlx.errors.InvalidRequest: url is 'mac-studio'; one such as http://127.0.0.1:8080 is needed
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self._server = Server(url, api_key)
        listed = self._server.json("GET", "/v1/models").get("data")
        first = listed[0] if isinstance(listed, list) and listed else None
        if not isinstance(first, Mapping) or not isinstance(first.get("id"), str):
            raise GptOssError(f"{url}: it lists no model; is that gptoss serve?")
        self.name: str = first["id"]
        limit = first.get("context_length")
        self.context_limit = limit if type(limit) is int else 131_072
        """Tokens that a conversation may take up, its next answer included."""

    @lists_options(ChatOptions)
    def chat(
        self, *, messages: Sequence[Message | Mapping[str, Any]] = (), **options: Unpack[ChatOptions]
    ) -> Chat:
        """Starts a conversation; the arguments are those of ``GptOss.chat``. Tools run on this machine."""
        return RemoteChat(self, messages=messages, **options)

    def respond(self, request: Mapping[str, Any]) -> Responding:
        """The events of ``/v1/responses``."""
        return Responding(self._server, {"model": self.name, **request})

    def close(self) -> None:
        """Nothing stays open between requests."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteChat(Chat):
    """A chat with a model on a server. What needs the model's tokens here raises InvalidRequest."""

    __slots__ = ("used",)

    def __init__(self, model: RemoteModel, **options: Any) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        self.used = 0

    @property
    def context_used(self) -> int:
        """Tokens that the conversation took up at the last answer; 0 before it."""
        return self.used

    def tokens_to_prefill(self, effort: Effort | None = None) -> int:
        """0: only the server knows."""
        return 0

    def trace(self) -> list[TraceEntry]:
        raise InvalidRequest(f"the trace {_HERE}")

    def prefill(self) -> int:
        raise InvalidRequest(f"prefill {_HERE}")

    def _begin(
        self, settings: ChatSettings, messages: Sequence[Message], step: Step, unfinished: Message | None
    ) -> RemoteTurn:
        if unfinished is not None:
            raise InvalidRequest(f"to continue an answer {_HERE}; /retry asks again")
        if settings.toolbox.builtins():
            raise InvalidRequest(f"the tool python {_HERE}")
        constraint = step.plan.constraint
        if constraint is not None and constraint.response_format is None:
            raise InvalidRequest(f"an answer of choices or of a regular expression {_HERE}; a schema does not")
        if (
            step.logprobs
            or step.top_logprobs
            or step.logits_processor
            or step.plan.max_thinking_tokens is not None
        ):
            raise InvalidRequest(f"logprobs, a logits_processor or max_thinking_tokens {_HERE}")
        model: Any = self.model
        return RemoteTurn(model.respond, self._count, settings, messages, step)

    def _count(self, used: int) -> None:
        self.used = used
