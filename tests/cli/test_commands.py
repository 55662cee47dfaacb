"""What a person does in a chat besides asking, in a pseudo-terminal: clipboard, models, history, editor, paths."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.hub import models as hub
from tests.cli.pty_session import FAKE, Person, ask, chats, start
from tests.hub.fake_hub import serving

GPTOSS = [sys.executable, "-m", "gptoss_mlx.cli"]


def test_copy_puts_the_answer_alone_on_the_terminals_clipboard(tmp_path: Path) -> None:
    answer = "| a | b |\n|---|---|\n| ü | \x1b[31m日本 |\n"
    (tmp_path / "x").write_text(answer)
    person = start(tmp_path, DISPLAY="", WAYLAND_DISPLAY="", PATH="/usr/bin:/bin")
    person.enter("/copy")
    person.wait_for("no answer to copy yet")
    ask(person, "file x")
    person.enter("/copy")
    person.wait_for(f"copied {len(answer)} characters")
    (encoded,) = [part.partition(b"\x07")[0] for part in person.written.split(b"\x1b]52;c;")[1:]]
    assert base64.b64decode(encoded).decode() == answer
    assert person.leave() == 0


def test_copy_prefers_the_systems_own_tool(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "pbcopy"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ncat > {tmp_path}/clipboard\n")
    tool.chmod(0o755)
    person = start(tmp_path, PATH=f"{tool.parent}:/usr/bin:/bin")
    ask(person, "copy me")
    person.enter("/copy")
    person.wait_for("(pbcopy)")
    assert (tmp_path / "clipboard").read_text() == "copy me"
    assert b"\x1b]52" not in person.written
    assert person.leave() == 0


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
    person.wait_for("with the next question")
    ask(person, "well?")
    assert "what it says" in chats(tmp_path)[0].read_text()
    assert person.leave() == 0


def test_words_of_other_programs_are_understood(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.enter("/?")
    person.wait_for("/compare")
    person.enter("/help effort")
    person.wait_for("before all else")
    person.enter("/clear")
    person.wait_for("a new chat")
    person.enter("/bye")
    assert person.end() == 0


@pytest.mark.parametrize("moment", ["at the prompt", "in an answer"])
def test_sigterm_restores_the_terminal_and_keeps_the_chat(tmp_path: Path, moment: str) -> None:
    person = start(tmp_path, GPTOSS_FAKE_DELAY="0.01")
    ask(person, "remember this")
    if moment == "in an answer":
        person.enter("think 100000")
        person.wait_for("step 5")
    else:
        person.send("half a question")
        person.wait_for("half a question")
    assert not echoes(person)
    person.child.kill(signal.SIGTERM)
    while person.child.isalive():
        person.look(0.05)
    assert echoes(person)
    assert person.end() == 128 + signal.SIGTERM
    assert not person.screen.cursor.hidden
    assert person.screen.cursor.attrs.fg == "default"
    assert "remember this" in chats(tmp_path)[0].read_text()


def echoes(person: Person) -> bool:
    """Whether the terminal shows what is typed by itself, as a shell leaves it."""
    return bool(termios.tcgetattr(person.child.child_fd)[3] & termios.ECHO)


def test_an_answer_cut_off_is_continued_by_another_model(tmp_path: Path) -> None:
    shutil.copytree(hub.resolve("demo"), tmp_path / "other")
    person = Person([*GPTOSS, "chat", "-m", "demo", "--max-tokens", "12", "--seed", "1"], tmp_path, 100, 40)
    person.wait_for_prompt()
    ask(person, "Hello")
    person.wait_for("finish_reason: length")
    before = replied(tmp_path)
    ask(person, "/continue")
    assert replied(tmp_path).startswith(before)
    assert len(replied(tmp_path)) > len(before)
    person.enter("/model no/such")
    person.wait_for("error: no/such")
    person.enter("/model ~/other")
    person.wait_for("~/other · effort")  # in the line below the prompt
    person.wait_for_prompt()
    ask(person, "Anybody else?")
    asked = [message["content"][0]["text"] for message in saved(tmp_path) if message["role"] == "user"]
    assert asked == ["Hello", "Anybody else?"]
    assert person.leave() == 0


def saved(home: Path) -> list[dict[str, Any]]:
    """The messages of the only chat there is."""
    (path,) = chats(home)
    messages: list[dict[str, Any]] = json.loads(path.read_text())["messages"]
    return messages


def replied(home: Path) -> str:
    """Everything the model said, thinking included."""
    return "".join(message["content"][0]["text"] for message in saved(home) if message["role"] == "assistant")


def test_a_first_start_downloads_and_converts_if_told_to(tmp_path: Path) -> None:
    with serving("openai/gpt-oss-20b", hub.resolve("demo")) as server:
        env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
        person = Person([*FAKE, "chat"], tmp_path, 100, 40, env)
        person.wait_for("Your choice")
        assert not server.requested
        person.enter("1")
        person.wait_for("next: gptoss chat -m 20b", 120)
        person.wait_for_prompt()
        assert "20b · /help" in person.text()
        assert person.leave() == 0
    assert (tmp_path / "models" / "20b" / "manifest.json").is_file()
