"""The prompt: several lines, blocks, pastes, history, completion, the editor."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from gptoss_mlx.cli.chat.commands import Commands
from gptoss_mlx.cli.chat.input import CommandCompleter, in_block
from gptoss_mlx.cli.chat.loading import Loader
from gptoss_mlx.cli.chat.session import ChatSession
from gptoss_mlx.cli.screen.terminal import Terminal
from gptoss_mlx.cli.settings import Settings
from tests.cli.pty_session import ask, chats, start


def test_ctrl_r_finds_what_was_asked_in_an_earlier_session(tmp_path: Path) -> None:
    person = start(tmp_path)
    ask(person, "the needle in the stack")
    ask(person, "hay")
    assert person.leave() == 0
    history = tmp_path / "data" / "gptoss" / "history"
    assert history.stat().st_mode & 0o777 == 0o600
    person = start(tmp_path)
    person.send("\x12")
    person.wait_for("I-search backward")
    person.send("needle")
    person.wait_for("› the needle in the stack")
    person.send("\r")  # takes what was found
    person.wait_for_prompt()
    ask(person, "\x05?")  # at the end of the line
    assert "the needle in the stack?" in chats(tmp_path)[-1].read_text()
    person.send("\x12")
    person.wait_for("I-search backward")
    person.send("\x03")  # leaves the search, not the chat
    person.wait_for_prompt()
    assert person.leave() == 0


def test_ctrl_x_ctrl_e_opens_the_editor(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ntest "$(cat "$1")" = "half" && printf "first\\nsecond" > "$1"\n')
    editor.chmod(0o755)
    person = start(tmp_path, VISUAL="", EDITOR=str(editor))
    person.send("half")
    person.wait_for("› half")
    person.send("\x18\x05")
    person.wait_for("second")
    ask(person, "")
    (message, _) = json.loads(chats(tmp_path)[0].read_text())["messages"]
    assert message["content"][0]["text"] == "first\nsecond"
    assert person.leave() == 0


def test_what_is_pasted_or_edited_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.send("\x1b[200~a\u202eb\x9b31mc\x1b]0;owned\x07d\u2066e\x1b[201~")
    person.wait_for("›")
    ask(person, "!")
    text = "a\u202eb\x9b31mc\x1b]0;owned\x07d\u2066e!"
    assert json.dumps(text, ensure_ascii=False) in chats(tmp_path)[0].read_text()
    person.enter("/edit")
    person.wait_for("editing the last question")
    assert not {"\u202e", "\u2066", "\x9b", "\x07"} & set(person.written.decode())
    assert person.text().count("a\ufffdb\ufffd31mc␛]0;owned␇d\ufffde!") == 2
    person.send("\x03")
    person.wait_for("no longer editing; the last question stays as it was")
    person.wait_for_prompt()
    ask(person, "another")
    asked = [message["content"][0]["text"] for message in saved(tmp_path) if message["role"] == "user"]
    assert asked == [text, "another"]
    assert person.leave() == 0


def test_paths_are_completed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "no tes.txt").write_text("what it says")
    person = start(tmp_path, width=200)
    person.send(f"/file {tmp_path}/fol")
    person.wait_for("folder/")  # in the menu
    person.send("\t")
    person.wait_for(f"{tmp_path}/folder")
    person.send("/no")
    person.wait_for("no tes.txt")
    person.send("\t")
    person.wait_for("/folder/no\\ tes.txt")
    person.send("\r")
    person.wait_for("attached to the next question")
    ask(person, "well?")
    assert "what it says" in chats(tmp_path)[0].read_text()
    assert person.leave() == 0


def saved(home: Path) -> list[dict[str, Any]]:
    """The messages of the only chat there is."""
    (path,) = chats(home)
    messages: list[dict[str, Any]] = json.loads(path.read_text())["messages"]
    return messages


def test_lines_blocks_and_pastes_arrive_whole(tmp_path: Path) -> None:
    person = start(tmp_path)
    ask(person, "one\ntwo\x1b\rthree\x1b[13;2ufour")
    ask(person, '"""\rblock\rof lines\r"""')
    pasted = "".join(f"line {number} of what was pasted\n" for number in range(350))[:10_000]
    person.send(f"\x1b[200~{pasted}\x1b[201~")
    person.wait_for("[pasted 1 · 3")
    ask(person, "")
    assert "line 300 of what was pasted" not in person.text().partition("tok/s\n\n› [pasted")[0]
    messages = json.loads(chats(tmp_path)[0].read_text())["messages"]
    texts = [message["content"][0]["text"] for message in messages if message["role"] == "user"]
    assert texts[0] == "one\ntwo\nthree\nfour"
    assert texts[1] == "block\nof lines"
    assert texts[2].strip() == pasted.strip()
    assert person.leave() == 0


def test_ctrl_c_clears_the_line_and_twice_leaves(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.send("half a question")
    person.wait_for("half a question")
    person.send("\x03")
    while "half a question" in person.text():
        person.look(0.05)
    person.send("\x03")
    person.wait_for("again")
    person.send("\x03")
    assert person.end() == 130


def test_pasted_tabs_are_shown_as_spaces_and_sent_as_tabs(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.send("\x1b[200~if x:\n\tgo()\x1b[201~")
    person.wait_for("    go()")
    assert "^I" not in person.text()
    ask(person, "")
    (message, _) = saved(tmp_path)
    assert message["content"][0]["text"] == "if x:\n\tgo()"
    assert person.leave() == 0


def test_three_quotes_hold_enter_back_only_at_the_start_and_say_so(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.send('\x1b[200~x = """a doc\x1b[201~')
    person.wait_for("a doc")
    ask(person, "")
    person.enter('"""one')
    person.wait_for("Enter starts a new line until")
    person.enter("two")
    ask(person, '"""')
    texts = [message["content"][0]["text"] for message in saved(tmp_path) if message["role"] == "user"]
    assert texts == ['x = """a doc', "one\ntwo"]
    assert person.leave() == 0


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ('"""', True),
        ('  """a', True),
        ('"""a"""', False),
        ('"""a"""b', False),
        ('a"""', False),
        ('a """ b', False),
        ("", False),
    ],
)
def test_a_block_begins_with_three_quotes_and_ends_with_the_next(text: str, opened: bool) -> None:
    assert in_block(text) is opened


def test_hidden_files_are_completed_only_if_asked_for(tmp_path: Path) -> None:
    for name in (".hidden", "seen", "Seen too"):
        (tmp_path / name).touch()
    session = ChatSession(Terminal(io.StringIO()), Loader("", {}), Settings(), interactive=False)
    completer = CommandCompleter(Commands(session))

    def completed(line: str) -> list[str]:
        return [found.text for found in completer.get_completions(Document(line), CompleteEvent())]

    assert completed(f"/file {tmp_path}/") == ["Seen\\ too", "seen"]
    assert completed(f"/FILE {tmp_path}/.") == ["hidden"]
    assert completed("/EFF") == ["/effort"]
    assert completed("/effort H") == ["high"]


def test_a_long_paste_is_folded_to_a_sign_and_sent_in_full(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ngrep -q "row 12" "$1" && printf "edited" > "$1"\n')
    editor.chmod(0o755)
    person = start(tmp_path, width=100, VISUAL="", EDITOR=str(editor))
    long, wide = "".join(f"row {number}\n" for number in range(20)), "word " * 300
    person.send(f"why \x1b[200~{long}\x1b[201~\x1b[200~{wide}\x1b[201~")
    person.wait_for("› why [pasted 1 · 20 lines][pasted 2 · 1,500 characters]")
    person.send("\x7f so?")
    person.wait_for("› why [pasted 1 · 20 lines] so?")
    ask(person, "")
    (question, _) = saved(tmp_path)
    assert question["content"][0]["text"] == f"why {long} so?"
    person.send("\x1b[A")  # from the history, where it is folded still
    person.wait_for_count("› why [pasted 1 · 20 lines] so?", 2)
    person.send("\x18\x05")
    person.wait_for("› edited")
    person.send("\x03")
    assert person.leave() == 0
    assert "row 12" in (tmp_path / "data" / "gptoss" / "history").read_text()


def test_a_file_is_attached_by_its_name_in_the_question(tmp_path: Path) -> None:
    (tmp_path / "my notes.md").write_text("what it says")
    (tmp_path / "other.md").write_text("what nobody asked for")
    person = start(tmp_path, width=200)
    person.send(f"sum up @{tmp_path}/my")
    person.wait_for("my notes.md")  # in the menu
    person.send("\t")
    person.wait_for("my\\ notes.md")
    person.send(f"\x1b[200~@{tmp_path}/other.md\n{'@app.get' * 200}\x1b[201~")
    person.wait_for("[pasted 1 ·")
    ask(person, ", @no/such and @me")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    person.enter(f"and @{tmp_path}/image.png, @~nobody/x?")
    person.wait_for("is not UTF-8 text")
    person.wait_for_count("image.png, @~nobody/x?", 2)  # in the prompt again
    person.send("\x03")
    assert "attached: [my notes.md · 1 line]" in person.text()
    assert "@no/such: no such file; sent as text" in person.text()
    text = saved(tmp_path)[0]["content"][0]["text"]
    assert text.startswith("File my notes.md:\n\n```\nwhat it says\n```\n\nsum up @")
    assert text.endswith(", @no/such and @me")
    assert "what nobody asked for" not in text
    assert person.text().count("sent as text") == 1
    assert person.leave() == 0
