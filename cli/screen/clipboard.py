"""The clipboard: the system's own tool, or else the terminal."""

from __future__ import annotations

import os
import shutil
import subprocess

from ...errors import GptOssError
from .terminal import Terminal

__all__ = ["copy"]

_TOOLS = (("pbcopy",), ("wl-copy",), ("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input"))


def copy(text: str, terminal: Terminal) -> str:
    """Put ``text`` on the clipboard; returns the tool that did it.

    Raises:
        GptOssError: there is no clipboard.
    """
    for command in _TOOLS:
        if command[0] != "pbcopy" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            continue
        if shutil.which(command[0]):
            done = subprocess.run(command, input=text.encode(), stderr=subprocess.DEVNULL, timeout=5, check=False)
            if done.returncode == 0:
                return command[0]
    if not terminal.interactive:
        raise GptOssError("no clipboard is available; /export writes the chat to a file")
    terminal.copy(text)
    return "through the terminal"
