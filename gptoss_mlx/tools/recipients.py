"""The declared tool that a call means, if the model wrote another name. Knows only names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

__all__ = ["declared_tool"]

_NAMESPACE: Final = "functions."
# Spellings of the namespace, and content types without a space before them.
_SPELLINGS: Final = ("functions.", "function.", "functions/", "function/")
_CONTENT_TYPES: Final = ("json", "code", "text")


def declared_tool(recipient: str, declared: Collection[str]) -> str | None:
    """The declared tool that a recipient means, decided by a closed list of spellings and never by similarity.

    The list: a declared name as it is; without the namespace ``functions.``, as built-in tools are called; with
    ``function.`` or ``/`` instead; with a content type glued to its end.

    Args:
        recipient: the name in the model's call, or a role that is not a role of harmony.
        declared: the full names of the tools, such as ``functions.get_weather`` or ``python``.

    Returns:
        The name of the only declared tool among these readings; None if there is none or more than one.

    Example:
        >>> declared = {"functions.bash", "functions.get_weather"}
        >>> declared_tool("functions/bashjson", declared)
        'functions.bash'
        >>> declared_tool("weather", declared)
    """
    if recipient in declared:
        return recipient
    found = {name for name in _readings(recipient) if name in declared}
    return found.pop() if len(found) == 1 else None


def _readings(recipient: str) -> Iterator[str]:
    for end in ("", *_CONTENT_TYPES):
        if not recipient.endswith(end):
            continue
        name = recipient[: len(recipient) - len(end)]
        yield name
        yield _NAMESPACE + name
        for spelling in _SPELLINGS:
            if name.startswith(spelling):
                yield _NAMESPACE + name[len(spelling) :]
