"""The built-in tool ``python`` of gpt-oss: a notebook with a state, in an interpreter of the user's choice.

Knows processes and their output; promises no isolation: the command that starts the interpreter has to.
"""

from .interpreter import Interpreter
from .tool import RECIPES, missing_command, python_tool

__all__ = ["RECIPES", "Interpreter", "missing_command", "python_tool"]
