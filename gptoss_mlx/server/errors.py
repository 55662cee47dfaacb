"""The errors of the library as the APIs write them, and their HTTP statuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..errors import (
    ContextFull,
    GptOssError,
    HarmonyError,
    InvalidRequest,
    ModelClosed,
    NotEnoughMemory,
    ToolError,
)

__all__ = ["Refused", "anthropic_error", "openai_error", "status_of"]

_PATH: Final = re.compile(r"^([A-Za-z_][\w.\[\]]*) (?:is|has) ")
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Refused(GptOssError):
    """A request that is refused with a status of its own.

    Example:
        >>> Refused(404, "there is no response resp_1").status
        404
    """

    def __init__(self, status: int, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.details = details
        """What a client reads to go on without what it asked for."""


def status_of(error: GptOssError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, InvalidRequest | HarmonyError | ToolError):
        return 400
    return 503 if isinstance(error, ModelClosed | NotEnoughMemory) else 500


def openai_error(error: GptOssError) -> dict[str, Any]:
    """An error in OpenAI's form; ``param`` is the path of the field that is wrong."""
    status, message = status_of(error), " ".join(str(error).split())
    path = None if isinstance(error, Refused) else _PATH.match(message)
    kind = _TYPES.get(status, "server_error")
    code = "context_length_exceeded" if isinstance(error, ContextFull) else _CODES.get(status)
    return {"error": {"message": message, "type": kind, "param": path[1] if path else None, "code": code}}


_CODES: Final = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}


def anthropic_error(error: GptOssError) -> dict[str, Any]:
    """An error in Anthropic's form."""
    described = {"type": _TYPES.get(status_of(error), "api_error"), "message": " ".join(str(error).split())}
    details = error.details if isinstance(error, Refused) else None
    return {"type": "error", "error": described | ({"details": dict(details)} if details else {})}
