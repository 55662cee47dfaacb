"""Tools of MCP servers: a client on the official ``mcp`` package, which the extra ``mcp`` installs.

Knows servers, their tools and results; knows nothing of models, chats or terminals.
"""

from .servers import MCPServers, Server

__all__ = ["MCPServers", "Server"]
