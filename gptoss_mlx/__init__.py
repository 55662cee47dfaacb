"""gpt-oss on Apple silicon: exact, scriptable, in a terminal people like.

    import gptoss_mlx as gptoss

    with gptoss.load("demo") as model:
        print(model.ask("What is 12+30?", effort="low").text)

Importing this is light: MLX is loaded when a name that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat import Chat as Chat
    from .config import ModelConfig as ModelConfig
    from .engine import Effort as Effort
    from .engine import Generation as Generation
    from .engine import GptOss as GptOss
    from .engine import load as load
    from .errors import GptOssError as GptOssError
    from .events import Done as Done
    from .events import Event as Event
    from .events import Preamble as Preamble
    from .events import Progress as Progress
    from .events import Reply as Reply
    from .events import Text as Text
    from .events import Thinking as Thinking
    from .events import Timings as Timings
    from .events import ToolCall as ToolCall
    from .events import ToolResult as ToolResult
    from .events import Usage as Usage
    from .sampling import SamplingParams as SamplingParams
    from .stream import Stream as Stream
    from .tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(["Chat"], "chat"),
    **dict.fromkeys(["ModelConfig"], "config"),
    **dict.fromkeys(["Effort", "Generation", "GptOss", "load"], "engine"),
    **dict.fromkeys(["GptOssError"], "errors"),
    **dict.fromkeys(
        [
            *("Done", "Event", "Preamble", "Progress", "Reply", "Text", "Thinking", "Timings", "ToolCall"),
            *("ToolResult", "Usage"),
        ],
        "events",
    ),
    **dict.fromkeys(["SamplingParams"], "sampling"),
    **dict.fromkeys(["Stream"], "stream"),
    **dict.fromkeys(["Tokenizer"], "tokenizer"),
}

__all__ = [
    "Chat",
    "Done",
    "Effort",
    "Event",
    "Generation",
    "GptOss",
    "GptOssError",
    "ModelConfig",
    "Preamble",
    "Progress",
    "Reply",
    "SamplingParams",
    "Stream",
    "Text",
    "Thinking",
    "Timings",
    "Tokenizer",
    "ToolCall",
    "ToolResult",
    "Usage",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
