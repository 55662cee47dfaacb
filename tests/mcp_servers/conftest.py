"""Servers of MCP from their registries, and one over HTTP."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("everything", "filesystem", "memory")
WEATHER = str(Path(__file__).with_name("weather.py"))


@pytest.fixture(scope="session")
def node_servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the programs of npm's packages."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not here")
    home = tmp_path_factory.mktemp("node")
    names = [f"@modelcontextprotocol/server-{name}" for name in PACKAGES]
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(home), *names]
    subprocess.run(command, check=True, capture_output=True)
    return home / "node_modules" / ".bin"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of git with a commit."""
    path = tmp_path_factory.mktemp("repository")
    (path / "a.txt").write_text("one\n")
    for words in ("init -q", "add .", "-c user.name=A -c user.email=a@b commit -qm First"):
        subprocess.run(["git", "-C", str(path), *words.split()], check=True)
    return path


@pytest.fixture
def http_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a server over streamable HTTP, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, WEATHER, str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as connecting:
                if not connecting.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def python() -> Any:
    """The entry of a server that is a Python module."""

    def entry(*words: str) -> dict[str, Any]:
        return {"command": sys.executable, "args": list(words)}

    return entry
