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
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import pydantic_core

from ..errors import GptOssError, InvalidRequest, RenderError, ToolError
from ..events import ToolCall, ToolResult
from ..files.read import short_repr
from ..harmony import ToolDescription, ToolNamespace
from .recipients import declared_tool
from .signature import ArgumentCheck, check_by_schema, declare

__all__ = ["AfterCall", "BeforeCall", "Tool", "ToolBox", "ToolOutcome", "as_tool", "result_text"]

BeforeCall: TypeAlias = Callable[[ToolCall], ToolCall | str | None]
"""Runs before every call. None allows the call, a ToolCall replaces it, a str rejects it and is the result for the
model."""
AfterCall: TypeAlias = Callable[[ToolCall, ToolResult], ToolResult | str | None]
"""Runs after every call, failed ones included. None keeps the result; a ToolResult or a str replaces it."""

_NAMESPACE: Final = "functions"
_LOOP_CHECK_SECONDS: Final = 0.5
_KEYS: Final = ("name", "description", "parameters", "function")
# Beside a function's own keys in OpenAI's two notations.
_IGNORED_KEYS: Final = ("type", "strict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. :func:`as_tool` makes one from a plain function.

    Raises:
        ToolError: harmony does not allow the name, the parameters are not the JSON schema of an object, or a
            parameter of the function cannot be passed by name.

    Example:
        >>> lamp = Tool(name="lamp", description="The lamp.", function=lambda: "on")
        >>> ToolBox([lamp]).call("functions.lamp", "{}").output
        'on'
    """

    name: str
    """1 to 64 of A-Z a-z 0-9 _ . -; the model calls the tool as ``functions.NAME``."""
    description: str = ""
    """What it does, for the model."""
    parameters: Mapping[str, Any] | None = None
    """JSON schema of the arguments, an object; None derives it from the function's signature."""
    function: Callable[..., Any] | None = None
    """The function to run, plain or async. With None the caller answers the calls: a valid one ends the turn, and
    ``chat.send_results`` continues it."""
    check: ArgumentCheck | None = field(default=None, repr=False, compare=False)
    """Turns JSON text into keyword arguments; by default derived from ``parameters`` or the signature."""

    def __post_init__(self) -> None:
        for part, value in (("function", self.function), ("check", self.check)):
            if value is not None and not callable(value):
                raise ToolError(
                    f"tool {self.name!r}: {part} is {short_repr(value)}, which cannot be called; give a function"
                )
        if self.check is None:
            if self.parameters is None and self.function is not None:
                declared = declare(self.function, str(self.name))
                object.__setattr__(self, "parameters", declared.parameters)
                object.__setattr__(self, "check", declared.check)
            else:
                object.__setattr__(self, "check", check_by_schema(self.parameters, str(self.name)))
        self.description_for_harmony()

    def description_for_harmony(self) -> ToolDescription:
        """The declaration that the model reads.

        Raises:
            ToolError: harmony cannot render it.

        Example:
            >>> Tool(name="lamp", description="Whether it is on.").description_for_harmony().description
            'Whether it is on.'
        """
        parameters = self.parameters if self.parameters and self.parameters.get("properties") else None
        try:
            return ToolDescription(name=self.name, description=self.description, parameters=parameters)
        except RenderError as error:
            raise ToolError(f"tool {self.name!r}: {error}") from None


def as_tool(source: Any) -> Tool:
    """Declares a tool.

    Args:
        source: a plain or async function (the name is its name, the schema comes from its type hints, the
            descriptions from its docstring in the style of Google, NumPy, Sphinx or Epytext), a :class:`Tool`,
            or a mapping with ``name`` and optionally ``description``, ``parameters`` (a JSON schema) and
            ``function``. OpenAI's ``{"type": "function", "function": {...}}`` is accepted too.

    Raises:
        ToolError: it is none of these, or a parameter cannot be passed by name.

    Example:
        >>> def add(a: int, b: int = 1) -> int:
        ...     "Adds two numbers."
        ...     return a + b
        >>> as_tool(add).parameters["required"]
        ['a']
    """
    if isinstance(source, Tool):
        return source
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if isinstance(source, type) or not callable(source):
        raise ToolError(
            f"tool {short_repr(source)} is no function; give a function, a Tool, or a mapping with name, "
            "description, parameters and function"
        )
    name = getattr(source, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ToolError(
            f"tool {short_repr(source)} has no name; give Tool(name=..., function=...) or define it with def"
        )
    declared = declare(source, name)
    return Tool(
        name=name,
        description=declared.description,
        parameters=declared.parameters,
        function=source,
        check=declared.check,
    )


def _from_mapping(source: Mapping[str, Any]) -> Tool:
    nested = source.get("function")
    if source.get("type") == "function" and isinstance(nested, Mapping):
        source = nested
    unknown = [key for key in source if key not in (*_KEYS, *_IGNORED_KEYS)]
    if unknown:
        raise ToolError(
            f"tool {short_repr(dict(source))}: unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}"
        )
    if not isinstance(source.get("name"), str):
        raise ToolError(f"tool {short_repr(dict(source))}: name is {source.get('name')!r}; a string is needed")
    function, description = source.get("function"), source.get("description")
    if description is None:
        described = callable(function) and source.get("parameters") is None
        description = declare(function, source["name"]).description if described and function else ""
    return Tool(
        name=source["name"], description=description, parameters=source.get("parameters"), function=function
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutcome:
    """The result of a call, as the model reads it."""

    output: str
    error: bool = False


class ToolBox:
    """The tools of one chat.

    Args:
        tools: anything that :func:`as_tool` accepts.

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
        self._tools: dict[str, Tool] = {}
        for source in tools:
            tool = as_tool(source)
            if tool.name in self._tools:
                raise ToolError(f"two tools are named {tool.name!r}; names must differ")
            self._tools[tool.name] = tool

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def schemas(self) -> dict[str, Mapping[str, Any] | None]:
        """The schema of each tool's arguments, by name."""
        return {name: tool.parameters for name, tool in self._tools.items()}

    @property
    def names(self) -> frozenset[str]:
        """The full names under which the tools are called, such as ``functions.get_weather``."""
        return frozenset(f"{_NAMESPACE}.{name}" for name in self._tools)

    def meant(self, recipient: str, arguments: str) -> str | None:
        """The tool that a call means, whose name may be written in another way (:func:`declared_tool`). None if no
        tool is meant, or the arguments are invalid for it."""
        name = declared_tool(recipient, self.names)
        try:
            return None if name is None else f"{_NAMESPACE}.{self._checked(name, arguments)[0].name}"
        except Exception:  # A custom check may raise anything; call() reports it to the model.
            return None

    def leaves(self, recipient: str, arguments: str) -> bool:
        """Whether the caller must answer a call, because it is valid and its tool has no function. :meth:`call`
        answers every other one."""
        try:
            tool, _ = self._checked(recipient, arguments)
        except Exception:  # A custom check may raise anything; call() reports it to the model.
            return False
        return tool.function is None

    def namespace(self) -> ToolNamespace | None:
        """The namespace ``functions`` for the developer message, or None without tools."""
        if not self._tools:
            return None
        return ToolNamespace.functions(*(tool.description_for_harmony() for tool in self._tools.values()))

    def call(
        self,
        recipient: str,
        arguments: str,
        before_call: BeforeCall | None = None,
        after_call: AfterCall | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> ToolOutcome:
        """Runs a call. Mistakes of the model and exceptions of the function are returned, never raised.

        Args:
            recipient: as the model wrote it, ``functions.NAME``.
            arguments: as the model wrote them; should be JSON.
            before_call: may reject or change the call.
            after_call: may change the result.
            loop: the event loop in which async functions run while this thread waits; by default, and if it is
                not running, they run in a new one.

        Raises:
            InvalidRequest: a hook returned a value of the wrong type. Exceptions of hooks are not caught.
        """
        call = ToolCall(name=recipient, arguments=arguments)
        decision = None if before_call is None else before_call(call)
        if isinstance(decision, str):
            outcome = ToolOutcome(output=decision, error=True)
        else:
            call = _hooked(decision, call, ToolCall, "before_call")
            outcome = self._answer(call, loop)
        if after_call is not None:
            result = ToolResult(name=call.name, output=outcome.output, error=outcome.error)
            changed = after_call(call, result)
            changed = replace(result, output=changed) if isinstance(changed, str) else changed
            result = _hooked(changed, result, ToolResult, "after_call")
            outcome = ToolOutcome(output=result.output, error=result.error)
        return replace(outcome, output=_encodable(outcome.output))

    def _answer(self, call: ToolCall, loop: asyncio.AbstractEventLoop | None) -> ToolOutcome:
        try:
            tool, arguments = self._checked(call.name, call.arguments)
            if tool.function is None:
                raise ToolError("this tool has no function to run")
            return ToolOutcome(output=_as_text(_call(tool.function, arguments, loop)))
        except GptOssError as error:
            return ToolOutcome(output=f"Error: {call.name}: {error}", error=True)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            # Whatever the caller's function raises, the conversation continues.
            reason = ": ".join(filter(None, (type(error).__name__, str(error))))
            return ToolOutcome(output=f"Error: {call.name}: {reason}", error=True)

    def _checked(self, recipient: str, arguments: str) -> tuple[Tool, dict[str, Any]]:
        """The tool that is called, and its checked arguments.

        Raises:
            ToolError: there is no such tool, or the arguments are invalid.
        """
        namespace, _, name = recipient.partition(".")
        tool = self._tools.get(name) if namespace == _NAMESPACE else None
        if tool is None:
            names = ", ".join(f"{_NAMESPACE}.{name}" for name in self._tools)
            raise ToolError(f"there is no such tool; there are {names or 'none'}")
        assert tool.check is not None
        return tool, tool.check(arguments)


def _hooked(decision: Any, unchanged: Any, kind: type[Any], hook: str) -> Any:
    if decision is None:
        return unchanged
    if not isinstance(decision, kind):
        raise InvalidRequest(f"{hook} returned {short_repr(decision)}; None, a str or a {kind.__name__} is needed")
    return decision


def _call(function: Callable[..., Any], arguments: dict[str, Any], loop: asyncio.AbstractEventLoop | None) -> Any:
    result = function(**arguments)
    return _wait(_awaited(result), loop) if inspect.isawaitable(result) else result


async def _awaited(result: Any) -> Any:
    return await result


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
