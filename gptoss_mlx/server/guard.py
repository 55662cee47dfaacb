"""Who may ask: the key, the Host and Origin headers, and the size of a body. Runs before everything else.

A page in the user's browser can send requests to a server on the same machine. Its Origin is not the server's, and
after a DNS rebinding neither is its Host.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import Refused
from .replies import refusal

__all__ = ["MAX_BODY", "Guard"]

MAX_BODY: Final = 16 * 2**20
"""Bytes of a request's body."""
_OPEN: Final = ("/health",)


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        api_key: that requests must have; None asks for none.
        hosts: the names under which the server is reached, beside those of this machine; None allows all.
        origins: of the pages that may ask.
    """

    def __init__(
        self, app: ASGIApp, *, api_key: str | None, hosts: Collection[str] | None, origins: Collection[str]
    ) -> None:
        self._app = app
        self._key = None if api_key is None else api_key.encode()
        self._hosts = hosts
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(headers, scope)
        except Refused as error:
            await refusal(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)

    def _check(self, headers: Headers, scope: Scope) -> None:
        host = _host_name(headers.get("host", ""))
        if self._hosts is not None and not (_is_loopback(host) or host in self._hosts):
            raise Refused(403, f"the Host {host[:80]!r} is not one of this server's")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and not _is_own(origin, headers.get("host", "")):
            raise Refused(403, f"the Origin {origin[:80]!r} may not ask; --allow-origin names those that may")
        if self._key is not None and scope["path"] not in _OPEN and scope["method"] != "OPTIONS":
            _, _, bearer = headers.get("authorization", "").partition(" ")
            given = headers.get("x-api-key") or bearer
            if not hmac.compare_digest(given.strip().encode(), self._key):
                raise Refused(401, "the key is missing or wrong; give the one that the server was started with")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > MAX_BODY:
            raise _too_large()


def _bounded(receive: Receive) -> Receive:
    """Receives a body of at most ``MAX_BODY`` bytes."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise _too_large()
        return message

    return bounded


def _too_large() -> Refused:
    return Refused(413, f"the body has more than {MAX_BODY // 2**20} MiB; send less")


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own(origin: str, host: str) -> bool:
    """Whether an origin is this server's own page."""
    return bool(host) and origin in (f"http://{host}", f"https://{host}")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
