"""Installs real clients from their registries and runs each against the server.

    python -m tests.clients              # all of them
    python -m tests.clients codex llm    # some
    python -m tests.clients --newest     # in their newest versions

Each client talks to a scripted model on a loopback port, as a user configures it, and calls a tool where it has
tools. Clients that are written in JavaScript are left out where there is no node. Printed is a table: the client,
its version, what was done, and how it went. The environments are kept in ``--place`` for the next time.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import ROOT
from tests.clients import commands
from tests.clients.conduct import respond
from tests.server.scripted import ScriptedGptOss
from tests.server.serving import listening

PROGRAMS: Final = ROOT / "tests" / "clients" / "programs"


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client, where it comes from, and how it is run."""

    name: str
    package: str
    """As its registry names it."""
    version: str
    """That was last run."""
    environment: str
    """Clients of one environment are installed together."""
    run: str | Callable[[Path, str, Path], list[str]]
    """A program of ``programs``, or a function of ``commands``."""
    command: str = ""
    """That the function gets."""

    @property
    def is_node(self) -> bool:
        """Whether it is written in JavaScript, or comes with npm."""
        return self.environment == "node"

    @property
    def requirement(self) -> str:
        """The package in its version, as pip or npm is asked for it."""
        return f"{self.package}{'@' if self.is_node else '=='}{self.version}"


CLIENTS: Final = (
    Client(
        name="openai-agents",
        package="openai-agents",
        version="0.24.0",
        environment="python",
        run="with_openai_agents.py",
    ),
    Client(
        name="pydantic-ai",
        package="pydantic-ai-slim[openai]",
        version="2.38.0",
        environment="python",
        run="with_pydantic_ai.py",
    ),
    Client(
        name="langchain-openai",
        package="langchain-openai",
        version="1.7.4",
        environment="python",
        run="with_langchain.py",
    ),
    Client(name="litellm", package="litellm", version="1.110.2", environment="python", run="with_litellm.py"),
    Client(
        name="instructor", package="instructor", version="1.17.0", environment="python", run="with_instructor.py"
    ),
    Client(name="llm", package="llm", version="0.36", environment="python", run=commands.llm, command="llm"),
    Client(
        name="aider",
        package="aider-chat",
        version="0.86.2",
        environment="aider",
        run=commands.aider,
        command="aider",
    ),
    Client(name="openai-node", package="openai", version="7.57.0", environment="node", run="with_openai.mjs"),
    Client(
        name="openai-agents-js",
        package="@openai/agents",
        version="0.20.0",
        environment="node",
        run="with_openai_agents.mjs",
    ),
    Client(
        name="codex",
        package="@openai/codex",
        version="0.169.0",
        environment="node",
        run=commands.codex,
        command="codex",
    ),
    Client(
        name="codex --oss",
        package="@openai/codex",
        version="0.169.0",
        environment="node",
        run=commands.codex_oss,
        command="codex",
    ),
    Client(
        name="claude-code",
        package="@anthropic-ai/claude-code",
        version="2.1.197",
        environment="node",
        run=commands.claude_code,
        command="claude",
    ),
)


class Environments:
    """Where the clients are installed.

    Args:
        place: a directory for all of them.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def install(self, clients: Sequence[Client], *, newest: bool) -> None:
        """Installs clients.

        Args:
            clients: those that will run.
            newest: whether in their newest versions, in place of those that were last run.
        """
        for name in dict.fromkeys(client.environment for client in clients):
            chosen = [client for client in clients if client.environment == name]
            packages = sorted({client.package if newest else client.requirement for client in chosen})
            upgrade = ["--upgrade"] if newest else []
            print(f"{name}: installing {', '.join(packages)}", file=sys.stderr)
            directory = self._place / name
            directory.mkdir(parents=True, exist_ok=True)
            if name == "node":
                _run("npm", "install", "--no-fund", "--no-audit", "--silent", "--prefix", directory, *packages)
            else:
                if not (directory / "bin").exists():
                    _run(sys.executable, "-m", "venv", directory)
                    _run(directory / "bin" / "python", "-m", "pip", "install", "--quiet", "--upgrade", "pip")
                _run(directory / "bin" / "python", "-m", "pip", "install", "--quiet", *upgrade, *packages)

    def command(self, client: Client) -> Path:
        """The path of a client's command."""
        folder = "node_modules/.bin" if client.is_node else "bin"
        return self._place / client.environment / folder / client.command

    def version(self, client: Client) -> str:
        """The version that was installed."""
        directory, name = self._place / client.environment, client.package.partition("[")[0]
        if client.is_node:
            text = (directory / "node_modules" / name / "package.json").read_text()
            found = re.search(r'"version":\s*"([^"]+)"', text)
        else:
            found = re.search(
                r"^Version: (\S+)$",
                _run(directory / "bin" / "python", "-m", "pip", "show", name),
                flags=re.MULTILINE,
            )
        return found[1] if found else "?"

    def run_program(self, client: Client, url: str, place: Path) -> list[str]:
        """Runs a program of ``programs``; the lines that it prints are what was done."""
        assert isinstance(client.run, str)
        source = PROGRAMS / client.run
        if client.is_node:
            # node looks for packages beside the program.
            program = shutil.copy(source, self._place / client.environment / client.run)
            command: list[str | Path] = ["node", program]
        else:
            command = [self._place / client.environment / "bin" / "python", source]
        text = commands.output_of(
            place, command, OPENAI_BASE_URL=f"{url}/v1", OPENAI_API_BASE=f"{url}/v1", OPENAI_API_KEY="none"
        )
        return [line for line in text.splitlines() if re.match(r"\w+: ", line) and "warning" not in line.lower()]


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def run(client: Client, environments: Environments, url: str) -> tuple[bool, str]:
    """Runs one client; whether it worked, and what was done or why it failed."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        try:
            if isinstance(client.run, str):
                done = environments.run_program(client, url, place)
            else:
                done = client.run(place, url, environments.command(client))
        except AssertionError as error:
            return False, str(error)
    return True, "; ".join(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CLIENT", help=", ".join(client.name for client in CLIENTS))
    parser.add_argument("--newest", action="store_true")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()) / "gptoss-clients")
    arguments = parser.parse_args()
    chosen = [client for client in CLIENTS if not arguments.names or client.name in arguments.names]
    if not (shutil.which("node") and shutil.which("npm")):
        print("node is missing: clients that are written in JavaScript are left out", file=sys.stderr)
        chosen = [client for client in chosen if not client.is_node]
    environments = Environments(arguments.place)
    environments.install(chosen, newest=arguments.newest)
    failed = 0
    print("| client | version | what was done | result |\n|---|---|---|---|")
    for client in chosen:
        with listening(ScriptedGptOss(respond=respond)) as url:
            worked, text = run(client, environments, url)
        failed += not worked
        shown = text if worked else "see below"
        print(f"| {client.name} | {environments.version(client)} | {shown} | {'works' if worked else 'FAILS'} |")
        if not worked:
            print(text)
        sys.stdout.flush()
    print(f"{len(chosen) - failed} passed, {failed} failed")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
