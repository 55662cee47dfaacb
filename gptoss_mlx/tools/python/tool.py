"""``python`` as a tool of a chat."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ...errors import FileWriteError, InvalidRequest
from ...files.write import private_directory, write_bytes
from ...harmony.builtin import python as declaration
from ..tool import Tool
from .interpreter import Interpreter, Output

__all__ = ["RECIPES", "missing_command", "python_tool"]

RECIPES: Final = (
    "docker run -i --rm --network none python:3.13 python",
    "bwrap --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 "
    "--proc /proc --dev /dev --tmpfs /tmp --unshare-all --die-with-parent --clearenv python3",
    "ssh box python3",
)
"""Commands that start Python where strangers' code does no harm."""


def missing_command() -> InvalidRequest:
    """The refusal of the tool without a command, with recipes."""
    return InvalidRequest(
        "python needs a command that starts Python where the model's code does no harm, such as one of: "
        f"{'; '.join(RECIPES)}"
    )


@contextmanager
def python_tool(command: str, directory: Path, *, seconds: float = 120.0) -> Iterator[Tool]:
    """The built-in tool, for ``model.chat(tools=[tool])``; its interpreter ends with the block.

    Args:
        command: starts the interpreter in which the model's code runs. Whether that can do harm is up to it.
        directory: for figures.
        seconds: the most time for a cell. The model was told of 120.

    Raises:
        InvalidRequest: there is no command.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidRequest(f"python is {command!r}: {error}") from None
    if not words:
        raise missing_command()
    interpreter = Interpreter(words, seconds=seconds)
    # One thread starts every interpreter: bwrap's --die-with-parent means the thread.
    thread = ThreadPoolExecutor(1, thread_name_prefix="gptoss-python")
    numbers = itertools.count(1)

    async def run(code: str) -> str:
        try:
            output = await asyncio.wrap_future(thread.submit(interpreter.execute, code))
        except asyncio.CancelledError:
            interpreter.kill()
            raise
        return _shown(output, directory, numbers)

    try:
        yield Tool(name="python", builtin=declaration(), function=run)
    finally:
        interpreter.kill()
        thread.shutdown()


def _shown(output: Output, directory: Path, numbers: Iterator[int]) -> str:
    """The output of a cell as the model reads it, with the names of its figures' files."""
    lines = [output.text.rstrip("\n")]
    for image in output.figures:
        path = directory / f"figure-{time.strftime('%Y%m%d-%H%M%S')}-{next(numbers):04}.png"
        with contextlib.suppress(FileWriteError):
            private_directory(directory)
            write_bytes(path, image, private=True)
            lines.append(f"[figure saved as {path}]")
    return "\n".join(filter(None, lines))
