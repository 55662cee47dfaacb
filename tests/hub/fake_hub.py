"""A Hugging Face Hub on loopback that misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["REVISION", "FakeHub", "serving"]

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """The files of a repository and the faults of the Hub."""

    def __init__(self, repo_id: str, files: dict[str, bytes]) -> None:
        self.repo_id = repo_id
        self.files = files
        self.url = ""
        self.requested: list[str] = []
        """Files whose content was asked for, in order."""
        self.paths: list[str] = []
        """Of every request, in order."""
        self.statuses: dict[str, list[int]] = {}
        """File name, or ``api`` → statuses of the next answers; the last one stays."""
        self.cuts: dict[str, int] = {}
        """File name → how many of its answers break off half way."""
        self.shortened: set[str] = set()
        """Files of which fewer bytes come than were announced by the listing, without an error."""

    def status(self, name: str) -> int:
        """The next answer."""
        waiting = self.statuses.get(name)
        if not waiting:
            return 200
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@contextmanager
def serving(repo_id: str, directory: Path, extra: dict[str, bytes] | None = None) -> Iterator[FakeHub]:
    """Serves the files of a directory, and additional ones."""
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    hub = FakeHub(repo_id, files | (extra or {}))
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores connections that killed clients leave; reports all other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.paths.append(path)
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
            return
        prefix = f"/{self.hub.repo_id}/resolve/{REVISION}/"
        name = path.removeprefix(prefix)
        if not path.startswith(prefix) or name not in self.hub.files:
            self._error(404, "EntryNotFound")
        elif body and (status := self.hub.status(name)) != 200:
            self._error(status, None)
        else:
            self._file(name, body=body)

    def _api(self, path: str) -> None:
        status = self.hub.status("api")
        repo_id, _, rest = path.partition("/tree/")
        repo_id = repo_id.partition("/revision/")[0]
        if status != 200 or repo_id != self.hub.repo_id:
            status = 404 if status == 200 else status
            self._error(status, {404: "RepoNotFound", 401: "RepoNotFound", 403: "GatedRepo"}.get(status))
        elif rest:
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in self.hub.files.items()
                ]
            )
        else:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.hub.files.items()]
            self._json(
                {"_id": "1", "id": self.hub.repo_id, "sha": REVISION, "siblings": siblings, "private": False}
            )

    def _file(self, name: str, *, body: bool) -> None:
        data = self.hub.files[name]
        begin = 0
        requested = self.headers.get("Range", "")
        if requested.startswith("bytes=") and body:
            begin = int(requested.removeprefix("bytes=").partition("-")[0] or 0)
            if begin >= len(data) > 0:
                self._error(416, None)
                return
        sent = data[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{_etag(data)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Accept-Ranges", "bytes")
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        if body and name in self.hub.shortened:
            sent = sent[: len(sent) // 2]
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if body:
            self.hub.requested.append(name)
            self._send(name, sent)

    def _send(self, name: str, sent: bytes) -> None:
        if self.hub.cuts.get(name, 0) > 0:
            self.hub.cuts[name] -= 1
            self.wfile.write(sent[: len(sent) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(sent)

    def _json(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _error(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
