"""The table of Macs in the README is that of `Budget`."""

from __future__ import annotations

from tests import ROOT
from tests.memory.macs import table


def test_the_table_in_the_readme_is_what_the_budget_says() -> None:
    assert f"\n{table()}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
