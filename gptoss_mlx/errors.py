"""Every error the library raises on purpose, in one tree.

    GptOssError                   what is wrong, where, and the remedy, in one line
    ├── ModelNotFound             no such model here; the message names the command that gets it
    ├── CheckpointError           a checkpoint that cannot be read or trusted
    │   ├── ConfigError           config.json: names the field
    │   └── TokenizerError        tokenizer.json
    ├── FileWriteError            a file could not be saved; what stood there before is untouched
    ├── ConversionError           a conversion that did not take place; the source is untouched
    ├── DownloadError             the Hub did not give the file
    ├── NotEnoughMemory           will not fit; the message gives the figures
    ├── NotEnoughDisk
    ├── InvalidRequest            an argument out of range: names it, its value and the range
    │   ├── SchemaError           a schema, regex or choices that no answer can be kept to: names the place
    │   └── ContextFull           a prompt that leaves no place for an answer
    ├── HarmonyError              text or structure that the harmony format does not allow
    │   ├── RenderError           a conversation that cannot be rendered: names the message and the field
    │   └── ParseError            strict parsing met a malformed stream
    ├── OutputError               an answer that is not of the form asked for; has its text
    ├── ToolError                 a tool that cannot be declared or called
    ├── ChatFileError             a saved chat that cannot be read
    ├── CacheFileError            a saved prompt cache that cannot be read, or is of another model
    ├── ModelClosed               the model was closed
    └── ProcessForked             a model was used in a forked child of the process that loaded it

The library never catches these to print them: that happens once, at the edge of the command line, which
also maps them to exit codes.
"""

from __future__ import annotations

__all__ = [
    "CacheFileError",
    "ChatFileError",
    "CheckpointError",
    "ConfigError",
    "ContextFull",
    "ConversionError",
    "DownloadError",
    "FileWriteError",
    "GptOssError",
    "HarmonyError",
    "InvalidRequest",
    "ModelClosed",
    "ModelNotFound",
    "NotEnoughDisk",
    "NotEnoughMemory",
    "OutputError",
    "ParseError",
    "ProcessForked",
    "RenderError",
    "SchemaError",
    "TokenizerError",
    "ToolError",
]


class GptOssError(Exception):
    """The root of every error raised on purpose.

    Example:
        >>> try:
        ...     model.chat(effort="off")
        ... except GptOssError as error:
        ...     print(error)
        effort is 'off'; low, medium or high is needed (gpt-oss always thinks: low is the least)
    """


class ModelNotFound(GptOssError):
    """A model reference that resolves to nothing on this machine."""


class CheckpointError(GptOssError):
    """A checkpoint that is damaged, incomplete or of another kind. Names the file and the tensor."""


class ConfigError(CheckpointError):
    """A config.json value that is missing, unknown or inconsistent. Names the field."""


class TokenizerError(CheckpointError):
    """A tokenizer.json that cannot be used."""


class FileWriteError(GptOssError):
    """A file could not be written; the previous content, if any, is unchanged."""


class ConversionError(GptOssError):
    """A conversion that cannot take place. The source is never touched."""


class DownloadError(GptOssError):
    """The Hub could not be reached, or refused."""


class NotEnoughMemory(GptOssError):
    """The device cannot hold what was asked for. The message gives the figures and the remedy."""


class NotEnoughDisk(GptOssError):
    """The disk cannot hold what was asked for. The message gives the figures."""


class InvalidRequest(GptOssError, ValueError):
    """An argument out of range. Names the argument, its value and the allowed range."""


class SchemaError(InvalidRequest):
    """A form of answers that cannot be compiled: a schema, a regular expression or choices. Names the place."""


class ContextFull(InvalidRequest):
    """A prompt that leaves no place for an answer in the context. Names both lengths."""


class HarmonyError(GptOssError):
    """Something the harmony format does not allow."""


class RenderError(HarmonyError, ValueError):
    """A message or conversation that cannot be rendered. Names its position, the field and the allowed values."""


class ParseError(HarmonyError):
    """A token stream that strict parsing refuses. Names the token's position."""


class OutputError(GptOssError):
    """An answer that is not of the form asked for, mostly because it was cut short.

    Example:
        >>> brief = gptoss.SamplingParams(max_tokens=9)
        >>> try:
        ...     model.ask("A word", regex="a{99}", sampling=brief, max_thinking_tokens=0)
        ... except OutputError as error:
        ...     set(error.text) <= {"a"}
        True
    """

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text
        """As far as it came."""


class ToolError(GptOssError):
    """A tool that cannot be declared, or a call to it that failed."""


class ChatFileError(GptOssError):
    """A saved chat that is damaged or of a newer version."""


class CacheFileError(GptOssError):
    """A saved prompt cache that is damaged, of a newer version or of another model."""


class ModelClosed(GptOssError):
    """A request to a model after ``close()``."""


class ProcessForked(GptOssError):
    """A model was used in a forked child of the process that loaded it: MLX cannot be used there."""
