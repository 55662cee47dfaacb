"""The built-in tool ``python``: rendered as it was trained, and a chat goes on whatever its code does."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai_harmony as oracle  # type: ignore[import-untyped]
import pytest

from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.events import Thinking, ToolResult
from gptoss_mlx.harmony import Message
from gptoss_mlx.tools.python import RECIPES, Interpreter, python_tool
from gptoss_mlx.tools.python import interpreter as running
from tests.chat.scripted import ScriptedModel
from tests.harmony.fixtures import oracle as encoding

HERE = shlex.quote(sys.executable)
BWRAP = RECIPES[1]
ANSWER = "<|channel|>final<|message|>Done.<|return|>"
needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None
    or not Path("/usr/bin/python3").exists()
    or subprocess.run([*shlex.split(BWRAP)[:-1], "true"], capture_output=True, check=False, env={}).returncode
    != 0,
    reason="bubblewrap cannot run here",
)


def cell(code: str, channel: str = "analysis") -> str:
    """A model's turn that executes code."""
    return f" to=python<|channel|>{channel} code<|message|>{code}<|call|>"


@pytest.fixture
def interpreter() -> Iterator[Interpreter]:
    made = Interpreter([sys.executable], seconds=60)
    yield made
    made.kill()


def test_what_is_preloaded_for_mlx_is_not_for_the_command(
    interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libm.so.6")
    assert interpreter.execute("import os; print(os.environ.get('LD_PRELOAD'))").text == "None\n"


def outputs(command: str, directory: Path, *cells: str, seconds: float = 60) -> list[str]:
    """What the cells of a chat put out, which goes on to its answer."""
    model = ScriptedModel(*map(cell, cells), ANSWER)
    with python_tool(command, directory, seconds=seconds) as tool:
        chat = model.chat(tools=[tool], max_steps=len(cells) + 1)
        with chat.stream("Go") as stream:
            results = [event for event in stream if isinstance(event, ToolResult)]
    assert stream.reply.text == "Done."
    return [result.output for result in results]


def test_a_chain_equals_openais_rendering_token_for_token(tmp_path: Path) -> None:
    model = ScriptedModel(
        "<|channel|>analysis<|message|>I compute.<|end|><|start|>assistant" + cell("1+1"),
        cell("print(2)", "commentary"),
        ANSWER,
    )
    with python_tool(HERE, tmp_path) as tool:
        model.chat(tools=[tool], effort="medium", date="2026-11-26").send("What is 1+1?")
    system = oracle.SystemContent.new().with_conversation_start_date("2026-11-26").with_python_tool()

    def call(code: str, channel: str) -> Any:
        message = oracle.Message.from_role_and_content(oracle.Role.ASSISTANT, code)
        return message.with_channel(channel).with_recipient("python").with_content_type("code")

    def result(text: str, channel: str) -> Any:
        # As openai/gpt-oss's PythonTool makes it.
        author = oracle.Author(role=oracle.Role.TOOL, name="python")
        return (
            oracle.Message.from_author_and_content(author, text).with_channel(channel).with_recipient("assistant")
        )

    messages = [
        oracle.Message.from_role_and_content(oracle.Role.SYSTEM, system),
        oracle.Message.from_role_and_content(oracle.Role.USER, "What is 1+1?"),
        oracle.Message.from_role_and_content(oracle.Role.ASSISTANT, "I compute.").with_channel("analysis"),
        call("1+1", "analysis"),
        result("2", "analysis"),
        call("print(2)", "commentary"),
        result("2", "commentary"),
    ]
    for prompt, length in zip(model.prompts, (2, 5, 7), strict=True):
        conversation = oracle.Conversation.from_messages(messages[:length])
        assert prompt == encoding().render_conversation_for_completion(conversation, oracle.Role.ASSISTANT)


def test_state_is_kept_and_the_last_value_shown(tmp_path: Path) -> None:
    assert outputs(
        HERE, tmp_path, "x = 20", "x += 1\nx * 2", "print(x)\nNone", "def f(a):\n    return a + x\nf(1)", "_"
    ) == ["", "42", "21", "22", "22"]


def test_whatever_a_cell_does_the_chat_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_INTERRUPT_SECONDS", 0.3)
    stubborn = "while True:\n    try:\n        import time; time.sleep(60)\n    except BaseException: pass"
    cells = ["x = 1", "1/0", "x", "import time; time.sleep(60)", "x", stubborn, "x", "import os; os._exit(3)", "5"]
    found = outputs(HERE, tmp_path, *cells, seconds=0.5)
    assert found[1].splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "gptoss" not in found[1]
    assert found[2] == "1"
    assert found[3].endswith("[The cell timed out after 0.5 seconds.]")
    assert found[4] == "1"
    assert "variables are lost" in found[5]
    assert "NameError" in found[6]
    assert "[The interpreter died." in found[7]
    assert found[8] == "5"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("def f(:", "SyntaxError"),
        ("input()", "EOFError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import subprocess; _ = subprocess.run(['echo', 'from a process'])", "from a process"),
        ("import sys; print('to err', file=sys.stderr)", "to err"),
        ("print('é', chr(0xD800))", "é ?"),
        ("print(__name__)", "__main__"),
        ("", ""),
    ],
)
def test_what_a_cell_writes_is_its_output(code: str, shown: str, interpreter: Interpreter) -> None:
    assert shown in interpreter.execute(code).text


def test_long_output_is_kept_at_both_ends(interpreter: Interpreter) -> None:
    text = interpreter.execute("print('a' + 'z' * 20_000_000 + 'b')").text
    assert len(text) < 3.1 * 2**20
    assert (text[0], text.rstrip()[-1]) == ("a", "b")
    assert "bytes are left out here" in text
    assert interpreter.execute("7").text == "7\n"


def test_figures_are_files_that_the_output_names(tmp_path: Path) -> None:
    png = "b'\\x89PNG\\r\\n\\x1a\\n' + b'0' * 10"
    fake = f"""
import sys, types
class Figure:
    def savefig(self, file, format): file.write({png})
plt = types.ModuleType('matplotlib.pyplot')
plt.get_fignums = lambda: range(20)
plt.figure = lambda number: Figure()
plt.close = lambda which: None
sys.modules['matplotlib.pyplot'] = plt
"""
    (output,) = outputs(HERE, tmp_path / "figures", fake)
    names = [line.removeprefix("[figure saved as ").removesuffix("]") for line in output.splitlines()]
    assert len(names) == 16
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in names)


@pytest.mark.parametrize(
    "frame", [b"O 99999999999\n", b"Q 1\nx", b"O -1\n", b"O x\n", b"\xff" * 100, b"F 99999999\n", b"O 5\nab"]
)
def test_a_driver_that_lies_is_ended(frame: bytes, interpreter: Interpreter) -> None:
    tries = f"    try: os.write(fd, {frame!r})\n    except OSError: pass"
    code = f"import os\nfor fd in range(3, 20):\n{tries}\nos._exit(0)"
    assert "[The interpreter died." in interpreter.execute(code).text
    assert interpreter.execute("1").text == "1\n"


def test_a_figure_that_is_none_is_no_file(interpreter: Interpreter) -> None:
    code = "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'F 4\\nevil')\n    except OSError: pass"
    assert interpreter.execute(code).figures == ()


def test_what_a_command_says_first_is_not_output(tmp_path: Path) -> None:
    script = tmp_path / "start"
    script.write_text(f'#!/bin/sh\necho Welcome\nexec {HERE} "$@"\n')
    script.chmod(0o755)
    assert outputs(str(script), tmp_path, "1+1") == ["2"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-program", "cannot be started"),
        ("sh -c 'echo no daemon >&2; exit 1'", "starts no Python: no daemon"),
    ],
)
def test_a_command_that_starts_nothing_is_an_error_for_the_model(
    command: str, reason: str, tmp_path: Path
) -> None:
    assert reason in outputs(command, tmp_path, "1")[0]


@pytest.mark.parametrize("command", ["", "  ", "'"])
def test_without_a_command_there_are_recipes(command: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="python") as refused, python_tool(command, tmp_path):
        pass
    assert command == "'" or all(recipe in str(refused.value) for recipe in RECIPES)


def test_cancelling_an_answer_ends_the_cell(tmp_path: Path) -> None:
    model = ScriptedModel(cell("import time; time.sleep(60)"))
    with python_tool(HERE, tmp_path) as tool, model.chat(tools=[tool]).stream("Go") as stream:
        threading.Timer(0.5, stream.cancel).start()
        began = time.monotonic()
        assert stream.finish().finish_reason == "cancelled"
    assert time.monotonic() - began < 20


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_stays(tmp_path: Path) -> None:
    def threads() -> int:
        return sum(thread.name == "gptoss-python" for thread in threading.enumerate())

    before = len(os.listdir("/proc/self/fd"))
    outputs(
        HERE, tmp_path, "import subprocess; p = subprocess.Popen(['sleep', '601'])", "import os; os._exit(1)", "1"
    )
    until = time.monotonic() + 5
    while (threads() or len(os.listdir("/proc/self/fd")) > before) and time.monotonic() < until:
        time.sleep(0.02)
    assert threads() == 0
    assert len(os.listdir("/proc/self/fd")) <= before
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert "sleep 601" not in listed.splitlines()


def test_a_call_on_analysis_is_no_thinking_and_is_dropped_with_it(tmp_path: Path) -> None:
    model = ScriptedModel(cell("1+1"), ANSWER, ANSWER)
    with python_tool(HERE, tmp_path) as tool:
        chat = model.chat(tools=[tool])
        with chat.stream("Go") as stream:
            assert not [event for event in stream if isinstance(event, Thinking)]
        chat.send("And?")
    assert "1+1" in model.shown[1]
    assert "1+1" not in model.shown[2]
    assert [type(message) for message in chat.messages] == [Message] * 6


@needs_bwrap
def test_bubblewrap_holds_a_chain_without_network_and_home(tmp_path: Path) -> None:
    home = str(Path.home())
    cells = [
        "x = 1",
        "x + 1",
        "import socket\ntry: socket.create_connection(('1.1.1.1', 53), 2)\nexcept OSError: print('no network')",
        f"import os; print(os.path.exists({home!r}), 'HOME' in os.environ)",
        "open('/tmp/a', 'w').write('kept')",
        "open('/tmp/a').read(), x",
    ]
    assert outputs(BWRAP, tmp_path, *cells) == ["", "2", "no network", "False False", "4", "('kept', 1)"]


@needs_bwrap
def test_bubblewrap_survives_what_a_cell_does(tmp_path: Path) -> None:
    cells = [
        "import time; time.sleep(60)",
        "import os; os._exit(1)",
        "print('z' * 100_000_000)",
        "1/0",
        "'here'",
    ]
    found = outputs(BWRAP, tmp_path, *cells, seconds=20 if os.environ.get("CI") else 5)
    assert "timed out" in found[0]
    assert "died" in found[1]
    assert "bytes are left out here" in found[2]
    assert "ZeroDivisionError" in found[3]
    assert found[4] == "'here'"
