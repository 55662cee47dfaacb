"""Clients that are commands: how each is set up and asked, and what must have come of it.

Every function gets an empty directory, the base URL of a scripted model and the path of the command. It returns
what was done, and raises AssertionError where it did not work.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.clients.conduct import SAID

__all__ = ["aider", "claude_code", "codex", "codex_oss", "llm"]

QUESTION = "How warm is it in Oslo?"


def output_of(place: Path, command: list[str | Path], **variables: str) -> str:
    """What a command prints, run in a directory that is its home too.

    Raises:
        AssertionError: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            command,
            cwd=place,
            env=environment(place) | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{command[0]} did not end: {error.stdout!r} {error.stderr!r}"[-2000:]) from None
    assert done.returncode == 0, f"{command[0]} exited {done.returncode}: {done.stdout}\n{done.stderr}"[-2000:]
    return done.stdout + done.stderr


def environment(place: Path) -> dict[str, str]:
    """The variables of a command: none of the user's own but the path."""
    return {"HOME": str(place), "PATH": os.environ["PATH"], "TERM": "dumb", "NO_COLOR": "1"}


def llm(place: Path, url: str, command: Path) -> list[str]:
    """simonw/llm: an answer, a stream, a tool loop, a schema."""
    models = [
        {
            "model_id": "gpt-oss",
            "model_name": "gpt-oss",
            "api_base": f"{url}/v1",
            "supports_tools": True,
            "supports_schema": True,
        }
    ]
    (place / "extra-openai-models.yaml").write_text(json.dumps(models))
    (place / "weather.py").write_text(
        'def get_weather(city: str) -> str:\n    "Get the weather."\n    return "4 C"\n'
    )
    variables = {"LLM_USER_PATH": str(place), "OPENAI_API_KEY": "none"}
    ask: list[str | Path] = [command, "-m", "gpt-oss", QUESTION]
    for options, done in {
        ("--no-stream",): "an answer",
        (): "a stream",
        ("--functions", "weather.py", "--no-stream"): "a tool loop",
        ("--functions", "weather.py"): "a streamed tool loop",
    }.items():
        text = output_of(place, [*ask, *options], **variables)
        assert SAID in text, f"{done}: {text}"
    text = output_of(place, [*ask, "--schema", "city, celsius int"], **variables)
    assert json.loads(text)["celsius"] == 4, text
    return ["answer", "stream", "tool loop", "schema"]


def aider(place: Path, url: str, command: Path) -> list[str]:
    """aider: an edit of a file."""
    (place / "hello.py").write_text("print('hello')\n")
    output_of(
        place,
        [
            *(command, "--model", "openai/gpt-oss", "--message", "Greet the world.", "--yes-always", "--no-git"),
            *("--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--edit-format", "diff"),
            *("--no-show-release-notes", "--no-detect-urls", "hello.py"),
        ],
        OPENAI_API_BASE=f"{url}/v1",
        OPENAI_API_KEY="none",
    )
    text = (place / "hello.py").read_text()
    assert text == "print('hello, world')\n", text
    return ["an edit of a file, streamed"]


def codex(place: Path, url: str, command: Path) -> list[str]:
    """Codex with a provider of its own: a command that it runs, and the answer."""
    (place / ".codex").mkdir()
    (place / ".codex" / "config.toml").write_text(
        'model = "gpt-oss"\nmodel_provider = "gptoss"\n\n[model_providers.gptoss]\nname = "gptoss"\n'
        f'base_url = "{url}/v1"\nwire_api = "responses"\n'
    )
    text = output_of(place, [command, *_EXEC, QUESTION])
    _check_codex(text)
    return ["a command run, streamed"]


_EXEC = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json")


def codex_oss(place: Path, url: str, command: Path) -> list[str]:
    """Codex with ``--oss``, as it speaks to Ollama and to LM Studio."""
    for provider in ("ollama", "lmstudio"):
        text = output_of(
            place,
            [command, *_EXEC, "--oss", "--local-provider", provider, "-m", "scripted", QUESTION],
            CODEX_OSS_BASE_URL=f"{url}/v1",
        )
        _check_codex(text)
    return ["a command run with ollama and lmstudio as provider"]


def _check_codex(text: str) -> None:
    """That the command ran, and its result led to the answer."""
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    ran = [item for item in items if item["type"] == "command_execution"]
    assert any("from-the-tool" in item["aggregated_output"] for item in ran), text[-3000:]
    assert SAID in [item.get("text") for item in items], text[-3000:]
    assert "turn.completed" in [event["type"] for event in events], text[-3000:]


def claude_code(place: Path, url: str, command: Path) -> list[str]:
    """Claude Code: a command that it runs, and the answer."""
    text = output_of(
        place,
        [command, "-p", QUESTION, "--allowedTools", "Bash", "--output-format", "stream-json", "--verbose"],
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_AUTH_TOKEN="none",
        ANTHROPIC_MODEL="gpt-oss",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (last,) = [event for event in events if event["type"] == "result"]
    assert not last["is_error"], last
    assert last["result"] == SAID, last
    assert any("from-the-tool" in json.dumps(event) for event in events if event["type"] == "user"), text[-3000:]
    return ["a command run, streamed"]
