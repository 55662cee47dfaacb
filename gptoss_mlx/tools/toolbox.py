"""Functions that a model may call: declared from plain Python, and called with checked arguments.

    def get_weather(city: str, unit: Literal["C", "F"] = "C") -> dict[str, float]:
        \"""The weather now.

        Args:
            city: where, in English.
        \"""

Type hints become the JSON schema and the docstring its descriptions; pydantic generates the schema and validates
the model's arguments. Mistakes in a call and exceptions of a function are reported to the model as text. Knows
nothing of models, tokens or conversations.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import pydantic_core

from ..errors import GptOssError, InvalidRequest, ToolError
from ..events import ToolCall, ToolResult
from ..files.read import short_repr
from ..harmony import ToolNamespace
from .recipients import declared_tool
from .tool import MAX_NAME, Tool, as_tool

__all__ = ["AfterCall", "BeforeCall", "Cancellation", "Tool", "ToolBox", "ToolOutcome", "as_tool", "result_text"]

BeforeCall: TypeAlias = Callable[[ToolCall], ToolCall | str | Awaitable[ToolCall | str | None] | None]
"""Runs before every call. None allows the call, a ToolCall replaces it, a str rejects it and is the result for the
model. May be async."""
AfterCall: TypeAlias = Callable[
    [ToolCall, ToolResult], ToolResult | str | Awaitable[ToolResult | str | None] | None
]
"""Runs after every call, failed ones included. None keeps the result; a ToolResult or a str replaces it. May be
async."""

_LOOP_CHECK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutcome:
    """The result of a call, as the model reads it."""

    output: str
    error: bool = False


class Cancellation:
    """Ends the async functions of calls. A plain function cannot be ended, and hooks are not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._end: Callable[[], object] | None = None

    def cancel(self) -> None:
        """Cancels what is awaited now, and whatever is awaited later. From any thread."""
        with self._lock:
            self._cancelled = True
            if self._end is not None:
                self._end()

    async def awaited(self, result: Awaitable[Any]) -> Any:
        """Awaits a result, until :meth:`cancel`."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        with self._lock:
            self._end = functools.partial(loop.call_soon_threadsafe, task.cancel)
            if self._cancelled:
                self._end()
        try:
            return await result
        finally:
            with self._lock:
                self._end = None


class ToolBox:
    """The tools of one chat.

    Args:
        tools: anything that :func:`as_tool` accepts, and OpenAI's namespaces: ``{"type": "namespace", "name",
            "description", "tools"}``.

    Raises:
        ToolError: a tool cannot be declared, or two have the same name.

    Example:
        >>> def add(a: int, b: int) -> int:
        ...     return a + b
        >>> box = ToolBox([add])
        >>> box.call("functions.add", '{"a": 1, "b": 2}').output
        '3'
        >>> print(box.call("functions.add", '{"a": "one"}').output)
        Error: functions.add: a: Input should be a valid integer, unable to parse string as an integer; \
b: this argument is missing
    """

    def __init__(self, tools: Iterable[Any] = ()) -> None:
        if isinstance(tools, str | bytes | Mapping | Tool) or not isinstance(tools, Iterable):
            raise ToolError(f"tools is {short_repr(tools)}; a list is needed, such as tools=[get_weather]")
        self._descriptions: dict[str, str | None] = {}  # of the namespaces that have tools, in order
        self._tools = {tool.recipient: tool for tool in _distinct(list(self._declared(tools)))}

    def _declared(self, tools: Iterable[Any]) -> Iterator[Tool]:
        for source in tools:
            if isinstance(source, Mapping) and source.get("type") == "namespace":
                name, members = source.get("name"), source.get("tools")
                if not isinstance(name, str) or not isinstance(members, list | tuple):
                    raise ToolError(f"tool {short_repr(dict(source))}: a namespace has a name and a list of tools")
                self._descriptions[name] = source.get("description") or self._descriptions.get(name)
                yield from (replace(as_tool(member), namespace=name) for member in members)
            else:
                tool = as_tool(source)
                self._descriptions.setdefault(tool.namespace, None)
                yield tool

    def joined(self, others: ToolBox) -> ToolBox:
        """These tools, and those of another box whose names are free."""
        made = ToolBox()
        made._descriptions = {**others._descriptions, **self._descriptions}
        made._tools = self._tools | {
            name: others._tools[name] for name in others._tools if name not in self._tools
        }
        return made

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def schemas(self) -> dict[str, Mapping[str, Any] | None]:
        """The schema of each function's arguments, by the names under which the functions are called."""
        return {name: tool.parameters for name, tool in self._tools.items() if tool.builtin is None}

    @property
    def names(self) -> frozenset[str]:
        """The full names under which the tools are called, such as ``functions.get_weather``."""
        return frozenset(self._tools)

    def meant(self, recipient: str, arguments: str) -> str | None:
        """The tool that a call means, whose name may be written in another way (:func:`declared_tool`). None if no
        tool is meant, or the arguments are invalid for it."""
        name = declared_tool(recipient, self.names)
        try:
            return None if name is None else self._checked(name, arguments)[0].recipient
        except Exception:  # A custom check may raise anything; call() reports it to the model.
            return None

    def declared(self, recipient: str) -> Tool | None:
        """The tool with this full name, as it was declared; None if there is none.

        Args:
            recipient: as in a call, ``functions.NAME``.
        """
        return self._tools.get(recipient)

    def leaves(self, recipient: str, arguments: str) -> bool:
        """Whether the caller must answer a call, because it is valid and its tool has no function. :meth:`call`
        answers every other one."""
        try:
            tool, _ = self._checked(recipient, arguments)
        except Exception:  # A custom check may raise anything; call() reports it to the model.
            return False
        return tool.function is None

    def namespaces(self) -> tuple[ToolNamespace, ...]:
        """The tools for the developer message."""
        made = []
        for name, description in self._descriptions.items():
            tools = tuple(
                tool.description_for_harmony()
                for tool in self._tools.values()
                if tool.namespace == name and tool.builtin is None
            )
            if tools:
                made.append(ToolNamespace(name=name, description=description, tools=tools))
        return tuple(made)

    def builtins(self) -> tuple[ToolNamespace, ...]:
        """The tools that the model was trained with, for the system message."""
        return tuple(tool.builtin for tool in self._tools.values() if tool.builtin is not None)

    def call(
        self,
        recipient: str,
        arguments: str,
        before_call: BeforeCall | None = None,
        after_call: AfterCall | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        cancellation: Cancellation | None = None,
    ) -> ToolOutcome:
        """Runs a call. Mistakes of the model and exceptions of the function are returned, never raised.

        Args:
            recipient: as the model wrote it, ``functions.NAME``.
            arguments: as the model wrote them; should be JSON.
            before_call: may reject or change the call.
            after_call: may change the result.
            loop: the event loop in which async functions run while this thread waits; by default, and if it is
                not running, they run in a new one.
            cancellation: ends async functions.

        Raises:
            InvalidRequest: a hook returned a value of the wrong type. Exceptions of hooks are not caught.
        """
        call = ToolCall(name=recipient, arguments=arguments)
        decision = None if before_call is None else _finished(before_call(call), loop)
        if isinstance(decision, str):
            outcome = ToolOutcome(output=decision, error=True)
        else:
            call = _hooked(decision, call, ToolCall, "before_call")
            outcome = self._answer(call, loop, cancellation or Cancellation())
        if after_call is not None:
            result = ToolResult(name=call.name, output=outcome.output, error=outcome.error)
            changed = _finished(after_call(call, result), loop)
            changed = replace(result, output=changed) if isinstance(changed, str) else changed
            result = _hooked(changed, result, ToolResult, "after_call")
            outcome = ToolOutcome(output=result.output, error=result.error)
        return replace(outcome, output=_encodable(outcome.output))

    def _answer(self, call: ToolCall, loop: asyncio.AbstractEventLoop | None, ends: Cancellation) -> ToolOutcome:
        try:
            tool, arguments = self._checked(call.name, call.arguments)
            if tool.function is None:
                raise ToolError("this tool has no function to run")
            return ToolOutcome(output=_as_text(_finished(tool.function(**arguments), loop, ends)))
        except GptOssError as error:
            return ToolOutcome(output=f"Error: {call.name}: {error}", error=True)
        except (CancelledError, asyncio.CancelledError):
            return ToolOutcome(output=f"Error: {call.name}: the call was cancelled", error=True)
        except (Exception, SystemExit) as error:
            # Whatever the caller's function raises, the conversation continues.
            reason = ": ".join(filter(None, (type(error).__name__, str(error))))
            return ToolOutcome(output=f"Error: {call.name}: {reason}", error=True)

    def _checked(self, recipient: str, arguments: str) -> tuple[Tool, dict[str, Any]]:
        """The tool that is called, and its checked arguments.

        Raises:
            ToolError: there is no such tool, or the arguments are invalid.
        """
        tool = self._tools.get(recipient)
        if tool is None:
            raise ToolError(f"there is no such tool; there are {', '.join(self._tools) or 'none'}")
        assert tool.check is not None
        return tool, tool.check(arguments)


def _distinct(tools: list[Tool]) -> list[Tool]:
    """Numbers the names that became equal because harmony does not allow the declared ones.

    Raises:
        ToolError: two tools of a namespace were declared under one name.
    """
    taken: set[tuple[str, str]] = set()
    for tool in tools:
        if (tool.namespace, tool.declared_name) in taken:
            raise ToolError(f"two tools are named {tool.declared_name!r}; names must differ")
        taken.add((tool.namespace, tool.declared_name))
    made = []
    for tool in tools:
        name, number = tool.name, 1
        while (tool.namespace, name) in taken and name != tool.declared_name:
            number += 1
            name = f"{tool.name[: MAX_NAME - len(str(number)) - 1]}_{number}"
        taken.add((tool.namespace, name))
        made.append(replace(tool, name=name) if name != tool.name else tool)
    return made


def _hooked(decision: Any, unchanged: Any, kind: type[Any], hook: str) -> Any:
    if decision is None:
        return unchanged
    if not isinstance(decision, kind):
        raise InvalidRequest(f"{hook} returned {short_repr(decision)}; None, a str or a {kind.__name__} is needed")
    return decision


def _finished(result: Any, loop: asyncio.AbstractEventLoop | None, ends: Cancellation | None = None) -> Any:
    """The result of a function, awaited if the function is async."""
    return _wait((ends or Cancellation()).awaited(result), loop) if inspect.isawaitable(result) else result


def _wait(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop | None) -> Any:
    """Runs a coroutine to its end while this thread waits."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if loop is not None and loop is not running and loop.is_running():
        return _wait_for(asyncio.run_coroutine_threadsafe(work, loop), loop)
    if running is None:
        return asyncio.run(work)
    # A thread with a running loop cannot run a second one.
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.append((context.run(asyncio.run, work), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="gptoss-tool", daemon=True)
    thread.start()
    thread.join()
    result, failure = outcome[0]
    if failure is not None:
        raise failure
    return result


def _wait_for(work: Future[Any], loop: asyncio.AbstractEventLoop) -> Any:
    """Waits for work that another thread's event loop runs.

    Raises:
        ToolError: the loop stopped before the work was done.
    """
    while not wait({work}, _LOOP_CHECK_SECONDS).done:
        if not loop.is_running():
            work.cancel()
            raise ToolError("the event loop ended before the function did")
    return work.result()


def result_text(result: Any) -> str:
    """A result as the model reads it: text unchanged, any other value as JSON."""
    return _encodable(_as_text(result))


def _as_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return pydantic_core.to_json(result, inf_nan_mode="strings").decode()
    except (ValueError, pydantic_core.PydanticSerializationError):
        return json.dumps(str(result))


def _encodable(text: str) -> str:
    """Replaces lone surrogates, which UTF-8 cannot encode, with U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
