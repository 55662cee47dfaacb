"""gpt-oss on Apple silicon: exact, scriptable, in a terminal people like.

    import gptoss_mlx as gptoss

    with gptoss.load("demo") as model:
        print(model.ask("How many layers does gpt-oss-20b have?").text)

Importing this is light: MLX is loaded when a name that needs it is first used.

In the examples of the docstrings ``model`` is ``gptoss.load("demo")``, and ``directory`` the path of an empty one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import __all__ as _ERRORS

if TYPE_CHECKING:
    from .aio import AsyncChat as AsyncChat
    from .aio import AsyncGptOss as AsyncGptOss
    from .aio import AsyncStream as AsyncStream
    from .aio import load_async as load_async
    from .api import GptOss as GptOss
    from .api import load as load
    from .arguments import Effort as Effort
    from .chat.batch import BatchReply as BatchReply
    from .chat.chat import Chat as Chat
    from .chat.options import AnswerOptions as AnswerOptions
    from .chat.stream import Stream as Stream
    from .config import ModelConfig as ModelConfig
    from .engine.generation import Generation as Generation
    from .errors import CacheFileError as CacheFileError
    from .errors import ChatFileError as ChatFileError
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import ContextFull as ContextFull
    from .errors import ConversionError as ConversionError
    from .errors import DownloadError as DownloadError
    from .errors import FileWriteError as FileWriteError
    from .errors import GptOssError as GptOssError
    from .errors import HarmonyError as HarmonyError
    from .errors import InvalidRequest as InvalidRequest
    from .errors import MachineLost as MachineLost
    from .errors import ModelClosed as ModelClosed
    from .errors import ModelNotFound as ModelNotFound
    from .errors import NotEnoughDisk as NotEnoughDisk
    from .errors import NotEnoughMemory as NotEnoughMemory
    from .errors import OutputError as OutputError
    from .errors import ParseError as ParseError
    from .errors import ProcessForked as ProcessForked
    from .errors import RenderError as RenderError
    from .errors import SchemaError as SchemaError
    from .errors import TokenizerError as TokenizerError
    from .errors import ToolError as ToolError
    from .events import Done as Done
    from .events import Event as Event
    from .events import Preamble as Preamble
    from .events import Progress as Progress
    from .events import Reply as Reply
    from .events import Text as Text
    from .events import Thinking as Thinking
    from .events import Timings as Timings
    from .events import TokenLogprob as TokenLogprob
    from .events import ToolCall as ToolCall
    from .events import ToolResult as ToolResult
    from .events import Usage as Usage
    from .harmony.messages import Message as Message
    from .sampling import SamplingParams as SamplingParams
    from .tokenizer import Tokenizer as Tokenizer
    from .tools.toolbox import Tool as Tool

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(["AsyncChat", "AsyncGptOss", "AsyncStream", "load_async"], "aio"),
    **dict.fromkeys(["BatchReply"], "chat.batch"),
    **dict.fromkeys(["Chat"], "chat.chat"),
    **dict.fromkeys(["ModelConfig"], "config"),
    **dict.fromkeys(["Effort"], "arguments"),
    **dict.fromkeys(["GptOss", "load"], "api"),
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(
        [
            *("Done", "Event", "Preamble", "Progress", "Reply", "Text", "Thinking", "Timings", "ToolCall"),
            *("TokenLogprob", "ToolResult", "Usage"),
        ],
        "events",
    ),
    **dict.fromkeys(["Generation"], "engine.generation"),
    **dict.fromkeys(["AnswerOptions"], "chat.options"),
    **dict.fromkeys(["Message"], "harmony.messages"),
    **dict.fromkeys(["SamplingParams"], "sampling"),
    **dict.fromkeys(["Stream"], "chat.stream"),
    **dict.fromkeys(["Tokenizer"], "tokenizer"),
    **dict.fromkeys(["Tool"], "tools.toolbox"),
}

__all__ = [
    "AnswerOptions",
    "AsyncChat",
    "AsyncGptOss",
    "AsyncStream",
    "BatchReply",
    "CacheFileError",
    "Chat",
    "ChatFileError",
    "CheckpointError",
    "ConfigError",
    "ContextFull",
    "ConversionError",
    "Done",
    "DownloadError",
    "Effort",
    "Event",
    "FileWriteError",
    "Generation",
    "GptOss",
    "GptOssError",
    "HarmonyError",
    "InvalidRequest",
    "MachineLost",
    "Message",
    "ModelClosed",
    "ModelConfig",
    "ModelNotFound",
    "NotEnoughDisk",
    "NotEnoughMemory",
    "OutputError",
    "ParseError",
    "Preamble",
    "ProcessForked",
    "Progress",
    "RenderError",
    "Reply",
    "SamplingParams",
    "SchemaError",
    "Stream",
    "Text",
    "Thinking",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "TokenizerError",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "Usage",
    "__version__",
    "load",
    "load_async",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
