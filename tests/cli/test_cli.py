"""The command line without a screen: flags, settings, forms of output, exit codes, what is imported."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

import gptoss_mlx
from gptoss_mlx import errors
from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.chat.chat import Chat
from gptoss_mlx.chat.prompt import TraceEntry
from gptoss_mlx.cli import errors as edge
from gptoss_mlx.cli import models, settings
from gptoss_mlx.cli.app import app
from gptoss_mlx.cli.chat import saved as sessions
from gptoss_mlx.cli.chat.attachments import read_file, with_files
from gptoss_mlx.cli.chat.commands import COMMANDS
from gptoss_mlx.cli.chat.first_start import offers
from gptoss_mlx.cli.chat.help import MORE
from gptoss_mlx.cli.chat.live import TurnView
from gptoss_mlx.cli.chat.loading import Loader
from gptoss_mlx.cli.chat.session import ChatSession
from gptoss_mlx.cli.chat.stats import reply_line
from gptoss_mlx.cli.chat.trace import trace_rows
from gptoss_mlx.cli.screen.spans import DIM, ITALIC, Span, plain
from gptoss_mlx.cli.screen.terminal import Terminal
from gptoss_mlx.cli.settings import Settings
from gptoss_mlx.events import Done, Reply, Text, Thinking, Timings, Usage
from gptoss_mlx.harmony import Message
from gptoss_mlx.hub.models import InstalledModel
from gptoss_mlx.memory.device import DeviceInfo
from tests import ROOT
from tests.cli import fake_gptoss
from tests.cli.pty_session import FAKE


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody who never started the program."""
    for name in [name for name in os.environ if name.startswith("GPTOSS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def home(user: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a model that says what it is told."""
    monkeypatch.setattr(gptoss_mlx, "load", fake_gptoss.load, raising=False)
    return user


@dataclass
class Run:
    """What a run of the program left behind."""

    stdout: str
    stderr: str
    returncode: int


def gptoss(*arguments: str, stdin: str | bytes = "") -> Run:
    """The program in this process: its start-up is not what these tests are about."""
    result = CliRunner().invoke(app, arguments, input=stdin)
    return Run(result.stdout, result.stderr, result.exit_code)


def test_the_answer_alone_is_on_standard_output(home: Path) -> None:
    done = gptoss("run", "-m", "demo", "think", "3")
    assert (done.stdout, done.returncode) == ("think 3\n", 0)
    assert done.stderr == "step 0, step 1, step 2 of it\n"
    assert gptoss("run", "-m", "demo", "--think", "hide", "think 3").stderr == ""


def test_questions_come_from_pipes_and_files_too(home: Path) -> None:
    (home / "a.txt").write_text("content ``` of a")
    done = gptoss("run", "-m", "demo", "-f", str(home / "a.txt"), "why?", stdin="piped\n")
    assert done.stdout == "File a.txt:\n\n````\ncontent ``` of a\n````\n\npiped\n\nwhy?\n"


def test_what_is_piped_is_text(home: Path) -> None:
    for command in ("run", "chat"):
        done = gptoss(command, "-m", "demo", stdin=b"caf\xe9\n")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "error: standard input: is not UTF-8 text" in done.stderr


def test_json_is_one_object_and_jsonl_the_events(home: Path) -> None:
    reply = json.loads(gptoss("run", "-m", "demo", "--json", "think 2").stdout)
    assert (reply["text"], reply["finish_reason"]) == ("think 2", "stop")
    assert gptoss("run", "-m", "demo", "--json", "--effort", "HIGH", "think 2").returncode == 0
    lines = gptoss("run", "-m", "demo", "--jsonl", "think 2").stdout.splitlines()
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds == ["progress", "thinking", "thinking", "text", "done"]


def test_escapes_do_not_pass_a_pipe_either(home: Path) -> None:
    question = "a\x1b]0;t\x07b\x9b31m"
    assert gptoss("run", "-m", "demo", stdin=question).stdout == "a␛]0;t␇b<U+009B>31m\n"
    for form in ("--json", "--jsonl"):
        assert not set("\x1b\x07\x9b") & set(gptoss("run", "-m", "demo", form, stdin=question).stdout)


def test_a_chat_without_a_terminal_reads_lines(home: Path) -> None:
    done = gptoss("chat", "-m", "demo", stdin='hello\n/effort high\n"""\ntwo\nlines\n"""\n//slash\n')
    assert (done.stdout, done.returncode) == ("hello\ntwo\nlines\n/slash\n", 0)
    assert "effort high" in done.stderr
    listed = gptoss("chat", "--list").stdout
    assert listed.count("\n") == 1
    assert "hello" in listed


def test_numbers_are_converted_and_checked(home: Path) -> None:
    numbers = ("--seed", "3", "--temperature", "0.5", "--top-p", "1", "--max-tokens", "9")
    assert gptoss("chat", "-m", "demo", *numbers, stdin="hi\n").stdout == "hi\n"
    for name in ("--seed", "--temperature"):
        done = gptoss("chat", "-m", "demo", name, "x")
        assert (done.returncode, name in done.stderr) == (2, True)


def test_a_chat_is_forked_exported_compared_and_loaded(user: Path) -> None:
    first = "Hello\n/system Be terse.\n/fork\nWhat is 3+4?\n/retry high\n/effort\n/compare\n/stats\n"
    second = f"/export {user}/x.json\n/new\n/system clear\nThanks\n/save {user}/y\n/load {user}/x.json\n"
    done = gptoss("chat", "-m", "demo", "--max-tokens", "6", stdin=first + second)
    assert done.returncode == 0, done.stderr
    asked = sorted([turn.text for turn in asked_in(path)] for path in sessions.chats_directory().glob("*.json"))
    assert asked == [["Hello"], ["Hello", "What is 3+4?"], ["Thanks"]]
    whole, thanks = chatfile.read(user / "x.json"), chatfile.read(user / "y")
    assert (whole.effort, whole.instructions, whole.title) == ("high", "Be terse.", "Hello")
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


def said_by(*commands: str) -> str:
    """The last thing that a chat of these lines says to its user."""
    done = gptoss("chat", "-m", "demo", stdin="".join(f"{command}\n" for command in commands))
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_file_that_a_chat_did_not_write_is_overwritten_only_on_purpose(home: Path) -> None:
    notes, mine = home / "my notes.md", home / "mine"
    notes.write_text("dear")
    for command in ("export", "save"):
        refused = said_by("hello", f"/{command} '{notes}'")
        assert refused == f"error: {notes}: exists; name another, or write over it: /{command}! '{notes}'"
        assert said_by("hello", f"/{command} {mine}", "more", f"/{command} {mine}").endswith(f" {mine}")
        assert "exists" in said_by("hello", f"/{command} {mine}")
        assert "exists" in said_by("hello", f"/{command}! {mine}", "/new", f"/{command} {mine}")
    assert notes.read_text() == "dear"
    assert said_by("hello", f"/export! '{notes}'") == f"wrote {notes}"
    assert notes.read_text().startswith("# hello\n")
    assert "/copy!" in said_by("hello", "/copy!")


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
    given, session = (
        fake_gptoss.FakeChat(),
        ChatSession(Terminal(io.StringIO()), Loader("", {}), Settings(), False),
    )
    given.messages, given.title = (Message.user("one"),), "mine"
    session.use_chat(cast(Chat, given), home / "given")
    session.editing = True
    session.ask("two")
    assert ([turn.text for turn in asked_in(home / "given")], given.title) == (["two"], "mine")


def test_files_wait_once_and_can_be_taken_back(home: Path) -> None:
    one, two = home / "one.txt", home / "two words.txt"
    one.write_text("first")
    two.write_text("second")
    waiting = f"with the next question: {one}, {two}; /file clear leaves them out"
    twice = (f"/file {one} '{two}'", f"/file {home}/./one.txt".replace("/./", "/x/../"))
    (home / "x").mkdir()
    assert said_by(*twice[:1], twice[0], "/file") == waiting
    assert said_by(*twice, "/file").count("one.txt") == 1
    for ends in ("/file clear", "/new"):
        assert said_by(twice[0], ends, "/file").startswith("no files go with the next question")
    assert "quote" in said_by("/file 'one")
    assert "quote" in said_by(f"/export {two}")


def test_a_trace_cuts_no_count_however_narrow_the_window() -> None:
    entries = [
        TraceEntry(message=Message.user("why? " * 9), tokens=105, kept=True, cached=True),
        TraceEntry(message=Message.assistant("so", channel="commentary"), tokens=12_345, kept=False, cached=False),
    ]
    for width in range(10, 100):
        rows = [plain(row) for row in trace_rows(entries, width)]
        assert max(map(len, rows)) <= width
        assert [row.split()[0] for row in rows] == ["105", "12,345"]
    assert plain(trace_rows(entries, None)[1]) == "12,345  dropped  assistant  commentary  so"


def test_the_line_below_the_prompt_fits_the_window(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ChatSession(Terminal(io.StringIO()), Loader("demo", {}), Settings(), False)
    session.use_chat(cast(Chat, fake_gptoss.FakeChat()), None)
    session.attachments = [home]
    whole = "demo · effort medium · thinking collapse · 1 file attached · 42 of 131,072 tokens"
    for width in range(40, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        assert len(session.status()) <= width
        assert session.status().endswith("1 file attached · 42 of 131,072 tokens")
    assert session.status() == whole


def test_undo_takes_as_many_turns_back_as_it_is_told(home: Path) -> None:
    assert said_by("one", "two", "three", "/undo 2") == "taken back: 2 turns, back to: two"
    assert [turn.text for turn in asked_in(sessions.find_chat(""))] == ["one"]
    for number, says in (("3", "only 2 turns can"), ("0", "how many"), ("x", "how many"), ("-1", "how many")):
        assert says in said_by("one", "two", f"/undo {number}")
        assert len(asked_in(sessions.find_chat(""))) == 2
        os.utime(sessions.find_chat(""), (0, 0))
    assert "nothing can follow" in said_by("one", "/copy 2")


def asked_in(path: Path) -> list[Message]:
    """The questions of a saved chat."""
    return [message for message in chatfile.read(path).messages if message.author.role == "user"]


def test_an_answer_follows_a_schema(user: Path) -> None:
    (user / "schema.json").write_text('{"type": "boolean"}')
    done = gptoss("run", "-m", "demo", "-e", "low", "--schema", str(user / "schema.json"), "Is 3 more than 2?")
    assert (done.stdout in ("true\n", "false\n"), done.returncode) == (True, 0)
    (user / "schema.json").write_text('["no object"]')
    done = gptoss("run", "-m", "demo", "--schema", str(user / "schema.json"), "q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = gptoss("run", "-m", "demo", "--schema", str(user / "missing"), "q")
    assert done.stderr == f"error: {user / 'missing'}: No such file or directory\n"


def test_a_cut_answer_says_so_on_standard_error(user: Path) -> None:
    done = gptoss("run", "-m", "demo", "--think", "hide", "--max-tokens", "3", "Hello")
    assert (done.returncode, done.stderr) == (
        0,
        "the answer is cut off (finish_reason: length); --max-tokens sets the limit\n",
    )


def test_thinking_is_shown_as_it_was_asked_for() -> None:
    def shown(think: settings.ThinkMode) -> list[Span]:
        view = TurnView(think)
        for event in (
            Thinking(delta="one\n"),
            Thinking(delta="two"),
            Text(delta="So."),
            Done(reply=Reply(text="")),
        ):
            view.add(event, 79)
        return [span for row in view.rows(79) for span in row if not span.text.startswith("thought for 0.0 s")]

    so = Span("So.")
    assert shown("hide") == shown("collapse") == [so]
    assert shown("dim") == [Span("one", f"{DIM};{ITALIC}"), Span("two", f"{DIM};{ITALIC}"), so]
    assert shown("show") == [Span("one", ITALIC), Span("two", ITALIC), so]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "-m", "nothing-here", "x"), 3, "gptoss convert"),
        (("run", "x"), 3, "--model demo"),
        (("chat",), 3, "--model demo"),
        (("run", "-m", "demo"), 2, "no question"),
        (("run", "-m", "demo", "-e", "huge", "x"), 2, "low, medium, high"),
        (("run", "-m", "demo", "-f", "/no/such\x1b[31m", "x"), 2, "␛[31m"),
        (("run", "-m", "demo", "--json", "--jsonl", "x"), 2, "only one form"),
        (("run", "--nonsense"), 2, "No such option"),
        (("chat", "abc"), 2, "--resume"),
        (("chat", "--resume", "abc"), 1, "--list"),
        (("models", "rm", "demo"), 3, "no converted model"),
        (("info", "/tmp"), 3, "config.json"),
    ],
)
def test_errors_are_one_line_with_a_remedy_and_a_code(
    home: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = gptoss(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    if "--nonsense" not in arguments:
        assert done.stderr.count("\n") == 1


def test_a_closed_pipe_ends_quietly(home: Path) -> None:
    pipe = f"{' '.join(FAKE)} run -m demo --jsonl 'think 20000' | head -1"
    done = subprocess.run(pipe, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_an_interrupt_ends_a_run_with_130(home: Path) -> None:
    with subprocess.Popen(
        [*FAKE, "run", "-m", "demo", "think 100000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "GPTOSS_FAKE_DELAY": "0.01"},
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.read(4) == "step"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(10) == edge.INTERRUPTED
        assert time.monotonic() - began < 3


def test_an_interrupt_while_the_program_is_imported_ends_it_with_130() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
sys.argv = ["gptoss", "--help"]
from gptoss_mlx.cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (edge.INTERRUPTED, "", "")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"gptoss": "gptoss_mlx.cli.__main__:main"}


def test_an_interrupt_while_mlx_is_imported_ends_with_130(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ImportError("Encountered an error while initializing the extension.") from KeyboardInterrupt()

    monkeypatch.setattr(gptoss_mlx, "load", load)
    done = gptoss("run", "-m", "demo", "x")
    assert (done.returncode, done.stderr) == (edge.INTERRUPTED, "")


def test_every_error_has_the_code_that_the_readme_promises() -> None:
    assert edge.exit_code(errors.ConfigError("x")) == 3
    assert edge.exit_code(errors.DownloadError("x")) == 3
    assert edge.exit_code(errors.NotEnoughDisk("x")) == 4
    assert edge.exit_code(errors.FileWriteError("x")) == 4
    assert edge.exit_code(errors.InvalidRequest("x")) == 2
    assert edge.exit_code(KeyboardInterrupt()) == 130
    assert edge.exit_code(ValueError("x")) == 1
    assert "bug" in edge.error_line(ValueError("x"))


def test_a_flag_beats_the_environment_beats_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings.config_path()
    assert path == home / "config" / "gptoss" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('effort = "low"\ntemperature = 1\nthink = "dim"\n')
    monkeypatch.setenv("GPTOSS_EFFORT", "high")
    loaded = settings.load_settings(think="hide", seed=None)
    assert (loaded.effort, loaded.temperature, loaded.think, loaded.top_p) == ("high", 1.0, "hide", 1.0)


@pytest.mark.parametrize("content", ["efort = 1", "effort = 3", "seed = 1.5", "effort = ", 'effort = "huge"'])
def test_a_wrong_setting_is_named(home: Path, content: str) -> None:
    path = settings.config_path()
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(errors.InvalidRequest, match=r"config\.toml"):
        settings.load_settings()


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
        ("{}", "(is no saved"),
        (whole.replace("1", "9", 1), "(is of format 9"),
    ):
        path.write_text(text)
        assert says in sessions.saved_chats()[0].title
        with pytest.raises(errors.ChatFileError):
            sessions.read_chat(path)


def test_only_regular_files_are_opened(home: Path) -> None:
    os.mkfifo(home / "pipe")
    began = time.monotonic()
    for path, says in (("pipe", "not a regular file"), ("", "not a regular file"), ("no/such", "No such file")):
        done = gptoss("run", "-m", "demo", "-f", str(home / path), "q")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    assert time.monotonic() - began < 10
    for text, says in (("/dev/zero", "regular"), ("~nobody-here/x", "no such user"), ("a\0b", "NUL")):
        with pytest.raises(errors.InvalidRequest, match=says):
            read_file(Path(text))


def test_a_list_of_chats_passes_over_what_is_no_file(home: Path) -> None:
    path = sessions.new_chat_path()
    chatfile.write(path, chatfile.ChatContent(messages=(Message.user("one"),), title="t"))
    os.mkfifo(path.with_name("pipe.json"))
    path.with_name("gone.json").symlink_to("nowhere")
    assert [chat.name for chat in sessions.saved_chats()] == [path.stem]
    assert sessions.find_chat("") == path


def test_files_cannot_close_their_own_fence(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text("```\n````")
    assert "`````\n```\n````\n`````" in with_files("q", [path])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.InvalidRequest, match="UTF-8"):
        with_files("q", [path])


def test_every_command_has_help_and_a_handler() -> None:
    wanted = (
        "help effort think system retry edit undo continue file copy save load export new history fork compare"
    )
    assert set(f"{wanted} trace stats model quit".split()) == set(COMMANDS)
    assert all(command.summary for command in COMMANDS.values())
    assert set(MORE) < set(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from gptoss_mlx.cli.app import app
try:
    app(["--help"])
except SystemExit:
    pass
heavy = "mlx mlx_lm transformers numpy huggingface_hub tiktoken prompt_toolkit pydantic".split()
assert not [name for name in heavy if name in sys.modules], [name for name in heavy if name in sys.modules]
assert not [name for name in sys.modules if name.startswith("gptoss_mlx.harmony")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", ["-m demo --effort low", "-m mine", ""])
def test_a_chat_imports_nothing_heavy_before_its_prompt(user: Path, arguments: str) -> None:
    model = user / "models" / "mine"
    model.mkdir(parents=True)
    (model / "manifest.json").touch()
    code = f"""
import sys
from gptoss_mlx.cli import app
from gptoss_mlx.cli.chat import session
def talk(self):
    heavy = "mlx numpy huggingface_hub tiktoken pydantic pydantic_core markdown_it pygments".split()
    assert not [name for name in heavy if name in sys.modules], [name for name in heavy if name in sys.modules]
    return 0
session.ChatSession.talk = talk
sys.argv = "gptoss chat {arguments}".split()
app.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_line_after_an_answer_never_wraps() -> None:
    usage = Usage(prompt_tokens=2100, cached_tokens=1200, completion_tokens=557, reasoning_tokens=312)
    reply = Reply(text="", usage=usage, timings=Timings(first_token=0.43, prefill=1.1, decode=9.6))
    lines = {width: reply_line(reply, 2157, 131072, 13 * 10**9, width) for width in range(10, 200)}
    assert all(0 < len(line) <= width for width, line in lines.items())
    assert lines[140] == (
        "TTFT 0.43 s · prefill 818 tok/s · decode 58 tok/s · thinking 312 + answer 245 tok · 1,200 cached"
        " · context 2,157 of 128k · memory 13.0 GB"
    )
    assert lines[79] == "TTFT 0.43 s · in 818/s · out 58/s · 312+245 · 1.2k cached · 2.2k/128k · 13.0 GB"
    assert lines[39] == "TTFT 0.43 s · in 818/s · out 58/s"


def test_a_first_start_says_what_fits_and_what_would_make_it_fit() -> None:
    def said(memory: int, gpu: int) -> str:
        device = DeviceInfo(name="M", memory_bytes=memory * 10**9, gpu_bytes=gpu * 10**9, is_mac=True)
        return "\n".join(plain(row) for row in offers(device))

    assert said(128, 96).count(" fits") == 2
    tight = said(16, 10)
    assert "iogpu.wired_limit_mb" in tight
    assert tight.count("does not fit") == 2
    assert "13.8 GB to download" in tight
    assert "wired_limit" not in said(8, 5)


def test_columns_of_models_stand_below_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        InstalledModel(
            name=precision,
            path=Path("/path"),
            nbytes=10**9,
            precision=precision,
            last_used=None,
            converted=True,
        )
        for precision in ("q8", "bf16", "a longer one")
    ]
    monkeypatch.setattr(models, "list_models", lambda: listed)
    rows = gptoss("models").stdout.splitlines()
    for column in ("GB", "never used", "/path"):
        assert len({row.index(column) for row in rows}) == 1


def test_info_states_the_known_figures(home: Path) -> None:
    content: dict[str, Any] = json.loads(gptoss("info", "20b", "--json").stdout)
    assert content["parameters"]["total"] == 20_914_757_184
    parts = content["parameters"]
    assert parts["experts"] + parts["attention"] + parts["embedding_and_head"] == parts["total"]
    assert content["precisions"]["bf16"]["weight_bytes"] == 13_761_264_768
    assert "116,829,156,672" in gptoss("info", "120b").stdout
