"""Slash commands at a terminal."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from gptoss_mlx.cli.chat.commands import COMMANDS
from gptoss_mlx.hub import models as hub
from tests.cli.pty_session import Person, ask, chats, start


def test_every_command_has_help_and_a_handler() -> None:
    sampling = "temperature top-p top-k min-p seed max-tokens"
    answers = "effort think thinking system retry edit undo continue file copy compare trace stats model"
    conversations = "new chats load history fork rename delete save export"
    assert set(f"{sampling} {answers} {conversations} mcp stop help quit".split()) == set(COMMANDS)
    assert all(command.summary for command in COMMANDS.values())


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


def test_words_of_other_programs_are_understood(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.enter("/?")
    person.wait_for("/compare")
    person.enter("/help effort")
    person.wait_for("at the very start")
    person.enter("/clear")
    person.wait_for("a new chat")
    person.enter("/bye")
    assert person.end() == 0


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


def test_commands_are_suggested_and_completed(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.enter("/efort high")
    person.wait_for("did you mean /effort?")
    person.wait_for_prompt()
    person.send("/hist")
    person.wait_for("Show the chat so far")
    person.send("\t")
    person.wait_for("› /history")
    person.send("\x03")
    assert person.leave() == 0


def test_edit_puts_the_question_without_its_file_into_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("".join(f"content {number}\n" for number in range(300)))
    person = start(tmp_path, height=400)
    person.enter("/file ~/long.py")
    person.wait_for("[long.py · 300 lines]")
    ask(person, "why?")
    person.enter("/edit")
    person.wait_for("[long.py · 300 lines] stays attached")
    person.wait_for("› why?")
    person.send("\x03")
    person.wait_for("no longer editing")
    person.enter("/edit")
    person.wait_for_count("stays attached", 2)
    ask(person, " not?")
    (question, _) = saved(tmp_path)
    assert question["content"][0]["text"].startswith("File long.py:\n\n```\ncontent 0\n")
    assert question["content"][0]["text"].endswith("content 299\n```\n\nwhy? not?")
    assert person.leave() == 0
