"""Every test and command that SECURITY.md and the README of the benchmarks name exists."""

from __future__ import annotations

import ast
import importlib.util
import re

from tests import ROOT

TESTS = ROOT / "tests"
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
BENCHMARKS = (TESTS / "benchmarks" / "README.md").read_text(encoding="utf-8")
HELPERS = {"tests.benchmarks.cli_record", "tests.benchmarks.convert_shaped", "tests.benchmarks.engine_models"}
"""Modules that other benchmarks use, and the program that records the picture in README.md."""


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+)::(test_\w+)`", SECURITY)
    assert len(named) > 40
    for module, name in named:
        tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{module}::{name}"
    # A name without its module would not be found.
    assert not re.findall(r"`test_\w+`", SECURITY)


def test_every_command_that_is_named_exists() -> None:
    commands = re.findall(r"python -m ([\w.]+)", BENCHMARKS)
    for module in commands:
        assert importlib.util.find_spec(module), module
    programs = {f"tests.benchmarks.{path.stem}" for path in (TESTS / "benchmarks").glob("[a-z]*.py")}
    assert {command for command in commands if command.startswith("tests.benchmarks.")} == programs - HELPERS
