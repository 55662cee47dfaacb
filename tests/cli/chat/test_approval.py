"""No tool runs without a person's yes or a rule, and a person sees what would run."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.cli.chat.approval import Answer, Approval, Question, Rules, answered, question_rows
from gptoss_mlx.cli.screen.spans import plain, row_width
from gptoss_mlx.cli.settings import Settings, load_settings
from gptoss_mlx.events import ToolCall
from gptoss_mlx.tools.tool import Tool
from tests.cli.program import gptoss
from tests.cli.pty_session import Person, start
from tests.tools.test_mcp import entry


@pytest.fixture
def servers(home: Path) -> str:
    """A file with two servers."""
    path = home / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"box": entry(), "evil": entry("hostile")}}))
    return str(path)


@pytest.mark.parametrize(
    ("rules", "decision"),
    [
        (Rules(), None),
        (Rules(allow=("files.read",)), "allow"),
        (Rules(allow=("files.*",)), "allow"),
        (Rules(allow=("*",), ask=("files.*",)), "ask"),
        (Rules(allow=("*",), ask=("*",), deny=("*.read",)), "deny"),
        (Rules(allow=("files",)), None),
        (Rules(allow=("FILES.READ",)), None),
        (Rules(deny=("git.*",)), None),
    ],
)
def test_deny_goes_before_ask_before_allow(rules: Rules, decision: str | None) -> None:
    assert rules.decision("files.read") == decision


def tool(name: str = "files.read") -> Tool:
    return Tool(name=name.replace(".", "_").replace("*", "any"), declared_name=name)


def approval(*tools: Tool, **rules: Any) -> Approval:
    by_name = {made.recipient: made for made in tools}
    return Approval(Settings(**rules), lambda call: by_name.get(call.name), lambda name: False)


def call(name: str = "files_read", arguments: str = "{}") -> ToolCall:
    return ToolCall(name=f"functions.{name}", arguments=arguments)


def test_where_nobody_can_be_asked_only_rules_allow() -> None:
    decides = approval(tool(), tool("files.write"), allow=("files.read",), ask=("git.*",))
    assert decides(call()) is None
    assert "no rule allows files.write" in str(decides(call("files_write")))
    assert decides.remedies == ["not run: no rule allows files.write; --allow files.write does"]
    assert decides(call("unknown")) is None  # the toolbox answers it


def test_a_rule_of_the_settings_beats_a_yes() -> None:
    decides = approval(tool(), deny=("files.*",))
    with decides.asks(lambda question: question.answer(Answer(runs=True))):
        assert "denies files.read" in str(decides(call()))


def test_a_yes_holds_as_long_as_it_says(user: Path) -> None:
    asked: list[str] = []
    answers = [Answer(runs=True), Answer(runs=True, kept="chat"), Answer(runs=True, kept="always")]

    def post(question: Question) -> None:
        asked.append(question.tool.declared_name)
        question.answer(answers.pop(0))

    odd = tool("evil.*")
    decides = approval(tool(), odd)
    with decides.asks(post):
        assert [decides(call()) for _ in range(4)] == [None] * 4
        assert asked == ["files.read"] * 2
        decides.forget_chat()
        assert decides(call("evil_any")) is None
        assert asked == ["files.read", "files.read", "evil.*"]
    # The name of a tool is no pattern in a rule.
    rules = Rules.of(load_settings())
    assert rules.decision("evil.*") == "allow"
    assert rules.decision("evil.other") is None


def test_a_no_and_its_word_reach_the_model() -> None:
    decides = approval(tool())
    with decides.asks(lambda question: question.answer(Answer(runs=False, word="use /tmp"))):
        assert decides(call()) == "Not run: the user said no to this call. The user says: use /tmp"


def test_a_question_that_nobody_answers_any_more_is_a_no() -> None:
    decides, results = approval(tool()), list[Any]()
    posted = threading.Event()
    with decides.asks(lambda question: posted.set()):
        thread = threading.Thread(target=lambda: results.append(decides(call())))
        thread.start()
        assert posted.wait(5)
    thread.join(5)
    assert "said no" in results[0]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("o", Answer(runs=True)),
        (" Once ", Answer(runs=True)),
        ("c", Answer(runs=True, kept="chat")),
        ("a", Answer(runs=True, kept="always")),
        ("", Answer(runs=False)),
        ("n", Answer(runs=False)),
        ("w use /tmp", Answer(runs=False, word="use /tmp")),
        ("anyway", Answer(runs=False, word="anyway")),
        ("s", None),
    ],
)
def test_only_a_whole_word_is_a_yes(typed: str, answer: Answer | None) -> None:
    assert answered(typed) == answer


def shown(arguments: str, *, width: int = 60, whole: bool = False) -> list[str]:
    question = Question(tool=tool(), arguments=arguments, reads_only=True)
    rows = question_rows(question, width, whole=whole)
    assert all(row_width(row) <= width for row in rows)
    return [plain(row) for row in rows]


def test_arguments_are_readable_and_nothing_in_them_is_hidden() -> None:
    text = json.dumps({"path": "a\u202eb\x1b[2J", "text": "one\ntwo\u200b", "n": 1})
    rows = shown(text)
    assert rows[0] == "files.read wants to run; its server says that it only reads"
    assert rows[2:4] == ["  text:", "  │ one"]
    assert rows[5] == "  n: 1"
    assert not {"\u202e", "\x1b", "\u200b"} & set("".join(rows))
    assert rows[4] != "  │ two"


def test_arguments_that_could_be_read_in_two_ways_are_shown_as_they_are() -> None:
    assert shown('{"a": 1, "a": 2}')[1] == '  {"a": 1, "a": 2}'


def test_long_arguments_are_folded_and_shown_when_asked_for() -> None:
    text = json.dumps({"text": "\n".join(map(str, range(100)))})
    rows = shown(text)
    assert len(rows) == 14
    assert any("more rows; s shows them" in row for row in rows)
    assert rows[-1] == "  │ 99"
    assert len(shown(text, whole=True)) == 102


def approve(person: Person, answer: str) -> None:
    person.wait_for("no with a [w]ord:")
    person.enter(answer)


def test_a_call_is_approved_by_hand(servers: str, home: Path) -> None:
    person = start(home, GPTOSS_MCP=servers)
    person.enter('call box_echo {"text": "hello"}')
    person.wait_for("box.echo wants to run; its server says that it only reads")
    assert 'text: "hello"' in person.text()
    assert "It says" not in person.text()
    approve(person, "o")
    person.wait_for("It says: hello")
    person.wait_for_prompt()
    person.enter('call box_echo {"text": "again"}')
    person.wait_for_count("wants to run", 2)
    person.wait_for_count("no with a [w]ord:", 2)
    person.enter("w say please")
    person.wait_for("The user says: say please")
    person.wait_for_prompt()
    assert person.leave() == 0


def test_ctrl_c_at_a_question_stops_the_answer(servers: str, home: Path) -> None:
    person = start(home, GPTOSS_MCP=servers)
    person.enter('call box_echo {"text": "hello"}')
    person.wait_for("no with a [w]ord:")
    person.send("\x03")
    person.wait_for_prompt()
    assert "It says" not in person.text()
    person.enter("Still there?")
    person.wait_for_count("Still there?", 2)
    person.wait_for_prompt()
    assert person.leave() == 0


def test_keys_typed_before_a_question_are_no_answer_to_it(servers: str, home: Path) -> None:
    person = start(home, GPTOSS_MCP=servers, GPTOSS_FAKE_DELAY="0.3")
    person.send('call box_echo {"text": "hello"}\ra\r')
    person.wait_for("wants to run")
    person.look(0.5)
    assert "It says" not in person.text()
    approve(person, "n")
    person.wait_for("the user said no")


def test_a_call_is_shown_with_its_time_and_its_result_is_folded(servers: str, home: Path) -> None:
    text = json.dumps({"text": "".join(f"line {number}\n" for number in range(50))})
    person = start(home, GPTOSS_MCP=servers, GPTOSS_ALLOW="box.*")
    person.enter(f"call box_echo {text}")
    person.wait_for("50 lines")
    person.wait_for_prompt()
    before = person.text().partition("It says")[0]
    assert "← line 0" in before
    assert "← line 1" not in before
    person.send("\x14")
    person.wait_for("… 40 more lines")
    assert "→ functions.box_echo" in person.text()
    person.enter('call box_wait {"number": 60}')
    person.wait_for("running box_wait 1 s")
    person.send("/stop\r")
    person.wait_for("interrupted")
    person.wait_for_prompt()
    assert "/stop" not in person.text()
    assert person.leave() == 0


def test_the_time_for_calls_ends_and_a_person_may_take_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    decides = approval(tool(), tool("files.write"), allow=("files.read",), tool_seconds=10)
    decides.begin()
    assert decides(call()) is None

    def slowly(question: Question) -> None:
        now[0] += 100
        question.answer(Answer(runs=True))

    with decides.asks(slowly):
        assert decides(call("files_write")) is None
    assert decides(call()) is None
    now[0] += 11
    assert "the 10 s for calls in this answer are used up" in str(decides(call()))
    decides.begin()
    assert decides(call()) is None


def test_the_steps_of_an_answer_end(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_MAX_STEPS", "1")
    script = 'call box_echo {"text": "hi"}\n/continue\n'
    done = gptoss("chat", "-m", "demo", "--mcp", servers, "--allow", "*", stdin=script)
    assert "the steps for calls of tools are used up" in done.stderr
    assert "It says: hi" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said", "code"),
    [
        ((), "It says: Not run: no rule allows box.echo", 0),
        (("--allow", "box.*"), "It says: hi", 0),
    ],
)
def test_run_calls_what_a_rule_allows_and_nothing_else(
    flags: tuple[str, ...], said: str, code: int, servers: str
) -> None:
    question = 'call box_echo {"text": "hi"}'
    done = gptoss("run", question, "-m", "demo", "--mcp", servers, *flags)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout
    remedy = done.stderr.rpartition("not run: no rule allows box.echo; ")[2].removesuffix(" does\n")
    if not flags:
        again = gptoss("run", question, "-m", "demo", "--mcp", servers, *remedy.split())
        assert "It says: hi" in again.stdout


def test_a_rule_that_asks_refuses_where_nobody_is(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_ASK", "box.echo")
    done = gptoss("run", 'call box_echo {"text": "hi"}', "-m", "demo", "--mcp", servers, "--allow", "*")
    assert "It says: Not run" in done.stdout
    assert "a rule asks before box.echo; gptoss chat asks" in done.stderr


def test_jsonl_has_an_event_for_each_call_and_result(servers: str) -> None:
    done = gptoss(
        "run", 'call box_echo {"text": "hi"}', "-m", "demo", "--mcp", servers, "--allow", "box.echo", "--jsonl"
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"type": "tool_call", "name": "functions.box_echo", "arguments": '{"text": "hi"}'} in events
    assert {"type": "tool_result", "name": "functions.box_echo", "output": "hi", "error": False} in events


def test_a_file_that_cannot_be_read_is_one_line(home: Path) -> None:
    done = gptoss("run", "Hi", "-m", "demo", "--mcp", str(home / "none.json"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none.json" in done.stderr


def test_the_servers_are_listed_turned_off_and_on(servers: str) -> None:
    script = "/mcp\n/mcp off box\n/mcp on box\n/mcp reload\n/mcp log box\n"
    done = gptoss("chat", "-m", "demo", "--mcp", servers, stdin=script)
    assert done.returncode == 0, done.stderr
    assert "box  12 tools" in done.stderr
    assert "box  off" in done.stderr
    assert "echo (only reads, it says)" in done.stderr
    assert "\x1b" not in done.stderr
    assert "box wrote nothing" in done.stderr
    for line in ("/mcp off nobody", "/mcp dance"):
        assert gptoss("chat", "-m", "demo", "--mcp", servers, stdin=line).returncode == 2
    assert "gptoss chat --mcp FILE" in gptoss("chat", "-m", "demo", stdin="/mcp").stderr
