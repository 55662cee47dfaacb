"""The tools of a session: servers of MCP, functions and Python that the settings name, and a person's yes.

Knows settings and servers; the chat runs the calls.
"""

from __future__ import annotations

import queue
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ...files.write import as_path
from ..screen.spans import DIM, Span
from ..screen.terminal import Terminal
from ..settings import Settings, data_path
from .approval import Approval
from .functions import read_functions

if TYPE_CHECKING:
    from ...chat.options import ToolOptions
    from ...events import ToolCall, ToolResult
    from ...tools.limit import ResultLimit
    from ...tools.mcp import MCPServers
    from ...tools.tool import Tool
    from ...tools.toolbox import ToolBox

__all__ = ["Tools"]


class Tools:
    """What the model may call. As a context manager it starts the servers, and ends them.

    Args:
        settings: name them, and have the rules.

    Raises:
        InvalidRequest: a file cannot be read.
        ToolError: the package for them is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self.servers: MCPServers | None = None
        if settings.mcp is not None:
            from ...tools.mcp import MCPServers

            self.servers = MCPServers.from_file(
                settings.mcp, on_notice=lambda line: self._notices.put(line), on_progress=self._note
            )
        self._functions: list[Any] = [] if settings.tools is None else read_functions(as_path(settings.tools))
        self._open = ExitStack()
        if settings.python is not None:
            from ...tools.python import python_tool

            tool = python_tool(settings.python, data_path("figures"))
            self._functions = [self._open.enter_context(tool), *self._functions]
        self.approval = Approval(settings, self._found, self._reads_only)
        self._limit: ResultLimit | None = None
        self._max_steps = settings.max_steps
        self.progress = ""
        """Of the call that runs, in a line."""
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._offered: list[Any] | None = None
        self._box: ToolBox | None = None

    @property
    def any(self) -> bool:
        """Whether there may be tools."""
        return self.servers is not None or bool(self._functions)

    def options(self, terminal: Terminal) -> ToolOptions:
        """The options of a chat with these tools.

        Args:
            terminal: shows what is waited for.
        """
        if not self.any:
            return {}
        self._wait(terminal)
        return {
            "tools": self._current(),
            "before_call": self.approval,
            "after_call": self._after,
            "max_steps": self._max_steps,
        }

    def changed(self) -> None:
        """The tools are others than before."""
        self._offered = self._box = None

    def notices(self) -> list[str]:
        """What happened to the servers since the last call."""
        lines = []
        while not self._notices.empty():
            lines.append(self._notices.get())
        return lines

    def __enter__(self) -> Self:
        if self.servers is not None:
            self.servers.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if self.servers is not None:
            self.servers.close()

    def _current(self) -> list[Any]:
        """The tools now, as a chat takes them."""
        if self._offered is None:
            self._offered = [*self._functions, *(() if self.servers is None else self.servers.tools)]
        return self._offered

    def _wait(self, terminal: Terminal) -> None:
        """Wait until no server is starting; the terminal shows which are."""
        began = time.monotonic()
        with terminal.live():
            while names := self._starting():
                seconds = time.monotonic() - began
                if seconds > 0.3:
                    terminal.frame((), [(Span(f"starting {', '.join(names)} {seconds:.0f} s", DIM),)])
                time.sleep(0.05)

    def _starting(self) -> list[str]:
        servers = self.servers.servers if self.servers is not None else ()
        return [server.name for server in servers if server.state == "starting"]

    def _found(self, call: ToolCall) -> Tool | None:
        """The tool that a call names, if it would run."""
        if self._box is None:
            from ...tools.toolbox import ToolBox

            self._box = ToolBox(self._current())
        return self._box.declared(call.name) if self._box.meant(call.name, call.arguments) == call.name else None

    def _after(self, call: ToolCall, result: ToolResult) -> str | None:
        from ...tools.limit import ResultLimit

        self.progress = ""
        self._limit = self._limit or ResultLimit(data_path("results"))
        return self._limit(call, result)

    def _reads_only(self, name: str) -> bool:
        servers = self.servers.servers if self.servers is not None else ()
        return any(name in server.read_only for server in servers)

    def _note(self, _tool: str, line: str) -> None:
        self.progress = line
