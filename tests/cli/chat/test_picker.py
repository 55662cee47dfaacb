"""The list of saved chats: what it finds, how it is drawn, its keys."""

from __future__ import annotations

import os
import signal
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.cli.chat.picker import Entry, matching, picker_rows
from gptoss_mlx.cli.screen.spans import plain, row_width
from gptoss_mlx.harmony import Message
from tests.cli.pty_session import CHAT, FAKE, Person, chats, start

ENTRIES = (
    Entry(title="A trip to Oslo", facts=("2 h", "1 turn", "20b"), text="by train or by plane?"),
    Entry(title="東京で三日間の旅程を考えて、京都にも一日は行きたい", facts=("11 d", "12 turns", "模型\x1b[2J")),
    Entry(title="Plans\x1b]0;owned\x07 for\u202e June, which are many and long", facts=("now", "3 turns", "120b")),
    Entry(title="Bread", facts=("4 wk", "2 turns", "demo"), text="And the trip? Not to OSLO."),
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [0, 1, 2, 3]),
        ("oslo TRIP", [0, 3]),
        ("train", [0]),
        ("bread oslo", [3]),
        ("11", [1]),
        ("nowhere", []),
    ],
)
def test_every_word_is_found_in_the_title_first_and_then_in_the_text(query: str, found: Sequence[int]) -> None:
    assert matching(ENTRIES, query) == found


@pytest.mark.parametrize("width", [10, 28, 39, 40, 79, 119, 200])
def test_rows_fill_the_width_and_hold_no_hidden_character(width: int) -> None:
    rows = picker_rows(ENTRIES, range(len(ENTRIES)), 2, "june", width)
    assert {row_width(row) for row in rows} == {width}
    text = "".join(plain(row) for row in rows)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert plain(rows[2]).startswith("❯ Plans")


def test_facts_that_do_not_fit_are_left_out_from_the_last() -> None:
    shown = {width: plain(picker_rows(ENTRIES, [0], 0, "", width)[0]) for width in (79, 40, 30, 20)}
    assert shown[79].endswith("2 h    1 turn       20b")
    assert ("2 h" in shown[40], "turn" in shown[40]) == (True, False)
    assert "2 h" not in shown[20]


def saved(home: Path, title: str, age: int, answer: str = "yes") -> Path:
    """A chat that was saved some time ago."""
    directory = home / "data" / "gptoss" / "chats"
    directory.mkdir(parents=True, exist_ok=True)
    messages = (Message.user(f"{title}?"), Message.assistant(answer, channel="final"))
    path = directory / f"2026-{age}.json"
    chatfile.write(path, chatfile.ChatContent(messages=messages, title=title, model="demo"))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_chat_is_resumed_by_what_was_said_in_it(tmp_path: Path) -> None:
    saved(tmp_path, "Bread", 10, "Bake it until it sounds hollow.")
    saved(tmp_path, "Oslo", 7200)
    person = Person([*CHAT, "--resume"], tmp_path)
    person.wait_for("2 of 2")
    assert "2 h  1 turn  demo" in person.text()
    person.send("hollow")
    person.wait_for("1 of 2")
    person.wait_for("sounds hollow.")
    person.send("\r")
    person.wait_for("› Bread?")
    person.wait_for_prompt()
    assert "1 of 2" not in person.text()
    person.enter("/chats")
    person.wait_for("1 of 1")  # the open one is not offered
    person.send("\x1b")
    person.wait_for_prompt()
    person.enter("/rename A loaf")
    person.wait_for("this chat is now called “A loaf”")
    assert person.leave() == 0
    assert "to go on with this chat: gptoss chat -r 2026-10\n" in person.text()
    person = Person([*CHAT, "--resume", "loaf"], tmp_path)
    person.wait_for("› Bread?")
    assert person.leave() == 0


def test_the_list_deletes_after_the_key_was_pressed_twice(tmp_path: Path) -> None:
    for age in (10, 20, 30):
        saved(tmp_path, f"Chat {age}", age)
    person = Person([*FAKE, "chat", "--resume"], tmp_path)
    person.wait_for("3 of 3")
    person.send("\x1b[B\x04")
    person.wait_for("Ctrl-D again deletes “Chat 20” for good")
    person.send("\x1b[B")
    person.wait_for("3 of 3")
    person.send("\x1b[A\x04\x04")
    person.wait_for("2 of 2")
    assert [path.stem for path in chats(tmp_path)] == ["2026-10", "2026-30"]
    person.send("\x1b")
    assert person.end() == 0


def test_sigterm_in_the_list_restores_the_terminal(tmp_path: Path) -> None:
    saved(tmp_path, "Oslo", 60)
    person = Person([*CHAT, "--resume"], tmp_path)
    person.wait_for("1 of 1")
    person.child.kill(signal.SIGTERM)
    while person.child.isalive():
        person.look(0.05)
    assert termios.tcgetattr(person.child.child_fd)[3] & termios.ECHO
    assert person.end() == 128 + signal.SIGTERM


def test_a_chat_is_deleted_after_a_yes(tmp_path: Path) -> None:
    saved(tmp_path, "Oslo", 60)
    person = start(tmp_path)
    for answer, left in (("n", 1), ("y", 0)):
        person.enter("/delete oslo")
        person.wait_for_count("Delete “Oslo” (1 turn) for good? [y/N]", 2 - left)
        person.enter(answer)
        person.wait_for("was not deleted" if left else "deleted “Oslo” (1 turn)")
        person.wait_for_prompt()
        assert len(chats(tmp_path)) == left
    assert person.leave() == 0
