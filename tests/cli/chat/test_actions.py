"""What the slash commands do, in a chat whose lines come from a pipe."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.cli.chat import saved as sessions
from tests.cli.program import asked_in, gptoss, said_by


def test_a_chat_without_a_terminal_reads_lines(home: Path) -> None:
    done = gptoss("chat", "-m", "demo", stdin='hello\n/effort high\n"""\ntwo\nlines\n"""\n//slash\n')
    assert (done.stdout, done.returncode) == ("hello\ntwo\nlines\n/slash\n", 0)
    assert "effort high" in done.stderr
    listed = gptoss("chat", "--list").stdout
    assert listed.count("\n") == 1
    assert "hello" in listed


def test_a_chat_is_forked_exported_compared_and_loaded(user: Path) -> None:
    first = "Hello\n/system Be terse.\n/fork\nWhat is 3+4?\n/retry high\n/effort\n/compare\n/stats\n"
    second = f"/export {user}/x.json\n/new\n/system clear\nThanks\n/save {user}/y\n/load {user}/x.json\n"
    done = gptoss("chat", "-m", "demo", "--max-tokens", "6", stdin=first + second)
    assert done.returncode == 0, done.stderr
    asked = sorted([turn.text for turn in asked_in(path)] for path in sessions.chats_directory().glob("*.json"))
    assert asked == [["Hello"], ["Hello", "What is 3+4?"], ["Thanks"]]
    whole, thanks = chatfile.read(user / "x.json"), chatfile.read(user / "y")
    assert (whole.effort, whole.instructions, whole.title) == ("high", "Be terse.", "Hello (2)")
    assert (thanks.instructions, (user / "y").stat().st_mode & 0o777) == (None, 0o600)
    headings = ["── low ──", "── medium ──", "── high ──"]
    assert [line for line in done.stdout.splitlines() if line.startswith("──")] == headings
    assert "effort high\n" in done.stderr
    assert re.search(r"answers +6\nprompts +[\d,]+ tokens, [\d,]+ of them cached\ngenerated +36 ", done.stderr)
    assert "earlier messages: 1; /history shows them\n› What is 3+4?\n" in done.stdout


def test_a_chat_is_exported_as_markdown(home: Path) -> None:
    assert gptoss("chat", "-m", "demo", stdin=f"**so**\n/export {home}/x.md\n").returncode == 0
    parts = ("# **so**", "*demo, effort medium*", "## Question", "**so**", "## Answer", "**so**")
    assert (home / "x.md").read_text() == "\n\n".join(parts) + "\n"


def test_an_export_holds_the_thinking_folded(home: Path) -> None:
    assert gptoss("chat", "-m", "demo", stdin=f"think 3\n/export {home}/x.md\n").returncode == 0
    text = (home / "x.md").read_text()
    folded = "<details><summary>Thinking</summary>\n\n```\nstep 0, step 1, step 2 of it\n```\n\n</details>"
    assert f"## Question\n\nthink 3\n\n{folded}\n\n## Answer\n\nthink 3\n" in text


def test_a_file_that_a_chat_did_not_write_is_overwritten_only_on_purpose(home: Path) -> None:
    notes, mine = home / "my notes.md", home / "mine"
    notes.write_text("dear")
    for command in ("export", "save"):
        refused = said_by("hello", f"/{command} '{notes}'")
        assert refused == f"error: {notes}: exists; choose another name, or replace it: /{command}! '{notes}'"
        assert said_by("hello", f"/{command} {mine}", "more", f"/{command} {mine}").endswith(f" {mine}")
        assert "exists" in said_by("hello", f"/{command} {mine}")
        assert "exists" in said_by("hello", f"/{command}! {mine}", "/new", f"/{command} {mine}")
    assert notes.read_text() == "dear"
    assert said_by("hello", f"/export! '{notes}'") == f"wrote {notes}"
    assert notes.read_text().startswith("# hello\n")
    assert "/copy!" in said_by("hello", "/copy!")


def test_files_wait_once_and_can_be_taken_back(home: Path) -> None:
    one, two = home / "one.txt", home / "two words.txt"
    one.write_text("first")
    two.write_text("second")
    waiting = (
        "attached to the next question: [one.txt · 1 line], [two words.txt · 1 line]; /file clear removes them"
    )
    twice = (f"/file {one} '{two}'", f"/file {home}/./one.txt".replace("/./", "/x/../"))
    (home / "x").mkdir()
    assert said_by(*twice[:1], twice[0], "/file") == waiting
    assert said_by(*twice, "/file").count("one.txt") == 1
    for ends in ("/file clear", "/new"):
        assert said_by(twice[0], ends, "/file").startswith("no files are attached")
    assert "quote" in said_by("/file 'one")
    assert "quote" in said_by(f"/export {two}")


def test_undo_takes_as_many_turns_back_as_it_is_told(home: Path) -> None:
    assert said_by("one", "two", "three", "/undo 2") == "taken back: 2 turns, back to: two"
    assert [turn.text for turn in asked_in(sessions.find_chat(""))] == ["one"]
    for number, says in (("3", "only 2 turns can"), ("0", "how many"), ("x", "how many"), ("-1", "how many")):
        assert says in said_by("one", "two", f"/undo {number}")
        assert len(asked_in(sessions.find_chat(""))) == 2
        os.utime(sessions.find_chat(""), (0, 0))
    assert "takes no argument" in said_by("one", "/new 2")


def test_commands_are_understood_in_any_case(home: Path) -> None:
    assert said_by("/EFFORT high") == "effort high"
    assert said_by("/Effort HIGH") == "effort high"


def test_an_attached_file_is_shown_by_its_name_and_length(home: Path) -> None:
    (home / "long.py").write_text("".join(f"line {number}\n" for number in range(300)))
    asked = f"/file {home}/long.py\n    indented why?\n"
    done = gptoss("chat", "-m", "demo", stdin=f"{asked}/history\n/undo\n")
    assert "› [long.py · 300 lines]\n·     indented why?\n" in done.stdout
    assert done.stdout.count("line 250\n") == 2  # in the answer, as it came and as /history shows it
    assert done.stderr.splitlines()[-1] == "taken back: indented why?"
    gptoss("chat", "-m", "demo", stdin=asked)
    assert "[long.py · 300 lines]" in gptoss("chat", "-m", "demo", "--resume", stdin="").stdout


def test_a_question_that_is_edited_keeps_its_files(home: Path) -> None:
    for name in ("a", "b"):
        (home / name).write_text(name)
    done = said_by(f"/file {home}/a", "one", f"/file {home}/b", "/edit two", "/file")
    assert done == "attached to the next question: [b · 1 line]; /file clear removes them"
    (message,) = asked_in(sessions.find_chat(""))
    assert message.text == "File a:\n\n```\na\n```\n\ntwo"


def test_load_without_a_name_opens_another_chat(home: Path) -> None:
    assert said_by("one", "/load").startswith("error: no other chat is saved")
    said_by("two", "/stats")
    paths = sessions.saved_chats()
    os.utime(paths[1].path, (0, 0))
    done = gptoss("chat", "-m", "demo", "--resume", stdin="/load\n/save\n")
    assert done.stderr.splitlines()[-1].endswith(f"{paths[1].name}.json")


def test_a_retry_at_another_effort_says_what_is_read_again(user: Path) -> None:
    done = gptoss("chat", "-m", "demo", "--max-tokens", "6", stdin="Hello\n/retry medium\n/retry low\n")
    assert len(re.findall(r"effort low: this answer first reads \d+ tokens of this chat again", done.stderr)) == 1
    assert "effort medium:" not in done.stderr


def test_a_fork_has_a_title_of_its_own_and_every_chat_its_name(home: Path) -> None:
    assert (
        said_by("one", "/fork", "two", "/fork")
        == "this is now “one (3)”; the chat so far stays saved as “one (2)”"
    )
    assert said_by("a", "/fork other") == "this is now “other”; the chat so far stays saved as “a”"
    titles = ["one (3)", "one (2)", "one", "other", "a"]
    assert sorted(chat.title for chat in sessions.saved_chats()) == sorted(titles)
    assert said_by("x", "/rename  My   own ", "y", "/edit z") == "this chat is now called “My own”"
    assert sessions.find_chat("my own") == sessions.find_chat("")
    listed = gptoss("chat", "-m", "demo", stdin="/chats\n").stdout
    assert "now  2 turns  demo  My own\n" in listed


def test_deleting_in_a_script_has_to_be_meant(home: Path) -> None:
    kept = said_by("one", "/delete")
    assert kept == "“one” (1 turn) was not deleted; to delete it unasked: /delete!"
    assert said_by("one", "/delete!") == "deleted “one” (1 turn)"
    assert [chat.title for chat in sessions.saved_chats()] == ["one"]
    assert said_by("/delete! on") == "deleted “one” (1 turn)"
    assert "nothing to delete" in said_by("/delete!")
    (home / "notes.md").write_text("dear")
    assert "no such chat" in said_by(f"/delete! {home}/notes.md")
    assert (home / "notes.md").exists()


def test_a_saved_chat_goes_on_with_its_own_model_or_says_so(home: Path) -> None:
    said_by("one", "/stats")
    (path,) = (chat.path for chat in sessions.saved_chats())
    assert chatfile.read(path).model == "demo"
    done = gptoss("chat", "--continue", stdin="two\n")
    assert (done.returncode, "so far with" in done.stderr) == (0, False)
    path.write_text(path.read_text().replace('"model": "demo"', '"model": "120b"'))
    assert f"--resume {path.stem}" in gptoss("chat", path.stem).stderr
    done = gptoss("chat", "-m", "demo", "-c", "two and", "a half", stdin="three\n")
    assert [question.text for question in asked_in(path)] == ["one", "two", "two and a half", "three"]
    assert "so far with 120b, from now on with demo\n" in done.stderr
    assert chatfile.read(path).model == "demo"


def test_patterns_attach_the_text_files_that_match(home: Path) -> None:
    (home / "src" / "deep").mkdir(parents=True)
    for name in ("a.py", "b.py", "deep/c.py", "deep/d.py", "deep/e.py", "f.txt", ".hidden.py"):
        (home / "src" / name).write_text("one\ntwo")
    (home / "src" / "image.py").write_bytes(b"\xff\xfe\x00")
    attached = "attached to the next question: "
    assert said_by(f"/file {home}/src/*.txt") == f"{attached}[f.txt · 2 lines]; /file clear removes them"
    assert said_by(f"/file {home}/src/**/*.py") == f"{attached}5 files · 10 lines; /file clear removes them"
    done = gptoss("chat", "-m", "demo", stdin=f"/file {home}/src/*.py\n")
    assert "1 file left out, not text or larger than 4 MB\n" in done.stderr
    assert "is a directory; to attach its files" in said_by(f"/file {home}/src")
    assert "no text file matches" in said_by(f"/file {home}/*.md")
    for number in range(201):
        (home / f"{number}.md").touch()
    assert "more than 200 files match" in said_by(f"/file {home}/*.md")


def test_a_script_attaches_no_file_that_a_line_mentions(home: Path) -> None:
    (home / "secret.md").write_text("secret")
    done = gptoss("chat", "-m", "demo", stdin=f"read @{home}/secret.md\n")
    assert done.stdout == f"read @{home}/secret.md\n"


def test_sampling_is_set_in_the_chat(home: Path) -> None:
    assert said_by("/temperature") == "temperature: 1.0"
    assert said_by("/temperature 0.5", "/Temp") == "temperature: 0.5"
    assert said_by("hello", "/max-tokens 9", "/max_tokens") == "max-tokens: 9"
    assert said_by("/seed 3", "/seed clear") == "seed: not set"
    assert "above 2 answers are mostly noise" in gptoss("chat", "-m", "demo", stdin="/temperature 3\n").stderr
    for command, says in (
        ("/top-p 2", "/top-p is 2.0; "),
        ("/top-k many", "/top-k is 'many'; a whole number"),
        ("/min-p -1", "/min-p is -1.0; "),
    ):
        assert said_by(command).startswith(f"error: {says}")
    lines = "/max-tokens 9\nhello you\n/top-k\n/min-p\n"
    done = gptoss("chat", "-m", "demo", "--top-k", "1", "--min-p", "0.1", stdin=lines)
    assert "cut off at 9 tokens (finish_reason: length); /continue goes on" in done.stderr
    assert done.stderr.endswith("top-k: 1\nmin-p: 0.1\n")


def test_code_is_copied_as_it_was_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []

    def copy(text: str, _: object) -> str:
        copied.append(text)
        return "here"

    monkeypatch.setattr("gptoss_mlx.cli.screen.clipboard.copy", copy)
    (home / "x").write_text("Two:\n\n```sh\nmake\n\tdeep\n```\n\n1. or\n\n   ```\n   other\n   ```\n")
    assert said_by("file x", "/copy code") == "copied block 2 of 2, 6 characters (here)"
    assert said_by("file x", "/copy code 1") == "copied block 1 of 2, 11 characters (here)"
    assert copied == ["other\n", "make\n\tdeep\n"]
    assert "which block? 1 to 2" in said_by("file x", "/copy code 3")
    assert "no block of code" in said_by("plain", "/copy code")
    assert "/copy code its code" in said_by("plain", "/copy all")
