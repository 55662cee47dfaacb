"""What SECURITY.md says is true as far as it can be looked up."""

from __future__ import annotations

import ast
import importlib.util
import re

from tests import ROOT

TESTS = ROOT / "tests"
TEXT = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+)::(test_\w+)`", TEXT)
    assert len(named) > 40
    for module, name in named:
        tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{module}::{name}"
    # Not by itself, where nobody would find it.
    assert not re.findall(r"`test_\w+`", TEXT)


def test_every_command_that_is_named_exists() -> None:
    commands = re.findall(r"`python -m ([\w.]+)", TEXT)
    assert len(commands) > 5
    for module in commands:
        assert importlib.util.find_spec(module), module
