"""The functions of a file of the user's own, as tools. They run in this process, as the user."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import InvalidRequest
from ...files.read import read_regular

__all__ = ["read_functions"]

_MAX_BYTES = 4 * 2**20
_NAME = "gptoss_tools"
"""Of the module that the file becomes."""


def read_functions(path: Path) -> list[Callable[..., Any]]:
    """Runs a file of Python and returns its functions: those in ``__all__``, or those that it defines and whose
    names do not start with ``_``.

    Raises:
        InvalidRequest: it cannot be read, fails, or has no function.
    """
    try:
        code = compile(read_regular(path, _MAX_BYTES), str(path), "exec")
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InvalidRequest(f"{path}{line}: {error.args[0]}; correct the file") from None
    module = ModuleType(_NAME)
    module.__file__ = str(path)
    sys.modules[_NAME] = module  # where type hints are looked up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise InvalidRequest(f"{path}{where}: {type(error).__name__}: {error}; correct the file") from None
    functions = _functions(module)
    if not functions:
        raise InvalidRequest(
            f"{path}: it defines no function; a public one, with type hints and a docstring, is a tool"
        )
    return functions


def _functions(module: ModuleType) -> list[Callable[..., Any]]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return [found for name in listed if callable(found := getattr(module, name, None))]
    own = [value for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
    return [function for function in own if function.__module__ == _NAME]
