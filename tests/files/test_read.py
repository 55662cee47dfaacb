"""Reading: lists and objects are counted before parsing, and strings do not count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.files import read as reading
from gptoss_mlx.files.read import parse_json

_TEXT = st.text('[]{}",:\\a\u00e9\u6771\U0001f1f3', max_size=8)
_VALUES = st.recursive(
    st.none() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


def containers(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(containers, value.values()))
    return 1 + sum(map(containers, value)) if isinstance(value, list) else 0


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(_VALUES, st.booleans())
def test_exactly_the_lists_and_objects_count(value: Any, ascii_only: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_only).encode()
    count = containers(value)
    assert parse_json(content, containers=count) == value
    if count:
        with pytest.raises(ValueError, match=f"more than {count - 1} lists and objects"):
            parse_json(content, containers=count - 1)


def test_a_text_full_of_brackets_is_one_value() -> None:
    value = {"text": "[{" * 2**20 + '"\\' * 1000}
    assert parse_json(json.dumps(value).encode()) == value


def test_a_file_that_grows_is_not_read_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert reading.read_regular(path, 5) == b"12345"
    size = path.stat().st_size - 1
    monkeypatch.setattr(reading, "open_regular", lambda path: (path.open("rb"), size))
    with pytest.raises(ValueError, match="grew while it was read"):
        reading.read_regular(path, 5)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "-1e999"])
def test_numbers_without_an_end_are_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="is not a JSON number"):
        parse_json(text.encode())
