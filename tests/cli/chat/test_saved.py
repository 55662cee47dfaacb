"""Saved chats: found by name, read in spite of damage, listed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptoss_mlx import errors
from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.cli.chat import saved as sessions
from gptoss_mlx.harmony import Message


def test_chats_are_found_by_a_part_of_their_name_and_by_their_path(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [sessions.new_chat_path() for _ in range(2)]
    for age, path in enumerate(paths):
        path.write_text('{"title": "t", "messages": []}')
        os.utime(path, (1000 - age, 1000 - age))
    assert paths[0].parent.stat().st_mode & 0o777 == 0o700
    assert sessions.find_chat("") == paths[0]
    assert sessions.find_chat(paths[1].stem[-4:]) == paths[1]
    monkeypatch.chdir(home)
    for name in ("saved.json", paths[0].name, paths[1].stem):
        (home / name).write_text("{}")
    assert sessions.find_chat("saved.json") == Path("saved.json")
    assert sessions.find_chat(paths[0].name) == paths[0]
    assert sessions.find_chat(paths[1].stem) == paths[1]
    with pytest.raises(errors.InvalidRequest, match="2 chats"):
        sessions.find_chat("-")


def test_a_chat_that_is_cut_off_keeps_its_readable_turns(home: Path) -> None:
    path = sessions.new_chat_path()
    messages = (Message.user("one"), Message.assistant("two", channel="final"), Message.user("three"))
    chatfile.write(path, chatfile.ChatContent(messages=messages, title="t", date="2026-01-02"))
    whole = path.read_text()
    assert sessions.read_chat(path)[1:] == (path, "")
    for end in range(whole.index('"two"') + 100, len(whole) - 3, 7):
        path.write_text(whole[:end])
        content, saved_as, damage = sessions.read_chat(path)
        assert saved_as != path
        assert content.messages[:2] == messages[:2]
        assert (content.title, content.date) == ("t", "2026-01-02")
        assert "damaged" in damage
        assert sessions.saved_chats()[0].title == "t (damaged; --resume keeps what can be read)"
    path.write_text(whole.replace('"role": "user"', '"role": "nobody"', 1))
    assert sessions.read_chat(path)[0].messages == ()
    for text, says in (
        ("{bad", "(cannot be read"),
        ("{}", "(is not a saved"),
        (whole.replace("1", "9", 1), "(is of format 9"),
    ):
        path.write_text(text)
        assert says in sessions.saved_chats()[0].title
        with pytest.raises(errors.ChatFileError):
            sessions.read_chat(path)


def test_a_list_of_chats_passes_over_what_is_no_file(home: Path) -> None:
    path = sessions.new_chat_path()
    chatfile.write(path, chatfile.ChatContent(messages=(Message.user("one"),), title="t"))
    os.mkfifo(path.with_name("pipe.json"))
    path.with_name("gone.json").symlink_to("nowhere")
    assert [chat.name for chat in sessions.saved_chats()] == [path.stem]
    assert sessions.find_chat("") == path
