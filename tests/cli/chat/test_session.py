"""A chat at a terminal, with pyte as its screen; the model answers as its script says."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from gptoss_mlx.chat.file import read
from gptoss_mlx.cli.chat import saved as sessions
from gptoss_mlx.cli.chat.attachments import Attachment
from gptoss_mlx.cli.chat.loading import Loader
from gptoss_mlx.cli.chat.session import ChatSession
from gptoss_mlx.cli.screen.markdown import render
from gptoss_mlx.cli.screen.spans import plain
from gptoss_mlx.cli.screen.terminal import Terminal
from gptoss_mlx.cli.settings import Settings
from gptoss_mlx.harmony import Message
from gptoss_mlx.hub import models as hub
from tests.cli.fake_gptoss import FakeModel
from tests.cli.program import asked_in, said_by
from tests.cli.pty_session import CHAT, Person, ask, chats, start
from tests.cli.screen.documents import DOCUMENTS


def test_the_scrollback_equals_the_document_rendered_at_once(tmp_path: Path) -> None:
    names = ("headings", "nested lists", "fence in list", "tables", "paragraphs", "cjk")
    document = "\n\n".join(DOCUMENTS[name] for name in names)
    (tmp_path / "x").write_text(document)
    person = start(tmp_path, height=10, GPTOSS_FAKE_DELAY="0.001")
    ask(person, "file x")
    expected = [plain(row).rstrip() for row in render(document, 79)]
    lines = person.lines()
    begin = lines.index("› file x") + 2
    assert lines[begin : begin + len(expected)] == expected
    assert person.leave() == 0


def test_an_interrupt_gives_the_prompt_back_and_keeps_the_chat(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(DOCUMENTS["long fence"])
    person = start(tmp_path, GPTOSS_FAKE_DELAY="0.01")
    questions = (
        ("prefill 100000", "reading"),
        ("think 100000", "step 5"),
        ("file x", "def function_2"),
    )
    for number, (question, shows) in enumerate(questions):
        person.enter(question)
        person.wait_for(shows)
        person.send("\x03")
        person.wait_for_count("interrupted;", number + 1)
        person.wait_for_prompt()
    ask(person, "still here?")
    assert "still here?" in chats(tmp_path)[0].read_text()
    assert person.leave() == 0


def test_a_reply_without_an_answer_shows_the_thinking_and_offers_to_ask_again(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.enter("silent 3")
    person.wait_for("no answer: the model wrote no text (finish_reason: stop); /retry starts again")
    assert "step 0, step 1, step 2 of it" in person.text()
    person.wait_for_prompt()
    person.enter("/retry")
    person.wait_for_count("/retry starts again", 2)
    person.wait_for_prompt()
    person.enter("aside we go")
    person.wait_for_count("aside we go", 2)
    person.wait_for_prompt()
    assert person.text().count("no answer") == 2
    assert person.leave() == 0


def test_an_interrupt_before_the_first_token_leaves_nothing_to_continue(tmp_path: Path) -> None:
    gptoss = [sys.executable, "-m", "gptoss_mlx.cli", "chat", "-m", "demo"]
    person = Person(gptoss, tmp_path, 100, 30)
    person.wait_for_prompt()
    person.send("\x1b[200~" + "what is one and two? " * 3000 + "\x1b[201~")
    person.look(0.5)
    person.send("\r")
    person.wait_for("reading")
    person.send("\x03")
    person.wait_for("interrupted; /retry asks again")
    person.wait_for_prompt()
    assert "tok/s" not in person.text()
    person.enter("/undo")
    person.wait_for("taken back: what is one")
    assert person.leave() == 0


def test_a_resize_leaves_what_was_written_as_it_was(tmp_path: Path) -> None:
    document = "# Only once\n\n" + DOCUMENTS["paragraphs"] + "\n\n## And this\n\n" + DOCUMENTS["nested lists"]
    (tmp_path / "x").write_text(document)
    person = start(tmp_path, width=120, height=30, GPTOSS_FAKE_DELAY="0.005")
    person.enter("file x")
    person.wait_for("Only once")
    person.wait_for("paragraph that wraps")
    written = len(person.written)
    person.resize(40, 30)
    person.wait_for("tok/s", 60)
    person.wait_for_prompt()
    # Rows up to the resize ended in a newline and were never touched; those after it are narrow.
    before, after = settled(person.written[:written]), settled(person.written)
    assert after[: len(before) - 1] == before[: len(before) - 1]
    text = "\n".join(after)
    assert text.count("Only once") == text.count("And this") == 1
    words = " ".join(" ".join(plain(row) for row in render(document, 79)).split())
    assert words in " ".join(text.split())
    assert person.leave() == 0


def settled(written: bytes) -> list[str]:
    """The lines of a byte stream that no later erasure took back."""
    lines = [""]
    text = re.sub(r"\x1b\[(?:[0-9;]*m|\?\d+[hl])", "", written.decode("utf-8", "ignore"))
    for part in re.split(r"(\r\x1b\[(?:\d+A\x1b\[)?J|\r\n)", text):
        if part == "\r\n":
            lines.append("")
        elif part.startswith("\r\x1b"):
            up = re.search(r"(\d+)A", part)
            del lines[len(lines) - 1 - (int(up.group(1)) if up else 0) :]
            lines.append("")
        else:
            lines[-1] += part
    return lines


def cursor_hidden(person: Person) -> bool:
    return bool(person.screen.cursor.hidden)


def test_the_terminal_is_left_as_it_was_found(tmp_path: Path) -> None:
    person = start(tmp_path, GPTOSS_FAKE_DELAY="0.01")
    before = termios.tcgetattr(person.child.child_fd)
    person.enter("think 100000")
    person.wait_for("step 5")
    assert cursor_hidden(person)
    person.send("\x03")
    person.wait_for("interrupted")
    person.wait_for_prompt()
    assert not cursor_hidden(person)
    assert termios.tcgetattr(person.child.child_fd)[3] == before[3]
    assert person.leave() == 0
    assert person.screen.cursor.attrs.fg == "default"
    assert not person.screen.cursor.attrs.bold


def test_ctrl_t_writes_the_thinking_out(tmp_path: Path) -> None:
    person = start(tmp_path, height=40, GPTOSS_FAKE_DELAY="0.02")
    person.enter("think 60")
    person.wait_for("step 9")
    person.send("\x14")
    person.wait_for("tok/s")
    assert "thought for" in person.text()
    assert [line for line in person.lines() if line.startswith("step 0, step 1, step 2 of it")]
    person.wait_for("thoughts: dimmed")
    assert person.leave() == 0


def test_ctrl_t_after_an_answer_unfolds_its_thinking_once(tmp_path: Path) -> None:
    person = start(tmp_path, height=60)
    person.send("\x14")
    person.wait_for("there are no thoughts to show yet")
    ask(person, "think 9")
    assert "step 0" not in person.text()
    person.wait_for("thoughts: folded")
    person.send("half\x14")
    person.wait_for("thoughts on: think 9\nstep 0, step 1, step 2 of it\n")
    person.wait_for("› half")
    person.send("\x14 a question")
    person.wait_for("› half a question")
    assert person.text().count("step 0") == 1
    ask(person, "")
    person.enter("/thinking")
    person.wait_for_count("there are no thoughts to show yet", 2)
    person.wait_for_prompt()
    assert person.leave() == 0


def test_the_line_after_an_answer_is_off_short_or_full(tmp_path: Path) -> None:
    person = start(tmp_path, width=200)
    ask(person, "one")
    assert re.search(r"^\d+\.\d s · [\d,.]+ tok/s$", person.text(), re.MULTILINE)
    person.enter("/stats line full")
    person.wait_for("line after an answer: full")
    person.wait_for_prompt()
    ask(person, "two")
    assert person.text().count("TTFT") == 1
    person.enter("/help")
    person.wait_for("TTFT is the time to the first token")
    person.enter("/stats line off")
    person.wait_for("line after an answer: off")
    person.wait_for_prompt()
    figures = person.text().count("tok/s")
    person.enter("three")
    person.wait_for_count("three", 2)
    person.wait_for_prompt()
    assert person.text().count("tok/s") == figures
    assert person.leave() == 0


def test_what_is_typed_ahead_waits_in_the_prompt(tmp_path: Path) -> None:
    person = start(tmp_path, GPTOSS_FAKE_DELAY="0.02")
    person.enter("/compare think 20")
    person.wait_for("thinking")
    person.send("next question")
    person.wait_for("› next question")
    assert person.text().count("next question") == 1
    person.send("\x03")
    assert person.leave() == 0


@pytest.mark.parametrize("ends", ["by itself", "by Ctrl-C"])
def test_what_is_typed_ahead_means_what_it_means_at_the_prompt(tmp_path: Path, ends: str) -> None:
    """Enter sends a line, Ctrl-J and what is pasted make lines; nothing is sent after Ctrl-C."""
    person = start(tmp_path, height=60, GPTOSS_FAKE_DELAY="0.02")
    person.enter("think 60")
    person.wait_for("thinking")
    person.send("/think show\r/effort low\rone\ntwo\x1b[200~\rthree\x1b[201~")
    person.look(0.2)
    if ends == "by Ctrl-C":
        person.send("\x03")
        person.wait_for("· three")
        assert person.text().count("· ") >= 3
        assert "thoughts: show" not in person.text()
    else:
        person.wait_for("effort low · thoughts: shown")
        person.wait_for("· three")
        ask(person, "")
        (path,) = chats(tmp_path)
        assert [question.text for question in asked_in(path)] == ["think 60", "one\ntwo\nthree"]
    person.send("\x03")
    assert person.leave() == 0


def test_what_is_typed_while_a_model_loads_is_sent_too(tmp_path: Path) -> None:
    person = start(tmp_path, height=40, GPTOSS_FAKE_LOADING="3")
    person.enter("first")
    person.wait_for("loading demo")
    person.send("second\r")
    person.wait_for("second")
    began = time.monotonic()
    while person.text().count("tok/s") < 2:
        assert time.monotonic() - began < 30, person.text()
        person.look(0.05)
    assert person.text().count("second") == 2
    assert person.leave() == 0


def test_a_session_with_the_demo_model_survives_a_kill(tmp_path: Path) -> None:
    gptoss = [sys.executable, "-m", "gptoss_mlx.cli", "chat", "-m", "demo", "--max-tokens", "24", "--seed", "1"]
    person = Person(gptoss, tmp_path, 100, 50)
    person.wait_for_prompt()
    ask(person, "Hello")
    person.enter("/effort low")
    person.wait_for("effort low: the next answer first reads ")
    person.wait_for("effort low ·")
    told = re.search(r"first reads (\d+) tokens of this chat again", person.text())
    person.enter("/trace")
    person.wait_for(" to prefill; ")
    traced = re.search(r"prompt (\d+) tokens: 0 cached, (\d+) to prefill; \d+ dropped", person.text())
    assert told is not None
    assert traced is not None
    assert told[1] == traced[1] == traced[2]
    ask(person, "What is 3+4?")
    ask(person, "/retry high")
    person.wait_for("effort high ·")
    person.enter("/trace")
    person.wait_for("assistant  analysis")
    saved = json.loads(chats(tmp_path)[0].read_text())
    assert (saved["title"], saved["effort"]) == ("Hello", "high")
    person.child.kill(signal.SIGKILL)
    person = Person([*gptoss, "--continue"], tmp_path, 100, 50)
    person.wait_for_prompt()
    person.wait_for("› What is 3+4?")
    person.wait_for("effort high ·")
    person.enter("/undo")
    person.wait_for("taken back: What is 3+4?")
    ask(person, "Thanks")
    assert person.leave() == 0
    (path,) = chats(tmp_path)
    messages = json.loads(path.read_text())["messages"]
    assert [message["content"][0]["text"] for message in messages if message["role"] == "user"] == [
        "Hello",
        "Thanks",
    ]


def test_an_error_of_ours_ends_the_command_and_not_the_chat(tmp_path: Path) -> None:
    person = start(tmp_path)
    person.enter("fail")
    person.wait_for("error: ZeroDivisionError: of the script (this is a bug")
    person.wait_for_prompt()
    ask(person, "still here?")
    assert person.leave() == 0


STARVED = """
from gptoss_mlx.cli import app
from gptoss_mlx.model.transformer import Transformer
forward, steps = Transformer.__call__, []
def starved(self, tokens, *rest, **named):
    steps.append(tokens.shape[1])
    if steps[-1] == 1 and steps.count(1) == 20:
        raise RuntimeError("[METAL] Insufficient Memory")
    return forward(self, tokens, *rest, **named)
Transformer.__call__ = starved
app.main()
"""


def test_an_answer_that_fails_is_saved_as_far_as_it_was_shown_and_can_go_on(tmp_path: Path) -> None:
    person = Person([sys.executable, "-c", STARVED, "chat", "-m", "demo"], tmp_path, 100, 30)
    person.wait_for_prompt()
    person.enter("What is 12+30?")
    person.wait_for("error: the memory ran out")
    person.wait_for_prompt()
    (path,) = chats(tmp_path)
    question, *begun = read(path).messages
    assert question.text == "What is 12+30?"
    assert begun[-1].truncated
    ask(person, "/continue")
    goes_on = read(path).messages[len(begun)].text
    assert goes_on.startswith(begun[-1].text)
    assert len(goes_on) > len(begun[-1].text) > 0
    assert person.leave() == 0


def test_the_prompt_does_not_wait_for_the_model(tmp_path: Path) -> None:
    person = start(tmp_path, GPTOSS_FAKE_LOADING="3")
    person.enter("first question")
    person.wait_for("loading demo")
    person.wait_for("tok/s")
    person.wait_for_prompt()
    assert person.leave() == 0


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    person = Person(CHAT, tmp_path, env={"TERM": "dumb"})
    person.wait_for("›")
    person.enter("**as** it is")
    person.enter("/effort low")
    person.wait_for("effort low")
    assert person.leave() == 0
    assert person.text().count("**as** it is") == 2
    assert b"\x1b" not in person.written


def test_a_setting_that_cannot_be_ends_the_chat_at_once(tmp_path: Path) -> None:
    person = Person([*CHAT, "--temperature", "-1"], tmp_path)
    person.wait_for("error: --temperature is -1.0; ")
    assert person.end() == 2


def test_escapes_in_answers_thinking_and_file_names_are_shown(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m[red]x[/red]"
    (tmp_path / "x").write_text(f"{evil}\n\n```\n{evil}\n```\n")
    person = start(tmp_path)
    ask(person, "file x")
    person.enter("\x1b[200~/file no\x07\x1b]0;owned\x07\x1b[201~")
    person.wait_for("error: no␇␛]0;owned␇: No such file")
    assert "␛]0;owned␇␛[2J<U+009B>31m[red]x[/red]" in person.text()
    assert b"owned\x07" not in person.written
    assert person.leave() == 0


def test_a_kill_at_any_moment_loses_no_finished_turn(tmp_path: Path) -> None:
    """Whenever it dies, the file is whole and holds every turn before the one that is being answered."""
    chooser = random.Random(3)
    for attempt in range(2):
        home = tmp_path / str(attempt)
        home.mkdir()
        environ = {
            **os.environ,
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "GPTOSS_FAKE_DELAY": "0.001",
        }
        process = subprocess.Popen(
            [sys.executable, *CHAT[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            process.stdin.write("".join(f"question {number}\n" for number in range(5000)))
            process.stdin.flush()
            process.stdout.readline()
            time.sleep(chooser.random() * 0.4)
            process.send_signal(signal.SIGKILL)
            begun = process.stdout.read().count("\n") + 1
        # Killed in its first turn, it has saved nothing yet.
        saved = [message for path in chats(home) for message in json.loads(path.read_text())["messages"]]
        questions = sum(message["role"] == "user" for message in saved)
        assert questions >= begun - 1


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


def test_a_title_follows_the_first_question(home: Path) -> None:
    (home / "a.txt").write_text("content")
    for lines, title in (
        (["one", "/undo", "two", "three"], "two"),
        (["one", "/edit two"], "two"),
        (["one", "two", "/edit three"], "one"),
        ([f"/file {home}/a.txt", "one"], "one"),
        (["one", "/undo"], "(no title)"),
    ):
        said_by(*lines, "/stats")
        assert sessions.saved_chats()[0].title == title
        os.utime(sessions.find_chat(""), (0, 0))
    session = ChatSession(Terminal(io.StringIO()), Loader("", {}), Settings(), False)
    given = FakeModel().chat(messages=[Message.user("one")], title="mine")
    session.use_chat(given, home / "given")
    session.edit()
    session.ask("two")
    assert ([turn.text for turn in asked_in(home / "given")], given.title) == (["two"], "mine")


def test_the_line_below_the_prompt_fits_the_window(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ChatSession(Terminal(io.StringIO()), Loader("demo", {}), Settings(), False)
    session.use_chat(FakeModel().chat(), None)
    used = f"1 file attached · {session.chat.context_used:,} of 131,072 tokens"
    session.attachments = [Attachment(name="a", text="b")]
    for width in range(40, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        assert len(session.status()) <= width
        assert session.status().endswith(used)
    assert session.status() == f"demo · effort medium · thoughts: folded · {used}"


def test_an_error_of_a_command_while_the_model_loads_does_not_end_the_chat(tmp_path: Path) -> None:
    person = start(tmp_path, GPTOSS_FAKE_LOADING="3")
    for typed, says in (
        ("/bad", "no such command"),
        ("/file nope", "nope: No such file"),
        ("/undo x", "how many"),
    ):
        person.enter(typed)
        person.wait_for(says)
        person.wait_for_prompt()
    ask(person, "still here?")
    assert person.leave() == 0


def test_an_error_of_loading_ends_the_chat(tmp_path: Path) -> None:
    shutil.copytree(hub.resolve("demo"), tmp_path / "broken")
    (weights,) = (tmp_path / "broken").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    person = Person([sys.executable, "-m", "gptoss_mlx.cli", "chat", "-m", "~/broken"], tmp_path, 100, 30)
    person.wait_for("download it again")
    assert person.end() == 3


def test_a_comparison_that_is_interrupted_says_how_to_start_it_again(tmp_path: Path) -> None:
    person = start(tmp_path, GPTOSS_FAKE_DELAY="0.01")
    ask(person, "first")
    person.enter("/compare think 100000")
    person.wait_for("step 5")
    person.send("\x03")
    person.wait_for("interrupted; /compare starts again")
    person.wait_for_prompt()
    assert "/continue" not in person.text()
    assert person.leave() == 0
