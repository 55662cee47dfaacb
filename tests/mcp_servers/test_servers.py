"""Servers of MCP as people have them: every tool is listed, called, and answers as its server meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.events import ToolResult
from gptoss_mlx.tools.mcp import MCPServers
from tests.chat.scripted import ScriptedModel
from tests.cli.pty_session import Person
from tests.mcp_servers.conftest import WEATHER

Entry = Callable[..., dict[str, Any]]
Calls = list[tuple[str, dict[str, Any], str, bool]]
"""Tools, arguments, a part of the result, and whether it is an error."""


def outputs(servers: MCPServers, calls: Calls) -> list[ToolResult]:
    """The results of calls that a scripted model makes in one turn."""
    begun = "<|channel|>commentary to=functions.s_"
    scripts = [
        f"{begun}{tool} <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"
        for tool, arguments, _, _ in calls
    ]
    model = ScriptedModel(*scripts, "<|channel|>final<|message|>Done.<|return|>")
    with model.chat(tools=servers.tools, max_steps=len(calls) + 1).stream("Go") as stream:
        results = [event for event in stream if isinstance(event, ToolResult)]
    assert stream.reply.text == "Done."
    return results


def check(entry: dict[str, Any], calls: Calls) -> None:
    """Makes calls of all tools of a server, and of no others."""
    with MCPServers({"mcpServers": {"s": entry}}) as servers:
        found = {tool.declared_name.removeprefix("s.") for tool in servers.tools}
        assert servers.servers[0].state == "ready", servers.servers[0].reason
        assert found == {tool for tool, *_ in calls}
        for (tool, _, part, error), result in zip(calls, outputs(servers, calls), strict=True):
            assert (result.error, part in result.output) == (error, True), (tool, part, result.output)


def test_everything(node_servers: Path) -> None:
    calls: Calls = [
        ("echo", {"message": "hi"}, "Echo: hi", False),
        ("echo", {"message": 7}, "is not of type", True),
        ("get-annotated-message", {"messageType": "error", "includeImage": True}, "[image: image/png", False),
        ("get-env", {}, '"PATH"', False),
        ("get-resource-links", {"count": 2}, "[resource demo://resource/", False),
        ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}, "[resource demo://", False),
        ("get-resource-reference", {"resourceType": "Blob", "resourceId": 2}, "not shown]", False),
        ("get-structured-content", {"location": "New York"}, '"temperature":33', False),
        ("get-sum", {"a": 1, "b": 2}, "is 3", False),
        ("get-tiny-image", {}, "[image: image/png", False),
        ("gzip-file-as-resource", {"name": "a.gz", "data": "data:,hello", "outputType": "resource"}, "gz", False),
        ("toggle-simulated-logging", {}, "logging", False),
        ("toggle-subscriber-updates", {}, "updates", False),
        ("trigger-long-running-operation", {"duration": 0.2, "steps": 2}, "completed", False),
        ("simulate-research-query", {"topic": "rain"}, "task", True),
    ]
    entry = {"command": str(node_servers / "mcp-server-everything"), "args": ["stdio"]}
    check(entry, calls)


def test_filesystem(node_servers: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    path = str(tmp_path / "a.txt")
    calls: Calls = [
        ("read_file", {"path": path}, "one\ntwo", False),
        ("read_text_file", {"path": path, "head": 1}, "one", False),
        ("read_text_file", {"path": "/etc/passwd"}, "Access denied", True),
        ("read_media_file", {"path": str(tmp_path / "a.png")}, "8 bytes, not shown]", False),
        ("read_multiple_files", {"paths": [path]}, "two", False),
        ("write_file", {"path": str(tmp_path / "b.txt"), "content": "new"}, "Successfully", False),
        ("edit_file", {"path": path, "edits": [{"oldText": "one", "newText": "1"}]}, "+1", False),
        ("create_directory", {"path": str(tmp_path / "d")}, "Successfully", False),
        ("list_directory", {"path": str(tmp_path)}, "[DIR] d", False),
        ("list_directory_with_sizes", {"path": str(tmp_path)}, "a.txt", False),
        ("directory_tree", {"path": str(tmp_path)}, '"b.txt"', False),
        ("move_file", {"source": str(tmp_path / "b.txt"), "destination": str(tmp_path / "c.txt")}, "moved", False),
        ("search_files", {"path": str(tmp_path), "pattern": "*.txt"}, "c.txt", False),
        ("get_file_info", {"path": path}, "isFile: true", False),
        ("list_allowed_directories", {}, str(tmp_path), False),
    ]
    entry = {"command": str(node_servers / "mcp-server-filesystem"), "args": [str(tmp_path)]}
    check(entry, calls)
    assert (tmp_path / "a.txt").read_text() == "1\ntwo\n"
    assert (tmp_path / "c.txt").read_text() == "new"


def test_memory(node_servers: Path, tmp_path: Path) -> None:
    ada = {"entities": [{"name": "Ada", "entityType": "person", "observations": ["writes"]}]}
    knows = {"relations": [{"from": "Ada", "to": "Ada", "relationType": "knows"}]}
    calls: Calls = [
        ("create_entities", ada, "Ada", False),
        ("create_relations", knows, "knows", False),
        ("add_observations", {"observations": [{"entityName": "Ada", "contents": ["sings"]}]}, "sings", False),
        ("add_observations", {"observations": [{"entityName": "Bob", "contents": ["x"]}]}, "Bob not found", True),
        ("read_graph", {}, "sings", False),
        ("search_nodes", {"query": "Ada"}, "writes", False),
        ("open_nodes", {"names": ["Ada"]}, "person", False),
        (
            "delete_observations",
            {"deletions": [{"entityName": "Ada", "observations": ["sings"]}]},
            "deleted",
            False,
        ),
        ("delete_relations", knows, "deleted", False),
        ("delete_entities", {"entityNames": ["Ada"]}, "deleted", False),
    ]
    entry = {
        "command": str(node_servers / "mcp-server-memory"),
        "env": {"MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")},
    }
    check(entry, calls)


def test_git(python: Entry, repository: Path) -> None:
    (repository / "a.txt").write_text("two\n")
    where = {"repo_path": str(repository)}
    calls: Calls = [
        ("git_status", where, "modified:   a.txt", False),
        ("git_diff_unstaged", where, "+two", False),
        ("git_add", {**where, "files": ["a.txt"]}, "staged", False),
        ("git_diff_staged", where, "+two", False),
        ("git_reset", where, "reset", False),
        ("git_diff", {**where, "target": "HEAD"}, "+two", False),
        ("git_diff", {**where, "target": "no-such-thing"}, "no-such-thing", True),
        ("git_log", where, "First", False),
        ("git_show", {**where, "revision": "HEAD"}, "First", False),
        ("git_create_branch", {**where, "branch_name": "b"}, "b", False),
        ("git_branch", {**where, "branch_type": "local"}, "b", False),
        ("git_add", {**where, "files": ["a.txt"]}, "staged", False),
        ("git_commit", {**where, "message": "Second"}, "commit", False),
        ("git_checkout", {**where, "branch_name": "b"}, "b", False),
    ]
    entry = {
        **python("-m", "mcp_server_git"),
        "env": {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    check(entry, calls)


def test_time(python: Entry) -> None:
    calls: Calls = [
        ("get_current_time", {"timezone": "Europe/Oslo"}, '"timezone": "Europe/Oslo"', False),
        ("get_current_time", {"timezone": "Mars"}, "Invalid timezone", True),
        (
            "convert_time",
            {"source_timezone": "Europe/Oslo", "time": "12:00", "target_timezone": "Asia/Tokyo"},
            '"Asia/Tokyo"',
            False,
        ),
    ]
    check(python("-m", "mcp_server_time"), calls)


def test_a_server_over_http(http_server: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, process = http_server
    entry = {"url": url, "headers": {"X-Key": "a"}}
    check(entry, [("get_weather", {"city": "Oslo"}, "rain", False)])
    with MCPServers({"mcpServers": {"s": {"url": url}}}, call_seconds=5) as servers:
        assert servers.tools
        process.kill()
        process.wait()
        (result,) = outputs(servers, [("get_weather", {"city": "Oslo"}, "", True)])
        assert result.error
    with MCPServers({"mcpServers": {"s": {"url": url}}}) as servers:
        assert servers.tools == ()
        assert servers.servers[0].state == "failed"


@pytest.mark.parametrize("over_http", [False, True])
def test_the_demo_calls_a_tool_that_a_person_approves(
    over_http: bool, http_server: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    entry = {"url": http_server[0]} if over_http else {"command": sys.executable, "args": [WEATHER]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"get": entry}}))
    words = ["-m", "gptoss_mlx.cli", "chat", "-m", "demo", "--temperature", "0", "--effort", "low", "--mcp"]
    command = [sys.executable, *words, str(tmp_path / "mcp.json")]
    person = Person(command, tmp_path, env={"PYTHONPATH": os.getcwd()})
    person.wait_for_prompt()
    person.enter("What is the weather in Oslo?")
    person.wait_for("get.get_weather wants to run", timeout=90)
    person.wait_for('city: "Oslo"')
    person.wait_for("no with a [w]ord:")
    person.enter("o")
    person.wait_for("The weather of Oslo: rain.", timeout=90)
    person.wait_for_prompt()
    assert person.leave() == 0
