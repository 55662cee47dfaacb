"""A server of MCP with one tool, on the official package: over its pipes, or over HTTP at a port that is given."""

from __future__ import annotations

import sys

from mcp.server import MCPServer

server = MCPServer("weather")


@server.tool()
def get_weather(city: str) -> str:
    """Get the weather.

    Args:
        city: the city
    """
    return "rain"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
