"""The order of the packages: each imports only from those below it, and no two modules import each other."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

ORDER = (
    "cli",
    "convert",
    "server __init__",
    "aio",
    "benchmark",
    "api",
    "remote",
    "chat",
    "engine",
    "distributed",
    "memory",
    "model",
    "cache",
    "tools",
    "structured",
    "checkpoint",
    "hub",
    "events arguments sampling tokenizer share config quantization",
    "harmony",
    "files",
    "errors",
    "demo",
)
"""Packages and modules of ``gptoss_mlx``, the highest first. Those in one line may import each other, but not in
a circle. ``demo.training`` stands outside: it imports what it likes, and nothing imports it."""

TRAINING = "demo.training"


def find_modules(package: Path) -> dict[str, Path]:
    """Every module by its name without ``gptoss_mlx``; a package's own is ``name.__init__``."""
    found = {}
    # cli and convert are links, which rglob does not follow.
    for directory in (package, package / "cli", package / "convert"):
        for path in directory.rglob("*.py"):
            found[".".join(path.relative_to(package).with_suffix("").parts)] = path
    return found


def imports(name: str, tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """The modules of this package that a module names in its imports, wherever they stand in it."""
    home = ("gptoss_mlx", *name.split("."))[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(tuple(alias.name.split(".")), modules)
        elif isinstance(node, ast.ImportFrom):
            parent = home[: len(home) - node.level + 1] if node.level else ()
            base = (*parent, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                yield from list(_module((*base, alias.name), modules)) or _module(base, modules)


def _module(parts: tuple[str, ...], modules: set[str]) -> Iterator[str]:
    if parts[:1] == ("gptoss_mlx",):
        name = ".".join(parts[1:])
        for candidate in (name, f"{name}.__init__" if name else "__init__"):
            if candidate in modules:
                yield candidate


def level(name: str) -> int:
    """The line of :data:`ORDER` that a module stands in."""
    top = name.partition(".")[0]
    return next(number for number, line in enumerate(ORDER) if top in line.split())


def find_imports(package: Path) -> dict[str, set[str]]:
    """What each module imports of the package, but for the demo's training."""
    modules = find_modules(package)
    return {
        name: set(imports(name, ast.parse(path.read_text()), set(modules)))
        for name, path in modules.items()
        if not name.startswith(TRAINING)
    }


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """The library's own imports."""
    return find_imports(ROOT / "gptoss_mlx")


def test_every_package_has_its_place(graph: dict[str, set[str]]) -> None:
    places = [place for line in ORDER for place in line.split()]
    assert {name.partition(".")[0] for name in graph} <= set(places)
    assert len(places) == len(set(places))


def test_no_module_imports_upwards(graph: dict[str, set[str]]) -> None:
    upwards = {f"{name} -> {other}" for name in graph for other in graph[name] if level(other) < level(name)}
    assert not upwards


def test_no_modules_import_each_other(graph: dict[str, set[str]]) -> None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_imports_the_training(graph: dict[str, set[str]]) -> None:
    assert not [name for name in graph for other in graph[name] if other.startswith(TRAINING)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from ..errors import GptOssError", {"errors"}),
        ("from gptoss_mlx.files import read, write as writer", {"files.read", "files.write"}),
        ("from . import chat", {"chat.chat"}),
        ("from .. import load", {"__init__"}),
        ("import gptoss_mlx.engine.worker", {"engine.worker"}),
        ("from ..harmony import Message", {"harmony.__init__"}),
        ("if TYPE_CHECKING:\n    from ..api import GptOss", {"api"}),
        ("def late():\n    from ..hub import models", {"hub.models"}),
        ("import json\nfrom numpy import errors", set()),
    ],
)
def test_every_way_to_import_is_seen(text: str, found: set[str]) -> None:
    modules = {
        "__init__",
        "api",
        "errors",
        "files.read",
        "files.write",
        "chat.chat",
        "engine.worker",
        "engine.engine",
    }
    modules |= {"harmony.__init__", "hub.models"}
    assert set(imports("chat.turn", ast.parse(text), modules)) == found
