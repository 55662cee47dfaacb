"""Which Pythons and systems have a wheel of every dependency: ``python -m tests.benchmarks.package_wheels``

pip resolves the dependencies, with ``--only-binary=:all: --python-version``, and installs nothing.
Needs the network. The exit code is 1 if a dependency has no wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
GLIBC = (5, 12, 17, 27, 28, 31, 34, 35)
"""Minor versions of the C library that wheels for Linux name."""
PLATFORMS = {
    "macOS 15, arm64": ("darwin", ("macosx_15_0_arm64",)),
    "Linux, x86-64": ("linux", tuple(f"manylinux_2_{minor}_x86_64" for minor in GLIBC)),
}


def requirements(system: str) -> list[str]:
    """The declared dependencies that a system takes; pip would take those of the system that it runs on."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    split = [requirement.partition(";") for requirement in declared]
    return [name.strip() for name, _, marker in split if not marker or system in marker]


def resolves(python: str, system: str, platforms: tuple[str, ...]) -> str:
    """Why the dependencies cannot be installed from wheels alone; empty: they can."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--target", str(Path(directory) / "target"), "--only-binary=:all:", "--python-version", python]
        command += [argument for platform in platforms for argument in ("--platform", platform)]
        done = subprocess.run([*command, *requirements(system)], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or ["pip failed"])[-1] if done.returncode else ""


def main() -> None:
    """Print a line for each."""
    failed = False
    for python in PYTHONS:
        for name, (system, platforms) in PLATFORMS.items():
            reason = resolves(python, system, platforms)
            failed = failed or bool(reason)
            print(f"Python {python} on {name}: {reason or 'every dependency has a wheel'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
