"""``/mcp``: the servers of MCP, their state and tools; on, off, reload, log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InvalidRequest
from ..screen.spans import BOLD, DIM, RED, Row, Span, shorten, visible
from .session import ChatSession

if TYPE_CHECKING:
    from ...tools.mcp import MCPServers, Server

__all__ = ["mcp"]


def mcp(session: ChatSession, argument: str) -> None:
    """Show the servers, or act on one.

    Raises:
        InvalidRequest: there are no servers, no such server, or no such action.
    """
    servers = session.tools.servers
    if servers is None:
        raise InvalidRequest("no servers: gptoss chat --mcp FILE, or gptoss config set mcp FILE, names their file")
    action, _, name = argument.partition(" ")
    match action, bool(name):
        case "", False:
            servers.wait()
        case "on", True:
            servers.turn_on(name)
        case "off", True:
            servers.turn_off(name)
        case "reload", False:
            servers.reload()
        case "log", True:
            session.say(visible(servers.log(name)).strip() or f"{name} wrote nothing")
            return
        case _:
            raise InvalidRequest(f"/mcp {argument}: use /mcp, /mcp on NAME, off NAME, reload or log NAME")
    if action:
        session.tools_changed()
    _show(session, servers)


def _show(session: ChatSession, servers: MCPServers) -> None:
    width = max(session.terminal.width - 1, 10)
    target = session.terminal if session.interactive else session.errors
    target.rows(row for server in servers.servers for row in _rows(server, width))


def _rows(server: Server, width: int) -> list[Row]:
    """A server and its tools, one in a row."""
    count = f"{len(server.tools)} tools" if server.state == "ready" else server.state
    style = RED if server.state == "failed" else DIM
    reason = (
        f": {server.reason}; /mcp log {server.name} shows what it wrote, /mcp on {server.name} starts it"
        if server.reason
        else ""
    )
    rows = [(Span(server.name, BOLD), Span(f"  {count}{reason}", style))]
    for tool in server.tools:
        hint = " (only reads, it says)" if tool.declared_name in server.read_only else ""
        name = tool.declared_name.removeprefix(f"{server.name}.")
        rows.append((Span(f"  {visible(name)}{hint}  "), Span(visible(" ".join(tool.description.split())), DIM)))
    return [shorten(row, width) for row in rows]
